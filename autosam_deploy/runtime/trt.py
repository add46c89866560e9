"""Backend `tensorrt`: the bundle's engines on NVIDIA GPUs, by TensorRT or TensorRT-RTX."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendError, DeviceUnavailableError, OutOfMemoryError
from autosam_deploy.runtime.backend import (
    Backend,
    BackendInfo,
    Outputs,
    Request,
    parse_device,
    refuse_provider,
)
from autosam_deploy.runtime.nvidia.choice import Choice, choose_engine
from autosam_deploy.runtime.nvidia.contexts import Contexts
from autosam_deploy.runtime.nvidia.cudart import Cuda, open_device
from autosam_deploy.runtime.nvidia.lanes import Lane, LaneOptions, LanePool
from autosam_deploy.runtime.nvidia.plan import Plan, load_plan, parts_of, read_plan
from autosam_deploy.runtime.options import in_words


@dataclass(frozen=True)
class TrtOptions:
    """What the backend can do beyond a `Request`.

    contexts: batches that run at the same time, each with memory of its own; they are made when
    threads need them. graphs: replay a CUDA graph where a size comes twice in a row. stream: handle
    of a CUDA stream to run in (0 is the default stream), which stays the caller's; one context
    only. runtime_cache: folder in which TensorRT-RTX keeps compiled kernels; None compiles them in
    the first runs of every process.
    """

    # For hosts with threads or streams of their own; a command line has neither.
    contexts: int = 2
    graphs: bool = field(
        default=False, metadata=in_words("replay a CUDA graph where a size comes twice in a row")
    )
    stream: int | None = None
    runtime_cache: Path | None = field(
        default=None,
        metadata=in_words("folder in which TensorRT-RTX keeps the kernels it compiles"),
    )


class TrtBackend(Backend):
    """An engine on a GPU. Unlike other backends it is safe to share between threads.

    Batches beyond the engine's profile are split; memory grows to the largest batch and stays.
    """

    name = "tensorrt"
    options_class = TrtOptions
    options: TrtOptions

    def __init__(
        self, bundle: Bundle, request: Request, *, options: TrtOptions | None = None
    ) -> None:
        """Load the engine that fits (see `Backend`).

        Args:
            bundle: an opened bundle.
            request: device "auto", "cuda" or "cuda:N"; precision.
            options: what goes beyond that.

        Raises:
            BackendUnavailableError: TensorRT or cuda-bindings is missing.
            DeviceUnavailableError: no driver, no device, or not the one asked for.
            BackendError: no engine fits, or it cannot be loaded.
            BundleError: the engine was altered.
            OutOfMemoryError: the engine does not fit on the device.
        """
        super().__init__(bundle, request, options=options)

    def _open(self, request: Request) -> BackendInfo:
        index = device_index(request)
        _check_options(self.options, request)
        cuda = open_device(index)
        choice = choose_engine(self.bundle, precision=request.precision, sm=cuda.device.sm)
        # On failure half-way the stack gives back what was taken.
        with cuda.active(), ExitStack() as stack:
            info = self._load(cuda, choice, stack)
            self._stack = stack.pop_all()
        return info

    def _load(self, cuda: Cuda, choice: Choice, stack: ExitStack) -> BackendInfo:
        """Fill the stack from the engine up to the lanes, and say what is in use."""
        manifest, options = self.bundle.manifest, self.options
        plan = load_plan(
            choice,
            read_plan(self.bundle.path, choice.artefact.file),
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            bundle=str(self.bundle.path),
        )
        stack.callback(plan.close)
        contexts = Contexts(
            plan, sm=cuda.device.sm, graphs=options.graphs, folder=options.runtime_cache
        )
        stack.callback(contexts.close)
        lane_options = LaneOptions(stream=options.stream, graphs=contexts.lanes_record)
        pool = LanePool(
            lambda: Lane(plan, cuda, lane_options, contexts.create), most=options.contexts
        )
        stack.callback(pool.close)
        self._cuda, self._plan, self._pool = cuda, plan, pool
        return describe(cuda, choice, notes=_notes(cuda, plan, contexts, options))

    def _run(self, slices: NDArray[np.float32], names: tuple[str, ...]) -> Outputs:
        parts = parts_of(slices.shape, self._plan)
        found: list[Outputs] = []
        done = 0
        try:
            with self._cuda.active(), self._pool.lease() as lane:
                for count in parts:
                    found.append(lane.run(slices[done : done + count], names))
                    done += count
        except OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"a batch of {max(parts)} slices does not fit into memory",
                got=str(error)[:300],
                todo="use a smaller --batch",
            ) from error
        if len(found) == 1:
            return {name: found[0][name] for name in names}
        return {name: np.concatenate([part[name] for part in found]) for name in names}

    def _close(self) -> None:
        with self._cuda.active():
            self._stack.close()


def describe(cuda: Cuda, choice: Choice, *, notes: tuple[str, ...]) -> BackendInfo:
    """Return what is said of an engine in use."""
    return BackendInfo(
        backend=TrtBackend.name,
        device=f"cuda:{cuda.index}",
        provider=choice.info.family,
        precision=choice.artefact.precision,
        artefact=choice.artefact.file.path,
        threads=1,
        reason=choice.reason,
        versions={choice.info.family: choice.version, **cuda.versions()},
        notes=notes,
    )


def device_index(request: Request) -> int:
    """Return the number of the device that a request names, 0 for "auto".

    Raises:
        DeviceUnavailableError: it names something that is no NVIDIA GPU.
    """
    if request.device == "auto":
        return 0
    kind, index = parse_device(request.device)
    if kind != "cuda":
        raise DeviceUnavailableError(
            "backend 'tensorrt' runs on NVIDIA GPUs",
            got=f"device {request.device}",
            expected="auto, cuda or cuda:N",
            todo="use backend onnxruntime for the CPU",
        )
    return index


def _check_options(options: TrtOptions, request: Request) -> None:
    refuse_provider(request)
    if options.contexts < 1:
        raise BackendError("contexts", got=str(options.contexts), expected="1 or more")
    if options.stream is not None and options.contexts != 1:
        raise BackendError(
            "batches at the same time cannot share the caller's stream",
            got=f"{options.contexts} contexts",
            expected="1 with a stream",
        )
    if options.stream == 0 and options.graphs:
        raise BackendError(
            "CUDA cannot record the default stream",
            got="stream 0 with graphs",
            expected="a stream of its own, or no graphs",
        )


def _notes(cuda: Cuda, plan: Plan, contexts: Contexts, options: TrtOptions) -> tuple[str, ...]:
    info = plan.choice.info
    sizes = ", ".join(f"{axis} {low} to {high}" for axis, (low, _, high) in info.profile.items())
    memory = "memory not recorded"
    if info.activation_bytes is not None:
        memory = f"{info.activation_bytes >> 20} MiB of activations at the largest"
    return (
        str(cuda.device),
        f"engine for {sizes}; {memory}",
        f"up to {options.contexts} contexts, CUDA graphs {'on' if options.graphs else 'off'}",
        *plan.notes,
        *contexts.notes,
    )
