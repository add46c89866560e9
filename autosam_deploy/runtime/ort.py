"""Backend `onnxruntime`: the bundle's ONNX graphs on CPU, CUDA or TensorRT(-RTX) providers."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.manifest import Artefact, Precision
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.cores import usable_cores
from autosam_deploy.errors import BackendError, DeviceUnavailableError
from autosam_deploy.runtime.backend import (
    Backend,
    BackendInfo,
    Outputs,
    Request,
    parse_device,
)
from autosam_deploy.runtime.nvidia.engine_cache import build_hints
from autosam_deploy.runtime.nvidia.plugin import require_plugin
from autosam_deploy.runtime.ort_options import OrtOptions
from autosam_deploy.runtime.prepared import Prepared
from autosam_deploy.runtime.providers import (
    PROVIDERS,
    cuda_devices,
    import_onnxruntime,
    open_session,
    placement,
    quiet_options,
    run_session,
    work_on_cpu,
)

_LOG = logging.getLogger(__name__)
#: Run through casts by the CPU provider.
_SLOW_ON_CPU = ("fp16", "bf16")
#: Precision that a bundle may lack -> where it comes from.
_ADD = {
    "fp32": "export again with --precision fp32",
    "fp16": "export again with --fp16",
    "bf16": "bf16 is for backend openvino",
    "int8": "add one: autosam-export int8 BUNDLE --calibration FOLDER",
}


class OrtBackend(Backend):
    """ONNX Runtime, one session."""

    name = "onnxruntime"
    options_class = OrtOptions
    options: OrtOptions

    def __init__(
        self, bundle: Bundle, request: Request, *, options: OrtOptions | None = None
    ) -> None:
        """Load the graph that fits (see `Backend`).

        Raises:
            BackendUnavailableError: ONNX Runtime or a provider's package is missing.
            DeviceUnavailableError: the device or provider that was asked for is not there.
            BackendError: the bundle lacks what was asked for, or the graph cannot be loaded.
        """
        super().__init__(bundle, request, options=options)

    def _open(self, request: Request) -> BackendInfo:
        ort = import_onnxruntime()
        provider, index, why = self._choose_provider(ort, request)
        threads = request.threads or usable_cores()
        artefact, precision_why = self._choose_artefact(request, on_cpu=provider == "cpu")

        try:
            self.session, notes = self._load(ort, artefact, provider, index, threads)
        except DeviceUnavailableError as error:
            if request.device != "auto" or request.provider != "auto":
                raise
            # `auto` means the best that works; what did not work is part of the answer.
            provider, why = "cpu", f"the GPU is not usable ({error})"
            _LOG.warning("running on the CPU: %s", why)
            artefact, precision_why = self._choose_artefact(request, on_cpu=True)
            self.session, notes = self._load(ort, artefact, provider, index, threads)
        _check_signature(self.session, self)
        if provider == "cpu" and artefact.precision in _SLOW_ON_CPU:
            _LOG.warning(
                "%s on a CPU is slower than fp32 and takes more memory", artefact.file.path
            )
        return BackendInfo(
            backend=self.name,
            device="cpu" if provider == "cpu" else f"cuda:{index}",
            provider=self.session.get_providers()[0],
            precision=artefact.precision,
            artefact=artefact.file.path,
            threads=threads,
            reason=f"{why}; {precision_why}",
            versions={"onnxruntime": ort.__version__},
            notes=(*_notes(self.session, provider, artefact.precision), *notes),
        )

    def _load(
        self, ort: Any, artefact: Artefact, provider: str, index: int, threads: int
    ) -> tuple[Any, tuple[str, ...]]:
        """Return a session and what a report should say of it."""
        path, optimised = self.bundle.file(artefact.file), False
        hints = build_hints(
            self.bundle,
            artefact,
            provider=provider,
            version=ort.__version__,
            cache=self.options.cache,
        )
        notes = hints.notes
        if self.options.prepared is not None:
            if provider == "cpu":
                prepared = Prepared(ort, path, artefact, self.options.prepared)
                chosen = quiet_options(
                    ort, threads=threads, provider=provider, options=self.options
                )
                found = prepared.find(chosen)
                path, optimised = found or path, found is not None
                notes = prepared.notes
            else:
                notes += ("graphs are prepared for the CPU provider alone",)
        session = open_session(
            ort,
            path,
            provider=provider,
            index=index,
            threads=threads,
            hints=hints.options,
            options=self.options,
            optimised=optimised,
        )
        return session, notes

    def _choose_provider(self, ort: Any, request: Request) -> tuple[str, int, str]:
        """Return provider word, device index and the reason."""
        there = ort.get_available_providers()
        if request.device == "auto" and request.provider == "auto":
            if PROVIDERS["cuda"] not in there:
                return "cpu", 0, "this ONNX Runtime has no CUDA provider"
            if not cuda_devices():
                return "cpu", 0, "no CUDA device"
            return "cuda", 0, "a CUDA device is there"
        if request.device == "auto":
            device, index = ("cpu" if request.provider == "cpu" else "cuda"), 0
        else:
            device, index = parse_device(request.device)
        provider = request.provider if request.provider != "auto" else device
        if (provider == "cpu") != (device == "cpu"):
            raise DeviceUnavailableError(
                "device and provider contradict each other",
                got=f"device {request.device}, provider {provider}",
                expected="cpu with cpu; cuda with cuda, tensorrt or rtx",
            )
        if provider == "rtx":
            # A plugin is listed only after it was loaded, which needs a driver.
            require_plugin()
        elif PROVIDERS[provider] not in there:
            raise DeviceUnavailableError(
                f"this ONNX Runtime has no {PROVIDERS[provider]}",
                got=", ".join(there),
                todo="install onnxruntime-gpu, or ask for --device cpu",
            )
        if provider != "cpu" and (count := cuda_devices()) <= index:
            raise DeviceUnavailableError(
                f"device 'cuda:{index}' is not there",
                got=f"{count} usable CUDA devices; available: {_available(count)}",
                expected=f"at least {index + 1}, with driver and CUDA libraries",
                todo="check nvidia-smi, or ask for --device cpu",
            )
        return provider, index, "asked for"

    def _choose_artefact(self, request: Request, *, on_cpu: bool) -> tuple[Artefact, str]:
        there = self.bundle.precisions("onnx")
        if request.precision != "auto":
            artefact = self.bundle.find("onnx", request.precision)
            if artefact is None:
                raise BackendError(
                    f"the bundle has no {request.precision} graph",
                    got=f"graphs in {', '.join(there) or 'no precision'}",
                    todo=_ADD.get(request.precision, "choose another precision"),
                )
            if artefact.precision == "int8" and not on_cpu:
                raise BackendError(
                    "int8 graphs are for CPUs",
                    got="a GPU provider",
                    todo="use --device cpu, or --precision fp16",
                )
            slow = on_cpu and artefact.precision in _SLOW_ON_CPU
            return artefact, (
                f"{request.precision} was asked for" + ", slower than fp32 on a CPU" * slow
            )
        # Low-precision graphs on ONNX Runtime's CPU provider run through casts: slower, and more
        # memory. On GPUs bf16 needs newer ones than fp16, so it is for those who ask.
        order: tuple[Precision, ...]
        order = ("fp32", "fp16", "bf16") if on_cpu else ("fp16", "fp32", "bf16")
        for precision in order:
            artefact = self.bundle.find("onnx", precision)
            if artefact is None:
                continue
            if precision == order[0]:
                return artefact, f"{precision} is the best for a {'CPU' if on_cpu else 'GPU'}"
            return artefact, f"{precision}, since the bundle has no {order[0]} graph"
        raise BackendError("the bundle has no ONNX graph", todo="export again")

    def _run(self, slices: NDArray[np.float32], names: tuple[str, ...]) -> Outputs:
        return run_session(self.session, slices, names)

    def _close(self) -> None:
        del self.session


def _available(cuda_count: int) -> str:
    return ", ".join(["cpu", *(f"cuda:{index}" for index in range(cuda_count))])


def _notes(session: Any, provider: str, precision: Precision) -> tuple[str, ...]:
    """Say what a user who asked for a GPU might not expect."""
    if provider == "cpu":
        return ()
    notes = []
    if counts := work_on_cpu(session):
        shown = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        notes.append(f"nodes that ONNX Runtime keeps on the CPU: {shown}")
    if provider in ("tensorrt", "rtx"):
        placed = ", ".join(f"{count} on {name}" for name, count in placement(session).items())
        notes.append(f"nodes placed: {placed or 'this ONNX Runtime cannot tell'}")
    if provider == "tensorrt" and precision == "fp32":
        notes.append("TensorRT may round fp32 products to TF32; NVIDIA_TF32_OVERRIDE=0 forbids it")
    return tuple(notes)


_TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(float16)": "float16"}


def _check_signature(session: Any, backend: Backend) -> None:
    """Refuse a graph whose inputs or outputs are not those of the manifest."""
    manifest = backend.bundle.manifest
    for values, tensors in (
        (session.get_inputs(), manifest.inputs),
        (session.get_outputs(), manifest.outputs),
    ):
        found = [(v.name, _TYPES.get(v.type, v.type), tuple(v.shape)) for v in values]
        wanted = [(t.name, t.dtype, t.shape) for t in tensors]
        if found != wanted:
            raise BackendError(
                "the graph contradicts the manifest", got=str(found), expected=str(wanted)
            )
