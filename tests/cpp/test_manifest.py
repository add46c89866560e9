"""The two readers of manifests, in Python and C++, take and refuse the same."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autosam_deploy.bundle.manifest import EngineInfo
from autosam_deploy.bundle.reader import parse_manifest
from autosam_deploy.errors import BundleError
from autosam_deploy.spec import HeadKind

ROOT = Path(__file__).parents[2]
BUILD = Path(os.environ.get("AUTOSAM_CPP_BUILD", ROOT / "cpp" / "build" / "release"))
DATA = ROOT / "cpp" / "tests" / "data"

#: What takes the place of every value in turn.
OTHERS: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 1.0, 0.5, 2**63 - 1, 2**63),
    *("", "x", "fp32", "a/b", "0" * 64, [], [1], [0, 1, 2], {}, {"a": "b"}),
)
#: To Python, integers have no end; the host's end at 63 bits, those of the image's size at 31.
LONG = "expected an integer from"


def python_takes(text: str) -> bool:
    try:
        parse_manifest(text)
    except BundleError:
        return False
    return True


def host_says(texts: list[str]) -> list[str]:
    tool = BUILD / "tests" / "check_manifests"
    if not tool.is_file():
        pytest.skip(f"no '{tool}': build the host with cpp/ci.sh")
    done = subprocess.run(
        tool, input="\n".join(texts) + "\n", capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def with_engine(manifest: dict[str, Any]) -> dict[str, Any]:
    """Add an engine with everything that one may have."""
    graph = next(a for a in manifest["artefacts"] if a["kind"] == "onnx")
    fields: dict[str, Any] = {
        "family": "tensorrt_rtx",
        "version": "1.7.1",
        "platform": "linux-x86_64",
        "compute_capabilities": (89,),
        "graph_sha256": graph["file"]["sha256"],
        "profile": {"B": (1, 2, 4), "H": (16, 64, 64), "W": (16, 64, 64)},
        "workspace_bytes": 1 << 30,
        "activation_bytes": 5,
        "layers": 7,
        "low_share": 0.5,
        "build_seconds": 1.5,
        "log": {"path": "engines/e.log", "sha256": "a" * 64, "bytes": 3},
        "key": "",
    }
    fields["key"] = EngineInfo.model_construct(**fields).engine_key()
    file = {"path": "engines/e.engine", "sha256": "b" * 64, "bytes": 4}
    engine = {"kind": "engine", "precision": "fp16", "file": file, "engine": fields}
    return {**manifest, "artefacts": [*manifest["artefacts"], engine]}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, but one item alone of lists whose items are all alike."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value) if path == ("artefacts",) else min(1, len(value))):
            yield from places(value[index], (*path, index))


def changed(manifest: dict[str, Any], path: tuple[Any, ...]) -> Iterator[tuple[str, str]]:
    """Manifests with another value, without the key, and with one more key at a place."""
    for what in ("other", "gone", "more"):
        for other in OTHERS if what == "other" else (None,):
            edited = copy.deepcopy(manifest)
            parent: Any = edited
            for part in path[:-1]:
                parent = parent[part]
            if what == "other":
                parent[path[-1]] = other
            elif what == "gone":
                del parent[path[-1]]
            elif isinstance(parent[path[-1]], dict):
                parent[path[-1]]["one_more"] = 1
            else:
                continue
            yield f"{'.'.join(map(str, path))} {what} {other!r}", json.dumps(edited)


def compare(manifest: dict[str, Any], *below: str | int) -> dict[bool, int]:
    """Compare the readers on what can be made of a manifest below a place; count the verdicts."""
    chosen = [path for path in places(manifest) if path[: len(below)] == below]
    cases = [case for path in chosen for case in changed(manifest, path)]
    cases.insert(0, ("unchanged", json.dumps(manifest)))
    said = host_says([text for _, text in cases])
    assert said[0] == "ok"
    assert len(said) == len(cases)
    counts = {True: 0, False: 0}
    wrong = []
    for (name, text), host in zip(cases, said, strict=True):
        takes = python_takes(text)
        counts[takes] += 1
        long = takes and LONG in host and name.endswith((str(2**63), str(2**63 - 1)))
        if takes != (host == "ok") and not long:
            wrong.append((name, takes, host))
    assert wrong == []
    return counts


def test_readers_agree_on_every_field(exported: Callable[[HeadKind], Path]) -> None:
    text = (exported("linear") / "manifest.json").read_text("utf-8")
    counts = compare(with_engine(json.loads(text)))
    # Some changes are allowed (another name, a missing default); most are not.
    assert counts[True] > 100
    assert counts[False] > 1000  # of some two thousand


@pytest.mark.parametrize("kind", ["autosam", "cnn"])
def test_readers_agree_on_other_heads(exported: Callable[[HeadKind], Path], kind: HeadKind) -> None:
    text = (exported(kind) / "manifest.json").read_text("utf-8")
    assert compare(json.loads(text), "model", "head")[False] > 50


def test_readers_agree_on_preprocessing() -> None:
    manifest = json.loads((DATA / "threshold.autosam" / "manifest.json").read_text("utf-8"))
    manifest["model"]["preprocess"] = {
        "intensity": "window",
        "window_level": 40,
        "window_width": 400,
        "pixel_mean": [1, 2.5, 3],
        "pixel_std": [1, 2, 3],
        "resize": "longest-side",
        "slice_axis": "i",
    }
    manifest["artefacts"][1]["typing"] = {
        "range_limit": 10,
        "share": 0.5,
        "islands": [{"node": "a", "reason": "b", "largest": 1}, {"node": "a", "reason": "b"}],
    }
    assert compare(manifest, "model", "preprocess")[True] > 20
    assert compare(manifest, "artefacts", 1, "typing")[False] > 50
