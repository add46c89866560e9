"""What runs a tapped graph: one child of `TapRunner` for every backend, see `table.py`.

`_choose` says which of the bundle's graphs the backend would run, `_open` loads the tapped copy of
it or builds an engine from it, `_run` gives the values of the names asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendError
from autosam_deploy.runtime.backend import BackendInfo, Request


class TapRunner(ABC):
    """Runs a tapped graph on one backend; `info` is set once it is open."""

    #: The backend's name in `runtime.table`.
    name: str

    def __init__(self, bundle: Bundle, request: Request) -> None:
        """Choose the graph that the backend would run.

        Raises:
            BackendError: the backend, device or precision is not there.
        """
        self.bundle = bundle
        self.request = request
        self.info: BackendInfo | None = None
        self.artefact = self._choose()

    @abstractmethod
    def _choose(self) -> Artefact:
        """Return the graph among the bundle's artefacts that the request leads to."""

    @abstractmethod
    def _open(self, graph: Path) -> BackendInfo:
        """Load the tapped graph."""

    @abstractmethod
    def _run(
        self, slices: NDArray[np.float32], names: tuple[str, ...]
    ) -> Mapping[str, NDArray[Any]]:
        """Compute named outputs of raw slices (B, 1, H, W)."""

    def _graph(self, info: BackendInfo) -> Artefact:
        """Return the graph that a backend says it took."""
        graphs = [a for a in self.bundle.manifest.artefacts if a.kind == "onnx"]
        return next(a for a in graphs if a.file.path == info.artefact)

    def _close(self) -> None:  # noqa: B027 - most runtimes free themselves
        """Release what `_open` took."""

    @contextmanager
    def opened(self, graph: Path) -> Iterator[BackendInfo]:
        """Load a tapped graph for the length of the block.

        Raises:
            BackendError: it cannot be loaded.
        """
        self.info = self._open(graph)
        try:
            yield self.info
        finally:
            self.info = None
            self._close()

    def run(
        self, slices: NDArray[np.float32], values: Mapping[str, str]
    ) -> dict[str, NDArray[Any]]:
        """Return the value of every boundary, in the dtype that the graph has there.

        Args:
            slices: raw (B, 1, H, W).
            values: boundary -> output, as `tapped_graph` gives them.

        Raises:
            OutOfMemoryError: the batch and its taps do not fit.
            BackendError: not open, or the runtime failed.
        """
        if self.info is None:
            raise BackendError("the tapped graph is not loaded", todo="open it first")
        found = self._run(slices, tuple(values.values()))
        return {name: found[value] for name, value in values.items()}
