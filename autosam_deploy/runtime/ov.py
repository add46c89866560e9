"""Backend `openvino`: the bundle's float32 graph on CPUs, in float32 or bf16, or its int8 graph."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.manifest import Artefact, Precision
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.cores import usable_cores
from autosam_deploy.errors import BackendError, DeviceUnavailableError, OutOfMemoryError
from autosam_deploy.files import private_folder
from autosam_deploy.runtime.backend import (
    Backend,
    BackendInfo,
    Outputs,
    Request,
    memory_error,
    parse_device,
    refuse_provider,
)
from autosam_deploy.runtime.options import in_words
from autosam_deploy.runtime.ov_model import (
    HINTS,
    Chain,
    Settings,
    import_openvino,
    read_graph,
)

#: OpenVINO's names of types -> the manifest's.
_TYPES = {"f32": "float32", "u8": "uint8"}
#: Precision -> what a CPU must have for it.
_NEEDED = {"bf16": "AVX512-BF16 or AMX", "int8": "AVX2 or newer"}


@dataclass(frozen=True)
class OvOptions:
    """What the backend can do beyond a `Request`.

    cache: folder in which compiled models are kept; never in the bundle, whose members are hashed.
    None compiles in every process.
    mode: "latency" gives all threads to one run. "throughput" cuts every batch into parts that run
    side by side with fewer threads each: more slices a second where batches are large enough, with
    memory for each part.
    streams: how many parts; None leaves it to OpenVINO. Of mode "throughput" alone.
    rest: what is not in integers in precision int8.
    """

    cache: Path | None = field(
        default=None, metadata=in_words("folder in which compiled models are kept")
    )
    mode: Literal["latency", "throughput"] = field(
        default="latency",
        metadata=in_words("all threads for one run, or parts of a batch side by side"),
    )
    streams: int | None = field(
        default=None, metadata=in_words("how many parts in mode throughput", none="auto")
    )
    rest: Literal["fp32", "bf16"] = field(
        default="fp32", metadata=in_words("what is not in integers in precision int8")
    )


class OvBackend(Backend):
    """OpenVINO on the CPU: explicit threads and streams, a pinned precision.

    bf16 is made of the float32 graph by OpenVINO; normalisation, last resize and argmax stay in
    float32 (`ov_model.cut_graph`).
    """

    name = "openvino"
    options_class = OvOptions
    options: OvOptions

    def __init__(
        self, bundle: Bundle, request: Request, *, options: OvOptions | None = None
    ) -> None:
        """Load the float32 graph (see `Backend`).

        Args:
            bundle: an opened bundle.
            request: device "auto" or "cpu"; precision "auto" (float32), "fp32", "bf16" or "int8".
            options: what goes beyond that.

        Raises:
            BackendUnavailableError: OpenVINO is not installed.
            DeviceUnavailableError: another device, or bf16 or int8 on a CPU without it.
            BackendError: another precision, no such graph, or it cannot be loaded.
            BundleError: the graph was altered.
        """
        super().__init__(bundle, request, options=options)

    def _open(self, request: Request) -> BackendInfo:
        _check_request(request)
        _check_options(self.options)
        ov = import_openvino()
        precision = "fp32" if request.precision == "auto" else request.precision
        # Of all that is not in integers.
        floats = self.options.rest if precision == "int8" else precision
        processor, capabilities = _processor(ov)
        _check_processor(processor, capabilities, precision, floats)
        artefact = self._graph(precision)
        version = "-".join(str(ov.__version__).split("-")[:2])
        folder, notes = self._cache(
            artefact, f"{version}-{_short(processor, *capabilities)}-{floats}"
        )
        threads = request.threads or usable_cores()
        model = read_graph(ov, self.bundle.file(artefact.file))
        self._check_signature(model)
        mode, streams = self.options.mode, self.options.streams
        settings = Settings(
            threads=threads,
            cache=folder,
            mode=mode,
            streams=1 if mode == "latency" else streams,
        )
        self.chain = Chain(ov, model, floats, settings)
        self.side_by_side = self.chain.streams
        self._pool = ThreadPoolExecutor(self.chain.streams, thread_name_prefix="openvino")
        self._load: Callable[[], Chain] = lambda: Chain(
            ov, read_graph(ov, self.bundle.file(artefact.file)), floats, settings
        )
        if folder is not None:
            used = "used" if self.chain.cached else "filled"
            notes = (f"cache of compiled models '{folder}' ({used})",)
        notes += _run_notes(self.chain, threads=threads, mode=mode, streams=streams)
        notes += _precision_notes(precision, floats, artefact)
        asked = request.precision != "auto"
        return BackendInfo(
            backend=self.name,
            device="cpu",
            provider=self.chain.devices,
            precision="int8" if precision == "int8" else cast("Precision", self.chain.precision),
            artefact=artefact.file.path,
            threads=self.chain.threads,
            reason=f"backend 'openvino' runs on the CPU; {precision} "
            + ("was asked for" if asked else "is the precision of the parity record"),
            versions={"openvino": version},
            notes=notes,
        )

    def _graph(self, precision: str) -> Artefact:
        artefact = self.bundle.find("onnx", "int8" if precision == "int8" else "fp32")
        if artefact is None and precision == "int8":
            raise BackendError(
                "the bundle has no int8 graph",
                got=f"graphs in {', '.join(self.bundle.precisions('onnx')) or 'no precision'}",
                todo="add one: autosam-export int8 BUNDLE --calibration FOLDER",
            )
        if artefact is None:
            raise BackendError(
                "the bundle has no fp32 graph, which OpenVINO reads for every precision",
                got=f"graphs in {', '.join(self.bundle.precisions('onnx')) or 'no precision'}",
                todo="export again with --precision fp32",
            )
        return artefact

    def _cache(self, artefact: Artefact, key: str) -> tuple[Path | None, tuple[str, ...]]:
        """Return the folder for this graph; OpenVINO's own key does not hold the precision."""
        if self.options.cache is None:
            return None, ()
        name = f"{artefact.file.sha256[:16]}-openvino-{key}"
        folder, problem = private_folder(self.options.cache / name)
        return folder, () if folder else (f"no cache of compiled models ({problem})",)

    def _check_signature(self, model: Any) -> None:
        """Refuse a graph whose inputs or outputs are not those of the manifest."""
        manifest = self.bundle.manifest
        for ports, tensors in (
            (model.inputs, manifest.inputs),
            (model.outputs, manifest.outputs),
        ):
            found = [
                (
                    port.any_name,
                    _TYPES.get(type_name := port.get_element_type().get_type_name(), type_name),
                    tuple(d.get_length() if d.is_static else "?" for d in port.partial_shape),
                )
                for port in ports
            ]
            # Names of sizes are not kept by OpenVINO.
            wanted = [
                (t.name, t.dtype, tuple("?" if isinstance(d, str) else d for d in t.shape))
                for t in tensors
            ]
            if found != wanted:
                raise BackendError(
                    "the graph contradicts the manifest", got=str(found), expected=str(wanted)
                )

    def _run(self, slices: NDArray[np.float32], names: tuple[str, ...]) -> Outputs:
        if self.chain.closed:
            # The error that closed it refers to where it was raised, and so to the model's memory.
            gc.collect()
            try:
                self.chain = self._load()
            except BackendError as error:
                raise OutOfMemoryError(
                    "the model cannot be loaded again after memory ran out",
                    got=str(error)[-300:],
                    todo="free memory, or use a smaller --batch",
                ) from error
        try:
            return self._run_parts(slices, names)
        except Exception as error:
            # OpenVINO's exceptions share no base class of their own.
            if full := memory_error(slices, error):
                # What ran out of memory keeps what it has, and fails for smaller batches too.
                self.chain.close()
                raise full from error
            raise BackendError("OpenVINO failed", got=str(error)[-300:]) from error

    def _run_parts(self, slices: NDArray[np.float32], names: tuple[str, ...]) -> Outputs:
        """Run a batch, in parts side by side where there are streams for that."""
        count = min(self.chain.streams, len(slices))
        if count == 1:
            found = self.chain.run({"slices": slices})
            # What it returns is memory of its own.
            return {name: np.array(found[name]) for name in names}
        parts = [{"slices": part} for part in np.array_split(slices, count)]
        # All of them end before an error is raised: it may close the model.
        running = [self._pool.submit(self.chain.run, part) for part in parts]
        wait(running)
        outputs = [one.result() for one in running]
        return {name: np.concatenate([one[name] for one in outputs]) for name in names}

    def _close(self) -> None:
        self._pool.shutdown()
        self.chain.close()


def _run_notes(chain: Chain, *, threads: int, mode: str, streams: int | None) -> tuple[str, ...]:
    """Say how runs are spread over threads, where a user might not expect it."""
    notes: tuple[str, ...] = ()
    if chain.threads != threads:
        notes += (f"{threads} threads were asked for, OpenVINO takes {chain.threads}",)
    if mode == "throughput":
        notes += (f"batches run in up to {chain.streams} parts side by side",)
    if streams not in (None, chain.streams):
        notes += (f"{streams} streams were asked for, OpenVINO takes {chain.streams}",)
    return notes


def _precision_notes(precision: str, floats: str, artefact: Artefact) -> tuple[str, ...]:
    """Say what a precision other than float32 means, and what it was judged by."""
    if precision == "bf16":
        return (
            f"bf16 is OpenVINO's rounding of {artefact.file.path}; normalisation, last resize "
            "and argmax are in fp32; the bundle's parity record does not cover it",
        )
    if precision != "int8":
        return ()
    notes: tuple[str, ...] = (f"int8 in the encoder's linear layers, the rest in {floats}",)
    if floats != "fp32":
        notes += ("the bundle's parity record covers int8 with the rest in fp32",)
    return notes


def _check_processor(name: str, capabilities: list[str], precision: str, floats: str) -> None:
    for needed in {precision, floats} - {"fp32"}:
        if needed.upper() not in capabilities:
            raise DeviceUnavailableError(
                f"this CPU has no {needed} arithmetic",
                got=f"{name} with {', '.join(capabilities)}",
                expected=_NEEDED[needed],
                todo="use --precision fp32" if precision == needed else "leave out rest=bf16",
            )


def _check_options(options: OvOptions) -> None:
    if options.streams is None:
        return
    if options.mode == "latency" and options.streams > 1:
        raise BackendError(
            "streams belong to mode 'throughput'",
            got=f"{options.streams} streams in mode latency",
            todo="set mode=throughput as well",
        )
    if options.streams < 1:
        raise BackendError("streams", got=str(options.streams), expected="1 or more")


def _check_request(request: Request) -> None:
    refuse_provider(request)
    if request.device != "auto" and parse_device(request.device)[0] != "cpu":
        raise DeviceUnavailableError(
            "backend 'openvino' runs on CPUs",
            got=f"device {request.device}",
            expected="auto or cpu",
            todo="use backend onnxruntime or tensorrt for an NVIDIA GPU",
        )
    if request.precision == "fp16":
        # Asked for f16, OpenVINO says bf16 and computes in it on CPUs without AMX-FP16.
        raise BackendError(
            "backend 'openvino' has no fp16 on CPUs, where OpenVINO may run it as bf16",
            got="fp16",
            expected="auto, fp32, bf16 or int8",
        )
    if request.precision not in ("auto", "int8", *HINTS):
        raise BackendError(
            "unknown precision", got=repr(request.precision), expected="auto, fp32, bf16 or int8"
        )


def _processor(ov: ModuleType) -> tuple[str, list[str]]:
    """Return the CPU's name and what OpenVINO says it can compute in."""
    core = ov.Core()
    if "CPU" not in core.available_devices:
        raise DeviceUnavailableError(
            "this OpenVINO has no CPU plugin",
            got=", ".join(core.available_devices) or "no device",
            todo="install the package 'openvino' again",
        )
    name = str(core.get_property("CPU", "FULL_DEVICE_NAME"))
    return name, sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _short(*words: str) -> str:
    """Return a name for a processor: a folder may be shared by machines that differ."""
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]
