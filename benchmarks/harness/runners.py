"""What is measured: one way to run one model, behind two functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.manifest import Precision

Slices = NDArray[np.float32]
Labels = NDArray[np.uint8]
Outputs = dict[str, NDArray[Any]]

#: Loads a runner, in the process that is going to be measured.
ENGINE_LOADER = "autosam_deploy.benchmarks.harness.runners:load_engine"


@dataclass(frozen=True)
class Loading:
    """What a loader needs to know.

    folder: for its own files. plain: a plain ONNX export. options: of the backend, by words.
    """

    bundle: Path
    backend: str
    precision: Precision | Literal["auto"] = "auto"
    device: str = "auto"
    threads: int | None = None
    folder: Path = Path()
    plain: Path | None = None
    options: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Loading:
        """Undo `as_dict`."""
        plain = value.pop("plain")
        return cls(
            bundle=Path(value.pop("bundle")),
            folder=Path(value.pop("folder")),
            plain=None if plain is None else Path(plain),
            **value,
        )


@dataclass
class Runner:
    """One loaded model.

    labels: raw slices (B, 1, H, W) -> labels (B, H, W), as a user calls it; this is timed.
    outputs: every output by name, unchecked: what is wrong with them is for parity to say.
    info: as `BackendInfo.as_dict`. device_seconds: of the last call on the device's own clock.
    """

    labels: Callable[[Slices], Labels]
    outputs: Callable[[Slices], Outputs]
    info: dict[str, Any]
    device_seconds: Callable[[], float | None] = field(default=lambda: None)


def load_engine(loading: Loading) -> Runner:
    """Load a bundle's row of the table of backends.

    Raises:
        BackendError: the backend, device or precision is not there.
    """
    from autosam_deploy.runtime.engine import Engine

    # Hashes were checked once, before the first row.
    engine = Engine.open(
        loading.bundle,
        backend=loading.backend,
        device=loading.device,
        precision=loading.precision,
        threads=loading.threads,
        verify=False,
        options=loading.options,
    )
    names = tuple(engine.manifest.model.outputs)

    def outputs(slices: Slices) -> Outputs:
        # The public way refuses outputs that break the contract with an error. Here they are what
        # is looked for, each kind by its name.
        return engine.backend._run(np.ascontiguousarray(slices), names)

    def device_seconds() -> float | None:
        found = getattr(engine.backend, "device_seconds", None)
        return float(found) if found is not None else None

    return Runner(engine.labels, outputs, engine.info.as_dict(), device_seconds)
