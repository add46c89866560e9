"""TensorRT and TensorRT-RTX, by hand, as far as the backend uses them; see `cuda.py`.

A plan is JSON: tensors with direction, element type and shape, the profile, bytes of weights.
"""

from __future__ import annotations

import enum
import json
import weakref
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

DataType = enum.Enum("DataType", "FLOAT HALF UINT8 INT64")
TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
Severity = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")
_KINDS = {"float32": "FLOAT", "float16": "HALF", "uint8": "UINT8", "int64": "INT64"}


class Tracked:
    """An object of the library: counted while it lives."""

    def __init__(self, gpu: Any) -> None:
        self.gpu = gpu
        with gpu.lock:
            gpu.objects.add(self)


class Runtime(Tracked):
    def __init__(self, gpu: Any, logger: Any) -> None:
        super().__init__(gpu)
        # As the real library does: the first logger stays until the last runtime is gone.
        others = [one for one in gpu.objects if isinstance(one, Runtime) and one is not self]
        self.logger = others[0].logger if others else weakref.proxy(logger)

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        try:
            facts = json.loads(plan)
        except ValueError:
            self.logger.log(Severity.ERROR, "magicTag\nassertion failed")
            return None
        if facts["weights"] > self.gpu.memory:
            self.logger.log(Severity.ERROR, "Error Code 2: OutOfMemory (Requested size was 9)")
            return None
        return CudaEngine(self.gpu, self.logger, facts)


class RtxRuntime(Runtime):
    def get_engine_validity(self, plan: bytes) -> tuple[Any, int]:
        verdict, bits = self.gpu.verdict
        return EngineValidity[verdict], bits


EngineValidity = enum.Enum("EngineValidity", "VALID SUBOPTIMAL INVALID")
Diagnostics = enum.Enum(
    "Diagnostics", {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4}
)


class RuntimeCache:
    """Accepts what it wrote itself."""

    def __init__(self) -> None:
        self.content = b"kernels:new"

    def deserialize(self, blob: bytes) -> bool:
        return blob.startswith(b"kernels:")

    def serialize(self) -> bytes:
        return self.content


class RuntimeConfig(Tracked):
    cuda_graph_strategy = "DISABLED"
    cache: Any = None
    strategy = "STATIC"

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True


class CudaEngine(Tracked):
    def __init__(self, gpu: Any, logger: Any, facts: dict[str, Any]) -> None:
        super().__init__(gpu)
        self.logger, self.facts = logger, facts
        self.num_io_tensors = len(facts["tensors"])
        self.num_optimization_profiles = facts["profiles"]
        self.contexts: weakref.WeakSet[Any] = weakref.WeakSet()

    def __del__(self) -> None:
        if len(self.contexts):
            self.gpu.blame("an engine went before its contexts")

    def get_tensor_name(self, index: int) -> str:
        return str(list(self.facts["tensors"])[index])

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[_KINDS[self.facts["tensors"][name][1]]]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode[self.facts["tensors"][name][0]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        dims = self.facts["tensors"][name][2]
        return tuple(-1 if isinstance(dim, str) else dim for dim in dims)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        dims, sizes = self.facts["tensors"][name][2], self.facts["profile"]
        return [tuple(sizes[d][at] if isinstance(d, str) else d for d in dims) for at in range(3)]

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self.gpu)

    def create_execution_context(self, how: Any) -> Any:
        if getattr(how, "strategy", how) != "USER_MANAGED":
            self.gpu.blame(f"a context that allocates by itself: {how}")
        if self.gpu.refuse_context:
            return None
        if len(self.contexts) >= self.gpu.most_contexts:
            self.logger.log(Severity.ERROR, "Error Code 2: OutOfMemory (no room for a context)")
            return None
        context = Context(self, how)
        self.contexts.add(context)
        return context


class Context(Tracked):
    def __init__(self, engine: CudaEngine, how: Any) -> None:
        super().__init__(engine.gpu)
        self.facts, self.logger, self.how = engine.facts, engine.logger, how
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.activations = (0, 0)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        sizes = zip("BHW", (shape[0], shape[2], shape[3]), strict=True)
        if any(
            not self.facts["profile"][a][0] <= n <= self.facts["profile"][a][2] for a, n in sizes
        ):
            self.gpu.blame(f"{shape} is outside the profile")
            return False
        self.shape, self.activations = tuple(shape), (0, 0)
        return True

    def infer_shapes(self) -> list[str]:
        return [] if self.shape else ["slices"]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.gpu.output_shapes:
            return self.gpu.output_shapes[name]
        sizes = {"B": self.shape[0], "H": self.shape[2], "W": self.shape[3]}
        return tuple(sizes.get(dim, dim) for dim in self.facts["tensors"][name][2])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        return int(np.prod(self.shape)) * 32

    def set_device_memory(self, address: int, count: int) -> None:
        self.activations = (address, count)

    def execute_async_v3(self, stream: int) -> bool:
        with self.gpu.lock:
            self.gpu.calls["execute"] += 1
            self.gpu.shapes.append(self.shape)
            if self.shape[0] > self.gpu.most_slices:
                self.logger.log(Severity.ERROR, "Error Code 2: OutOfMemory (Requested size was 7)")
                return False
            if self.gpu.refuse_run:
                self.logger.log(Severity.ERROR, self.gpu.refuse_run)
                return False
            if getattr(self.gpu.current, "index", 0) not in range(self.gpu.devices):
                self.gpu.blame("no device is current")
            if self.activations[1] < self.update_device_memory_size_for_shapes():
                self.gpu.blame("too little activation memory")
            self.gpu.put(stream, self._work(self.shape, dict(self.addresses)))
        return True

    def _array(self, name: str, address: int) -> np.ndarray:
        kind = np.dtype(self.facts["tensors"][name][1])
        shape = self.get_tensor_shape(name)
        return (
            self.gpu.bytes_at(address, int(np.prod(shape)) * kind.itemsize)
            .view(kind)
            .reshape(shape)
        )

    def _work(self, shape: tuple[int, ...], addresses: dict[str, int]) -> Callable[[], None]:
        memory = self.activations

        def work() -> None:
            if self.shape != shape:
                self.gpu.blame(f"work recorded for {shape} ran with {self.shape}")
            self.gpu.calls["computed"] += 1
            self.gpu.bytes_at(*memory)[:] = 0xAB
            found = self.gpu.function(self._array("slices", addresses["slices"]))
            for name, values in found.items():
                if name in addresses:
                    self._array(name, addresses[name])[...] = values

        return work


def fake_tensorrt(gpu: Any, name: str, **parts: Any) -> ModuleType:
    """Stands for `tensorrt` or `tensorrt_rtx`; `parts` are what else the module holds."""
    module = ModuleType(name)
    rtx = name == "tensorrt_rtx"
    fields: dict[str, Any] = {
        **parts,
        "__version__": "1.7.1.116" if rtx else "10.13.3.9",
        "ILogger": type("ILogger", (), {}),
        "Runtime": lambda logger: (RtxRuntime if rtx else Runtime)(gpu, logger),
        "TensorIOMode": TensorIOMode,
        "ExecutionContextAllocationStrategy": SimpleNamespace(USER_MANAGED="USER_MANAGED"),
    }
    if rtx:
        fields |= {
            "EngineValidity": EngineValidity,
            "EngineInvalidityDiagnostics": Diagnostics,
            "CudaGraphStrategy": SimpleNamespace(WHOLE_GRAPH_CAPTURE="WHOLE_GRAPH_CAPTURE"),
        }
    vars(module).update(fields)
    return module
