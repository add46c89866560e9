"""Bundles to serve: real ones, with engines whose plans are any bytes, and with external data."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from autosam_deploy.bundle.manifest import MANIFEST, Artefact, EngineInfo, FileRef, Precision
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.spec import HeadKind

PROFILE = {"B": (1, 2, 8), "H": (16, 96, 256), "W": (16, 96, 256)}


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest's JSON in place."""
    content = json.loads((folder / MANIFEST).read_text("utf-8"))
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content), "utf-8")


def reference(folder: Path, path: str) -> FileRef:
    content = (folder / path).read_bytes()
    return FileRef(path=path, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


def add_engine(folder: Path, *, precision: Precision = "fp16", **changes: Any) -> str:
    """Add an engine of arbitrary bytes and return its path in the bundle."""
    graph = Bundle.open(folder).find("onnx", precision)
    fields = {
        "family": "tensorrt",
        "version": "10.13.3.9",
        "platform": "linux-x86_64",
        "compute_capabilities": (89,),
        "graph_sha256": graph.file.sha256 if graph is not None else "0" * 64,
        "profile": PROFILE,
        "layers": 3,
        "low_share": 0.5,
        "build_seconds": 1.0,
        **changes,
    }
    (folder / "engines").mkdir(exist_ok=True)
    number = len(list((folder / "engines").iterdir()))
    path = f"engines/{number}.{precision}.engine"
    (folder / path).write_bytes(b"plan \x00\xff\r\n" + bytes([number]) * 999)
    artefact = Artefact(
        kind="engine",
        precision=precision,
        file=reference(folder, path),
        engine=EngineInfo.made_of(**fields),
    )
    value = artefact.model_dump(mode="json", exclude_none=True)
    edit(folder, lambda content: content["artefacts"].append(value))
    return path


def keep_artefacts(folder: Path, *kept: tuple[str, str]) -> None:
    """Drop all artefacts but those of the named kinds and precisions."""

    def change(content: dict[str, Any]) -> None:
        content["artefacts"] = [
            one for one in content["artefacts"] if (one["kind"], one["precision"]) in kept
        ]

    edit(folder, change)


def split_weights(folder: Path, precision: Precision = "fp32") -> None:
    """Write a graph anew with its weights in a file beside it, as graphs over 1.5 GB have them."""
    path = f"model.{precision}.onnx"
    model = onnx.load(folder / path)
    (folder / path).unlink()
    onnx.save(
        model,
        folder / path,
        save_as_external_data=True,
        location=f"{path}.data",
    )

    def change(content: dict[str, Any]) -> None:
        for one in content["artefacts"]:
            if one["file"]["path"] == path:
                one["file"] = reference(folder, path).model_dump(mode="json")
                one["external_data"] = reference(folder, f"{path}.data").model_dump(mode="json")

    edit(folder, change)


@pytest.fixture
def bundle(exported: Callable[[HeadKind], Path], tmp_path: Path) -> Path:
    """A real bundle (fp32 and fp16 graphs of a tiny model) that a test may change."""
    folder = tmp_path / "heart.autosam"
    shutil.copytree(exported("linear"), folder)
    return folder


@pytest.fixture
def with_engine() -> Callable[..., str]:
    """Factory: with_engine(folder, precision="fp16", compute_capabilities=(89,), ...)."""
    return add_engine


@pytest.fixture
def keep() -> Callable[..., None]:
    """Factory: keep(folder, ("onnx", "fp32"), ...)."""
    return keep_artefacts


@pytest.fixture
def external() -> Callable[..., None]:
    """Factory: external(folder) moves the fp32 graph's weights into a file of their own."""
    return split_weights


@pytest.fixture
def edit_manifest() -> Callable[..., None]:
    """Factory: edit_manifest(folder, change)."""
    return edit
