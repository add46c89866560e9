"""Taps on TensorRT: an engine of the same graph, built here, whose boundaries are outputs.

A plan cannot be looked into, so the one in the bundle is not what runs: its graph is parsed and
typed as `export.engines` does it, and built once more for the device that is here. Outputs cannot
be fused away, so a fault of a kernel that spans a boundary may be gone in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.errors import BundleError
from autosam_deploy.export.checks.taps.runner import TapRunner
from autosam_deploy.export.engines.build import build_tapped
from autosam_deploy.runtime.backend import BackendInfo
from autosam_deploy.runtime.nvidia.choice import choose_engine
from autosam_deploy.runtime.nvidia.contexts import Contexts
from autosam_deploy.runtime.nvidia.cudart import open_device
from autosam_deploy.runtime.nvidia.lanes import Lane, LaneOptions
from autosam_deploy.runtime.nvidia.plan import Profile, load_plan
from autosam_deploy.runtime.selftest import read_golden
from autosam_deploy.runtime.trt import describe, device_index
from autosam_deploy.spec import slice_sizes


class TrtTaps(TapRunner):
    """TensorRT or TensorRT-RTX, by the engine that backend `tensorrt` takes."""

    name = "tensorrt"

    def _choose(self) -> Artefact:
        self._cuda = open_device(device_index(self.request))
        self._choice = choose_engine(
            self.bundle, precision=self.request.precision, sm=self._cuda.device.sm
        )
        artefact = self._choice.artefact
        graph = self.bundle.find("onnx", artefact.precision)
        if graph is None:
            raise BundleError(
                f"'{artefact.file.path}' cannot be looked into",
                got=f"a bundle without its {artefact.precision} graph",
                todo="export it again",
            )
        return graph

    def _open(self, graph: Path) -> BackendInfo:
        cuda, manifest = self._cuda, self.bundle.manifest
        profile = self._golden_sizes()
        # The tapped build is for the golden slices alone: a wide profile would need memory for
        # sizes that never come, at every boundary.
        info = self._choice.info.model_copy(update={"profile": profile})
        choice = replace(self._choice, info=info)
        with cuda.active(), ExitStack() as stack:
            serialized, names = build_tapped(
                choice.module,
                family=info.family,
                graph=graph,
                source=manifest.model.input_tensor,
                capability=cuda.device.sm,
                profile=profile,
                workspace_bytes=info.workspace_bytes,
            )
            known = [tensor.name for tensor in manifest.outputs]
            plan = load_plan(
                choice,
                serialized,
                inputs=manifest.inputs,
                outputs=manifest.outputs,
                taps=tuple(name for name in names if name not in known),
                bundle=str(self.bundle.path),
            )
            stack.callback(plan.close)
            contexts = Contexts(plan, sm=cuda.device.sm, graphs=False, folder=None)
            stack.callback(contexts.close)
            self._lane = Lane(plan, cuda, LaneOptions(), contexts.create)
            stack.callback(self._lane.close)
            self._stack = stack.pop_all()
        built = (
            f"blocks are those of an engine built here from '{self.artefact.file.path}' with "
            "its boundaries as outputs, which the bundle's engine may fuse across"
        )
        return describe(cuda, choice, notes=(str(cuda.device), built))

    def _golden_sizes(self) -> Profile:
        """Return the smallest and largest size of every axis of the golden slices."""
        sizes = [
            slice_sizes(read_golden(self.bundle, case).slices.shape)
            for case in self.bundle.manifest.golden
        ]
        low = {axis: min(one[axis] for one in sizes) for axis in sizes[0]}
        high = {axis: max(one[axis] for one in sizes) for axis in sizes[0]}
        return {axis: (low[axis], high[axis], high[axis]) for axis in low}

    def _run(
        self, slices: NDArray[np.float32], names: tuple[str, ...]
    ) -> Mapping[str, NDArray[Any]]:
        with self._cuda.active():
            return self._lane.run(slices, names)

    def _close(self) -> None:
        with self._cuda.active():
            self._stack.close()
