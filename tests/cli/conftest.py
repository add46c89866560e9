"""An engine without a model: what the command line does around it, in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest

from autosam_deploy.runtime.backend import BackendInfo
from autosam_deploy.runtime.engine import Labels
from autosam_deploy.spec import PreprocessSpec, default_classes
from autosam_deploy.volumes.phantom import make_phantom
from autosam_deploy.volumes.slices import slices_along, stack_labels
from autosam_deploy.volumes.volume import Volume
from autosam_deploy.volumes.write import write_volume


class FakeEngine:
    """Labels bright voxels 1 in batches of 3 slices; `before` is called with every volume."""

    before: Callable[[Volume], None] = staticmethod(lambda volume: None)
    opened: int = 0

    def __init__(self) -> None:
        self.manifest = SimpleNamespace(
            name="fake",
            intended_use="tests",
            model=SimpleNamespace(preprocess=PreprocessSpec(), classes=default_classes(3)),
        )
        self.bundle = SimpleNamespace(manifest_sha256="0" * 64)
        self.notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, bundle: Path, **options: Any) -> Self:
        FakeEngine.opened += 1
        return cls()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(
            backend="fake",
            device="cpu",
            provider="none",
            precision="fp32",
            artefact="none",
            threads=1,
            reason="a test",
            versions={"fake": "1.0"},
            notes=self.notes,
        )

    def segment(
        self, volume: Volume, *, axis: Any, batch: Any, skip_flat: bool, progress: Any
    ) -> Labels:
        FakeEngine.before(volume)
        self.notes = ("learnt something",)
        stack = slices_along(volume.array, axis)
        for done in range(3, len(stack) + 3, 3):
            progress(min(done, len(stack)), len(stack))
        labels = (stack > np.median(stack)).astype(np.uint8)
        skipped = 2 if skip_flat else 0
        return Labels(stack_labels(labels, axis), volume.geometry, volume.name, skipped=skipped)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeEngine]:
    """Put the engine without a model in the place of the real one."""
    monkeypatch.setattr(FakeEngine, "before", staticmethod(lambda volume: None))
    monkeypatch.setattr(FakeEngine, "opened", 0)
    monkeypatch.setattr("autosam_deploy.cli.labelling.Engine", FakeEngine)
    return FakeEngine


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """A folder of three phantoms: heart_001.nii.gz to heart_003.nii.gz."""
    for seed in (1, 2, 3):
        image, _ = make_phantom(seed, shape=(4, 30, 26))
        write_volume(tmp_path / "in" / f"{image.name}.nii.gz", image)
    return tmp_path / "in"
