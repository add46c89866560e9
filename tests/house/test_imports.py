"""Who may import whom: the table of docs/ARCHITECTURE.md, checked on every import statement."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BOTTOM = {
    *("errors", "extras", "files", "cores", "sizes"),
    *("strict", "encoders", "spec", "autosam_deploy"),
}
SHARED = BOTTOM | {"volumes", "metrics", "parity", "bundle"}

#: Room -> rooms that it may import (itself always).
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "extras": {"errors"},
    "files": {"errors"},
    "cores": set(),
    "sizes": {"errors"},
    "strict": {"errors"},
    "encoders": {"errors", "strict"},
    "spec": {"errors", "strict", "encoders"},
    "autosam_deploy": set(),
    "volumes": BOTTOM,
    "metrics": BOTTOM | {"volumes"},
    "parity": BOTTOM | {"metrics"},
    "bundle": BOTTOM,
    "models": BOTTOM,
    "kernels": BOTTOM | {"models"},
    "fused": BOTTOM | {"models", "kernels"},
    "training": SHARED | {"models", "fused"},
    "runtime": SHARED,
    "runtime.pyt": SHARED | {"runtime", "models", "fused"},
    "runtime.pyt_half": SHARED | {"models", "fused"},
    "cli": SHARED | {"runtime", "training", "models", "fused"},
    "export": SHARED | {"models", "fused", "runtime", "cli.shell"},
    "benchmarks": SHARED | {"models", "fused", "kernels", "runtime", "training", "cli.shell"},
}
DOTTED = re.compile(r"autosam_deploy(\.[a-z_]\w*)+")
#: Packages that the core install leaves out, and the rooms that may import them at the top.
HEAVY = {
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "safetensors",
    "segment_anything",
    "monai",
    "scipy",
    "matplotlib",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "cuda",
    "triton",
}
TORCH_ROOMS = {"models", "fused", "kernels", "training"}
TORCH_FILES = {
    "export/graph.py",
    "export/pipeline.py",
    "export/checks/taps/reference.py",
    "export/truth.py",
    # Plain torch code; the command line imports it where it is needed.
    "benchmarks/baselines/contrastive.py",
    "benchmarks/baselines/network.py",
    "benchmarks/baselines/unet.py",
    "benchmarks/efficiency/fits.py",
    "benchmarks/efficiency/material.py",
    "benchmarks/efficiency/pretraining.py",
    "benchmarks/efficiency/study.py",
    "benchmarks/tune_kernels.py",
}
#: Rooms that may load them inside functions, and the only modules elsewhere that may.
LAZY_ROOMS = TORCH_ROOMS | {"export", "benchmarks"}
LAZY_MODULES = {
    "runtime.pyt": {"torch", "safetensors", "triton"},
    "runtime.pyt_pipeline": {"torch"},
    "runtime.ov_model": {"openvino"},
    "runtime.nvidia.cudart": {"cuda"},
    "cli.train": {"torch", "segment_anything", "monai"},
    "cli.boxplot": {"matplotlib"},
    "metrics.surface": {"torch", "monai", "scipy"},
}


def source_files() -> Iterator[Path]:
    for folder in ("autosam_deploy", "export", "benchmarks"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def dotted(path: Path) -> str:
    """`autosam_deploy/runtime/ort.py` -> `runtime.ort`; `export/cli.py` -> `export.cli`."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "autosam_deploy":
        parts = parts[1:]
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts) or "autosam_deploy"


def room_of(module: str) -> str:
    return module if module in MAY_IMPORT else module.split(".")[0]


def imported(tree: ast.AST, package: str = "autosam_deploy") -> Iterator[str]:
    """Every module that is imported, in functions and under TYPE_CHECKING too.

    Dotted names in strings count: tables of backends import by name.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and DOTTED.fullmatch(str(node.value)):
            yield str(node.value)


def violations(module: str, source: str) -> list[str]:
    """Imports that the table forbids."""
    room = room_of(module)
    allowed = MAY_IMPORT[room] | {room}
    package = ".".join(["autosam_deploy", *module.split(".")[:-1]])
    found = []
    for name in imported(ast.parse(source), package):
        if not name.startswith("autosam_deploy."):
            continue
        target = name.removeprefix("autosam_deploy.")
        if target == "__version__":
            continue
        if not any(target == one or target.startswith(f"{one}.") for one in allowed):
            found.append(name)
    return found


def heavy_at_top(source: str) -> list[str]:
    """Optional packages that a module imports when it is imported itself."""
    tree = ast.parse(source)
    found = []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [name for name in imported(node) if name.split(".")[0] in HEAVY]
    return found


def heavy_anywhere(source: str) -> set[str]:
    """Optional packages that a module loads at any time, by `import` or through `require`."""
    tree = ast.parse(source)
    names = set(imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("require", "import_module")
        ):
            names |= {str(one.value) for one in node.args if isinstance(one, ast.Constant)}
    return {name.split(".")[0] for name in names} & HEAVY


@pytest.mark.parametrize("path", list(source_files()), ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms(path: Path) -> None:
    source = path.read_text("utf-8")
    assert violations(dotted(path), source) == []
    name = path.relative_to(ROOT).as_posix()
    if room_of(dotted(path)) not in TORCH_ROOMS and name not in TORCH_FILES:
        assert heavy_at_top(source) == []
    if room_of(dotted(path)) not in LAZY_ROOMS:
        assert heavy_anywhere(source) <= LAZY_MODULES.get(dotted(path), set())


def test_every_room_is_in_the_table() -> None:
    assert {room_of(dotted(path)) for path in source_files()} <= set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("runtime.ort", "from autosam_deploy.export.cli import main"),
        ("volumes.read", "def f():\n    from autosam_deploy.runtime import engine"),
        ("models.encoders.vit", "import autosam_deploy.fused.segmenter"),
        ("runtime.engine", "from autosam_deploy.models.segmenter import Segmenter"),
        ("benchmarks.peers", "from autosam_deploy.export.graph import export_onnx"),
        ("export.pipeline", "from autosam_deploy.benchmarks import peers"),
        ("export.cli", "from autosam_deploy.cli.predict import main"),
        ("cli.demo", "import autosam_deploy.export.cli"),
        ("runtime.ort", "from ..export.cli import main"),
        ("spec", "from . import runtime"),
        ("runtime.table", "BACKENDS = {'x': 'autosam_deploy.benchmarks.peers.table'}"),
    ],
)
def test_checker_finds_violations(module: str, source: str) -> None:
    assert violations(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("runtime.ort", "from .backend import Backend"),
        ("models.heads.linear", "from ..states import seeded_state"),
        ("runtime.engine", "text = 'see autosam_deploy.export.cli for more'"),
    ],
)
def test_checker_lets_the_allowed_pass(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_checker_finds_heavy_imports() -> None:
    inside = "def f():\n    import torch\n    require('onnx.helper', extra='export')\n"
    assert heavy_at_top("import torch\n") == ["torch"]
    assert heavy_at_top(inside) == []
    assert heavy_anywhere(inside) == {"torch", "onnx"}
    assert heavy_anywhere("import numpy\nrequire(name, extra='export')\n") == set()
