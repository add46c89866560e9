"""Taps on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.export.checks.taps.runner import TapRunner
from autosam_deploy.runtime.backend import BackendInfo, parse_device
from autosam_deploy.runtime.ort import OrtBackend
from autosam_deploy.runtime.providers import (
    PROVIDERS,
    import_onnxruntime,
    open_session,
    run_session,
)


class OrtTaps(TapRunner):
    """ONNX Runtime on the provider that the backend `onnxruntime` takes."""

    name = "onnxruntime"

    def _choose(self) -> Artefact:
        # The backend itself says which graph it takes on which device.
        backend = OrtBackend(self.bundle, self.request)
        self._chosen = backend.info
        backend.close()
        return self._graph(self._chosen)

    def _open(self, graph: Path) -> BackendInfo:
        ort, info = import_onnxruntime(), self._chosen
        self._session = open_session(
            ort,
            graph,
            provider={name: word for word, name in PROVIDERS.items()}[info.provider],
            index=parse_device(info.device)[1],
            threads=info.threads,
        )
        return info

    def _run(
        self, slices: NDArray[np.float32], names: tuple[str, ...]
    ) -> Mapping[str, NDArray[Any]]:
        return run_session(self._session, slices, names)

    def _close(self) -> None:
        del self._session
