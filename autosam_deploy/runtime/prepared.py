"""Graphs as ONNX Runtime's CPU provider wants them, kept from one process to the next.

Most of the time that a session takes to load goes into rewriting the graph and packing its weights.
Both can be stored. Packed weights are then mapped from the file, so that processes share them. What
is stored fits one processor and one version, which are in the folder's name.
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.errors import BackendError, OutputError
from autosam_deploy.files import atomic_folder, private_folder, sha256_file, write_json

_GRAPH, _WEIGHTS, _RECORD = "model.onnx", "model.weights", "record.json"
_CPUINFO = Path("/proc/cpuinfo")


class Prepared:
    """The prepared form of one graph in one folder. `notes` says what became of it."""

    def __init__(self, ort: Any, graph: Path, artefact: Artefact, folder: Path) -> None:
        """Take what it is made of; `graph` is the artefact's file.

        Args:
            ort: the `onnxruntime` module.
            graph: the bundle's graph.
            artefact: whose hash names the graph.
            folder: for all graphs; below it each has a folder for this user alone.
        """
        self._ort, self._graph = ort, graph
        name = f"{artefact.file.sha256[:16]}-onnxruntime-{ort.__version__}-{_processor()}"
        self._place, problem = private_folder(folder / name)
        self.notes: tuple[str, ...] = () if self._place else (f"no prepared graph ({problem})",)

    def find(self, options: Any) -> Path | None:
        """Return the prepared graph, made now if it is not there.

        Args:
            options: session options; they are changed for preparing, so they are used up.

        Returns:
            The graph to load without further optimisation, or None where it cannot be kept.

        Raises:
            BackendError: the bundle's graph cannot be loaded.
        """
        if self._place is None:
            return None
        place = self._place / "graph"
        state = "used"
        if not _is_whole(place):
            state = "made"
            try:
                with atomic_folder(place) as temporary:
                    self._prepare(temporary, options)
            except OutputError as error:
                self.notes = (f"no prepared graph ({error})",)
                return None
        self.notes = (f"prepared graph '{place}' ({state})",)
        return place / _GRAPH

    def _prepare(self, folder: Path, options: Any) -> None:
        options.optimized_model_filepath = str(folder / _GRAPH)
        for name, value in (
            ("optimized_model_external_initializers_file_name", _WEIGHTS),
            ("optimized_model_external_initializers_min_size_in_bytes", "1024"),
            ("save_external_prepacked_constant_initializers", "1"),
        ):
            options.add_session_config_entry(f"session.{name}", value)
        try:
            self._ort.InferenceSession(
                str(self._graph), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:
            # ONNX Runtime's exceptions share no base class of their own.
            raise BackendError(
                f"ONNX Runtime cannot load '{self._graph.name}'", got=str(error)[:300]
            ) from error
        # A graph of small tensors alone has no second file.
        names = [name for name in (_GRAPH, _WEIGHTS) if (folder / name).is_file()]
        write_json(folder / _RECORD, {name: sha256_file(folder / name) for name in names})


def _is_whole(place: Path) -> bool:
    """Tell whether a prepared graph is there as it was written."""
    try:
        record = json.loads((place / _RECORD).read_text("utf-8"))
        return _GRAPH in record and all(
            sha256_file(place / name) == digest for name, digest in record.items()
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def _processor() -> str:
    """Return a short name of what this processor can do: a folder may be shared by machines."""
    try:
        lines = _CPUINFO.read_text("utf-8").splitlines()
    except OSError:
        lines = []
    # Of the first processor; clocks and core numbers are no part of it.
    words = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    facts = [next((line for line in lines if line.startswith(word)), "") for word in words]
    text = "\n".join([platform.machine(), platform.processor(), *facts])
    return hashlib.sha256(text.encode()).hexdigest()[:8]
