"""The TensorRT-RTX library, which builds engines without a GPU, and bundles to build from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.spec import HeadKind


@pytest.fixture(scope="session")
def rtx() -> Any:
    """The library; it exists for Linux and Windows on x86-64 alone."""
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


@pytest.fixture
def progress() -> Progress:
    return Progress(console=Console(quiet=True))


@pytest.fixture
def bundle_copy(exported: Callable[[HeadKind], Path], tmp_path: Path) -> Callable[..., Bundle]:
    """Factory: a copy of a real tiny bundle that a test may change."""

    def copy(kind: HeadKind = "autosam") -> Bundle:
        folder = tmp_path / f"{kind}.autosam"
        shutil.copytree(exported(kind), folder)
        return Bundle.open(folder)

    return copy
