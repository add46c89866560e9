"""Contexts of both families, and TensorRT-RTX's cache of kernels that it compiles while it runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from autosam_deploy.errors import OutputError
from autosam_deploy.files import atomic_file
from autosam_deploy.runtime.nvidia.plan import Plan

_LOG = logging.getLogger(__name__)


class Contexts:
    """Makes execution contexts of a plan. `notes` says what became of graphs and cache."""

    def __init__(self, plan: Plan, *, sm: int, graphs: bool, folder: Path | None) -> None:
        """Prepare.

        Args:
            plan: the engine.
            sm: compute capability of the device.
            graphs: whether CUDA graphs are asked for.
            folder: where RTX keeps compiled kernels from one process to the next; None for nowhere.
        """
        self._plan = plan
        self._module = plan.choice.module
        self._strategy = self._module.ExecutionContextAllocationStrategy.USER_MANAGED
        self._config: Any = None
        self._cache: Any = None
        self._path: Path | None = None
        self.notes: tuple[str, ...] = ()
        #: Whether lanes record graphs themselves; RTX does it inside.
        self.lanes_record = graphs and plan.choice.info.family != "tensorrt_rtx"
        if plan.choice.info.family == "tensorrt_rtx":
            self._configure(graphs=graphs)
            self._open_cache(folder, f"{plan.choice.info.key[:16]}-sm{sm}.rtxcache")
        elif folder is not None:
            self.notes = ("TensorRT compiles nothing while it runs: no runtime cache is needed",)

    def _configure(self, *, graphs: bool) -> None:
        self._config = self._plan.engine.create_runtime_config()
        self._config.set_execution_context_allocation_strategy(self._strategy)
        if graphs:
            self._config.cuda_graph_strategy = self._module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE

    def _open_cache(self, folder: Path | None, name: str) -> None:
        if folder is None:
            self.notes = ("no runtime cache: kernels are compiled in the first runs",)
            return
        self._path = folder / name
        self._cache = self._config.create_runtime_cache()
        found = "new"
        try:
            if self._cache.deserialize(self._path.read_bytes()):
                found = "read"
            else:
                found = "of another device or driver, made anew"
        except FileNotFoundError:
            pass
        except OSError as error:
            found = f"cannot be read ({error.strerror}), made anew"
        self._config.set_runtime_cache(self._cache)
        self.notes = (f"runtime cache '{self._path}': {found}",)

    def create(self) -> Any:
        """Return a context without activation memory, or None if the library refuses."""
        return self._plan.engine.create_execution_context(self._config or self._strategy)

    def close(self) -> None:
        """Write the cache; what cannot be written costs the next process time and nothing else."""
        try:
            if self._cache is not None and self._path is not None:
                content = bytes(memoryview(self._cache.serialize()))
                with atomic_file(self._path) as temporary:
                    temporary.write_bytes(content)
        except (OutputError, RuntimeError, TypeError) as error:
            _LOG.warning("the runtime cache is not kept: %s", error)
        finally:
            self._cache = self._config = None
