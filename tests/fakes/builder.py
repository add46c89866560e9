"""The builder of TensorRT and TensorRT-RTX, by hand: what `export.engines.build` calls of it.

The "engine" that it builds is the ONNX graph itself, which ONNX Runtime computes when it is run.
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime

_TYPES = {1: ("FLOAT", "float32"), 10: ("HALF", "float16"), 2: ("UINT8", "uint8")}


class Tensor:
    def __init__(self, value: Any) -> None:
        self.name = value.name
        kind = value.type.tensor_type
        kind_name, self.numpy_type = _TYPES[kind.elem_type]
        self.dtype = SimpleNamespace(name=kind_name)
        self.dims = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
        self.shape = tuple(-1 if isinstance(dim, str) else dim for dim in self.dims)


class Network:
    """Strongly typed, as the newer libraries' only kind is."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.path = Path()

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]


class Parser:
    num_errors = 0

    def __init__(self, network: Network, logger: Any) -> None:
        self.network, self.logger = network, logger

    def parse_from_file(self, path: str) -> bool:
        graph = onnx.load(path, load_external_data=False).graph
        self.network.path = Path(path)
        self.network.inputs = [Tensor(value) for value in graph.input]
        self.network.outputs = [Tensor(value) for value in graph.output]
        return True


class Shapes:
    def __init__(self) -> None:
        self.corners: dict[str, tuple[Any, ...]] = {}

    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        self.corners[name] = (low, best, high)


class Config:
    def __init__(self) -> None:
        self.profiles: list[Shapes] = []
        self.tf32 = True
        self.capability: Any = None
        self.limits: dict[Any, int] = {}

    def clear_flag(self, flag: str) -> None:
        self.tf32 = self.tf32 and flag != "TF32"

    def add_optimization_profile(self, shapes: Shapes) -> int:
        self.profiles.append(shapes)
        return len(self.profiles) - 1

    def set_compute_capability(self, capability: Any, index: int) -> None:
        self.capability = (capability, index)

    def set_memory_pool_limit(self, pool: Any, count: int) -> None:
        self.limits[pool] = count


class Builder:
    """`gpu.builds` keeps every configuration; `gpu.refuse_build` is what it says instead."""

    def __init__(self, gpu: Any, logger: Any) -> None:
        self.gpu, self.logger = gpu, logger

    def create_network(self, flags: int) -> Network:
        assert flags == 0
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Shapes:
        return Shapes()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        self.gpu.builds.append(config)
        if self.gpu.refuse_build:
            self.logger.log(SimpleNamespace(name="ERROR"), self.gpu.refuse_build)
            return None
        (shapes,) = config.profiles
        (source,) = network.inputs
        corners = shapes.corners[source.name]
        profile = {
            dim: [corner[axis] for corner in corners]
            for axis, dim in enumerate(source.dims)
            if isinstance(dim, str)
        }
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # Its weights are read now: the file may be gone when the engine runs.
        session = onnxruntime.InferenceSession(str(network.path), options, ["CPUExecutionProvider"])
        names = [tensor.name for tensor in network.outputs]

        def compute(slices: np.ndarray) -> dict[str, np.ndarray]:
            found = session.run(names, {source.name: np.ascontiguousarray(slices)})
            return dict(zip(names, found, strict=True))

        self.gpu.function = compute
        tensors = {source.name: ("INPUT", source.numpy_type, source.dims)}
        tensors |= {t.name: ("OUTPUT", t.numpy_type, t.dims) for t in network.outputs}
        facts = {"tensors": tensors, "profile": profile, "profiles": 1, "weights": 1000}
        return json.dumps(facts).encode()


def builder_parts(gpu: Any) -> dict[str, Any]:
    """Return what the builder's side of a library's module holds."""
    return {
        "Builder": lambda logger: Builder(gpu, logger),
        "NetworkDefinitionCreationFlag": enum.Enum("NetworkDefinitionCreationFlag", "OTHER"),
        "OnnxParser": Parser,
        "BuilderFlag": SimpleNamespace(TF32="TF32"),
        "ProfilingVerbosity": SimpleNamespace(DETAILED="DETAILED"),
        "MemoryPoolType": SimpleNamespace(WORKSPACE="WORKSPACE"),
        "IProgressMonitor": type("IProgressMonitor", (), {}),
        "ComputeCapability": enum.Enum("ComputeCapability", "SM86 SM89 SM120"),
    }
