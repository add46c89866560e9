from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from autosam_deploy.files import sha256_file, write_json
from autosam_deploy.spec import HeadKind


@pytest.fixture
def bundle_copy(exported: Callable[[HeadKind], Path], tmp_path: Path) -> Path:
    """A copy of a real tiny bundle that a test may change."""
    return Path(shutil.copytree(exported("linear"), tmp_path / "m.autosam"))


@pytest.fixture
def scale() -> Callable[..., None]:
    """Factory: scale(bundle, "model.fp16.onnx", tensor, 1.2) changes a graph; hashes hold."""

    def change(folder: Path, name: str, tensor: str, factor: float) -> None:
        path = folder / name
        model = onnx.load(path)
        (found,) = [one for one in model.graph.initializer if one.name == tensor]
        array = numpy_helper.to_array(found)
        scaled = (array * np.asarray(factor, array.dtype)).astype(array.dtype)
        found.CopyFrom(numpy_helper.from_array(scaled, tensor))
        onnx.save(model, path)
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
        (entry,) = [a for a in manifest["artefacts"] if a["file"]["path"] == name]
        entry["file"] |= {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        write_json(folder / "manifest.json", manifest)

    return change
