"""Graphs with taps, and what runs them: one row in `RUNNERS` for every backend.

A tapped graph is a copy of a bundle's graph whose boundaries (see `fused.taps`) are outputs too. A
runner for another backend is a child of `TapRunner`: `_choose` says which of the bundle's graphs
the backend would run, `_open` loads the tapped copy of it or builds an engine from it, `_run` gives
the values of the names asked for.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendError, BundleError, ExportError, OutputError
from autosam_deploy.extras import require
from autosam_deploy.runtime.backend import BackendInfo, Request, parse_device
from autosam_deploy.runtime.ort import OrtBackend
from autosam_deploy.runtime.providers import (
    PROVIDERS,
    import_onnxruntime,
    open_session,
    run_session,
)

#: The boundary whose value is a graph's output, and that output's name.
_OUTPUT, _LOGITS = "output", "logits"


@contextmanager
def tapped_graph(
    bundle: Bundle, artefact: Artefact, names: tuple[str, ...]
) -> Iterator[tuple[Path, dict[str, str]]]:
    """Write a graph with taps to a temporary folder, which lasts as long as the block.

    Args:
        bundle: an opened bundle.
        artefact: one of its graphs; weights beside it are linked where the file system can.
        names: boundaries.

    Yields:
        The graph's file, and for every boundary the name of the output that holds it.

    Raises:
        ExportError: the graph does not name its boundaries.
        BundleError: the graph cannot be read.
        OutputError: no room for the copy.
        MissingExtraError: onnx is not installed.
    """
    onnx = require("onnx", extra="export", feature="looking into a graph")
    path = bundle.file(artefact.file)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        # protobuf raises a class of its own that changes between releases.
        raise BundleError(f"'{path}' is no ONNX graph", got=str(error)) from error
    values = _add_outputs(model, names, path)
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="autosam-taps-", ignore_cleanup_errors=True)
            )
            copy = Path(folder) / path.name
            onnx.save(model, copy)
            if artefact.external_data is not None:
                _link(bundle.file(artefact.external_data), copy.parent)
        except OSError as error:
            raise OutputError(
                f"cannot write a copy of '{path.name}' with taps",
                got=f"{error.strerror or error} in '{tempfile.gettempdir()}'",
                expected=f"room for {path.stat().st_size / 1e6:.0f} MB",
                todo="free space, or name another folder in TMPDIR",
            ) from error
        del model
        yield copy, values


def _add_outputs(model: Any, names: tuple[str, ...], path: Path) -> dict[str, str]:
    """Make the boundaries outputs and return boundary -> output."""
    graph = model.graph
    there = {name for node in graph.node for name in node.output}
    outputs = {value.name for value in graph.output}
    described = {value.name: value for value in graph.value_info}
    values: dict[str, str] = {}
    for name in names:
        value = _LOGITS if name == _OUTPUT and _LOGITS in outputs else name
        if value not in there:
            raise ExportError(
                f"'{path}' does not name the boundaries of its blocks",
                got=f"no value '{value}'",
                expected=", ".join(names),
                todo="it comes from an older version: export the bundle again",
            )
        values[name] = value
        if value not in outputs:
            if value in described:
                graph.output.append(described[value])
            else:
                graph.output.add().name = value
    kept = [value for value in graph.value_info if value.name not in set(values.values())]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    return values


def _link(data: Path, folder: Path) -> None:
    """Put the weights beside the copy: no gigabytes are written where a link will do."""
    try:
        os.link(data, folder / data.name)
    except OSError:
        shutil.copyfile(data, folder / data.name)


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


class OrtTaps(TapRunner):
    """ONNX Runtime on the provider that the backend `onnxruntime` takes."""

    name = "onnxruntime"

    def _choose(self) -> Artefact:
        # The backend itself says which graph it takes on which device.
        backend = OrtBackend(self.bundle, self.request)
        self._chosen = backend.info
        backend.close()
        graphs = [a for a in self.bundle.manifest.artefacts if a.kind == "onnx"]
        return next(a for a in graphs if a.file.path == self._chosen.artefact)

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


#: Backend -> what runs tapped graphs on it.
RUNNERS: dict[str, type[TapRunner]] = {OrtTaps.name: OrtTaps}
