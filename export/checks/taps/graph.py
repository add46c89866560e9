"""Tapped graphs: copies of a bundle's graph whose boundaries (see `fused.taps`) are outputs too."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BundleError, ExportError, OutputError
from autosam_deploy.extras import require

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
