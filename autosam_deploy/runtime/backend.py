"""What a backend is: one loaded model on one device, behind the names and shapes of the spec."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.manifest import Precision
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import (
    BackendError,
    BackendInputError,
    DeviceUnavailableError,
    OutOfMemoryError,
)
from autosam_deploy.runtime.options import NoOptions, changed
from autosam_deploy.spec import slice_sizes

#: Neither ONNX Runtime nor torch on the CPU has an error class for a full memory; these are the
#: words of their allocators, of the C++ library, CUDA, cuBLAS and cuDNN.
_MEMORY_WORDS = (
    "bad allocation",
    "bad_alloc",
    "failed to allocate",
    "can't allocate memory",
    "out of memory",
    "alloc_failed",
)

Outputs = dict[str, NDArray[Any]]
ProviderName = Literal["auto", "cpu", "cuda", "tensorrt", "rtx"]


@dataclass(frozen=True)
class Request:
    """What the user asked for; "auto" leaves the choice to the backend.

    device: "auto", "cpu", "cuda" or "cuda:N". threads: of the CPU; None means every core that
    this process may use. provider: ONNX Runtime's execution provider.
    """

    device: str = "auto"
    precision: Precision | Literal["auto"] = "auto"
    threads: int | None = None
    provider: ProviderName = "auto"


def refuse_provider(request: Request) -> None:
    """Refuse a provider on behalf of a backend that has none.

    Raises:
        BackendError: one was asked for.
    """
    if request.provider != "auto":
        raise BackendError(
            "providers belong to backend 'onnxruntime'",
            got=f"provider {request.provider}",
            todo="leave the provider out, or use backend onnxruntime",
        )


@dataclass(frozen=True)
class BackendInfo:
    """What is really in use, for reports: never what was merely asked for.

    `notes` says what is worth knowing beyond `reason`: nodes left on the CPU, halved batches.
    `options` are those of the backend that are not at their default, as they would be written.
    """

    backend: str
    device: str
    provider: str
    precision: Precision
    artefact: str
    threads: int
    reason: str
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return asdict(self)


class Backend(ABC):
    """One loaded model on one device.

    `run` checks what goes in and out; subclasses do the work in `_open`, `_run` and `_close`.
    Not thread-safe, whatever the runtime below promises (ONNX Runtime's sessions are): open one per
    thread.
    """

    #: The name of the backend's row in `table.BACKENDS`.
    name: str
    #: The frozen dataclass of what the backend can do beyond a `Request` (see `runtime.options`).
    options_class: type[Any] = NoOptions
    #: How many parts of a batch run side by side; smaller batches leave some of it idle.
    side_by_side: int = 1

    def __init__(self, bundle: Bundle, request: Request, *, options: Any = None) -> None:
        """Load the model.

        Args:
            bundle: an opened bundle.
            request: device, precision, threads.
            options: of `options_class`; None is its defaults.

        Raises:
            BackendUnavailableError: the runtime's library is missing.
            DeviceUnavailableError: the device that was asked for is not there.
            BackendError: the bundle lacks what was asked for, the model cannot be loaded, or the
                options are another backend's.
        """
        self.bundle = bundle
        self.model = bundle.manifest.model
        self.closed = False
        self.options = self.options_class() if options is None else options
        if not isinstance(self.options, self.options_class):
            raise BackendError(
                f"options of backend '{self.name}'",
                got=type(options).__name__,
                expected=self.options_class.__name__,
            )
        self.info = replace(self._open(request), options=changed(self.options))

    @abstractmethod
    def _open(self, request: Request) -> BackendInfo:
        """Load the model and say what is in use."""

    @abstractmethod
    def _run(self, slices: NDArray[np.float32], names: tuple[str, ...]) -> Outputs:
        """Compute the named outputs of valid slices (B, 1, H, W)."""

    def _close(self) -> None:  # noqa: B027 - most runtimes free themselves
        """Release the model."""

    def run(self, slices: NDArray[np.float32], names: tuple[str, ...]) -> Outputs:
        """Run one batch.

        Args:
            slices: raw (B, 1, H, W) float32, finite.
            names: outputs to return, among those of the model.

        Returns:
            Output name -> array, owned by the caller.

        Raises:
            BackendInputError: wrong name, dtype, shape or values.
            OutOfMemoryError: the batch does not fit.
            BackendError: closed, or the runtime failed.
        """
        if self.closed:
            raise BackendError("the engine is closed", todo="open it again")
        try:
            self._check_input(slices, names)
            outputs = self._run(np.ascontiguousarray(slices), names)
        except MemoryError as error:
            # numpy's own: the checks need memory as well.
            if full := memory_error(slices, error):
                raise full from error
            raise
        self._check_outputs(outputs, names, slices.shape)
        return outputs

    def close(self) -> None:
        """Release the model; running afterwards is an error, closing twice is not."""
        if not self.closed:
            self.closed = True
            self._close()

    def _check_input(self, slices: NDArray[np.float32], names: tuple[str, ...]) -> None:
        known = [tensor.name for tensor in self.model.output_tensors]
        if unknown := [name for name in names if name not in known]:
            raise BackendInputError(
                f"the model has no output '{unknown[0]}'",
                got=unknown[0],
                expected=" or ".join(known),
                todo="export again with --outputs labels,logits" if "logits" in unknown else None,
            )
        if slices.dtype != np.float32:
            raise BackendInputError("'slices'", got=str(slices.dtype), expected="float32")
        if slices.ndim != 4 or slices.shape[1] != 1 or 0 in slices.shape:
            raise BackendInputError(
                "'slices'", got=f"shape {slices.shape}", expected="(B, 1, H, W), none of them 0"
            )
        if bad := slices.size - int(np.isfinite(slices).sum()):
            raise BackendInputError(
                "'slices' holds values that are not finite",
                got=f"{bad} of {slices.size}",
                todo="mask NaN and infinity before segmenting",
            )

    def _check_outputs(
        self, outputs: Outputs, names: tuple[str, ...], shape: tuple[int, ...]
    ) -> None:
        """A runtime that returns something else than the contract is not trusted further."""
        sizes = slice_sizes(shape)
        for tensor in self.model.output_tensors:
            if tensor.name not in names:
                continue
            wanted = tensor.sized(sizes)
            found = outputs[tensor.name]
            if found.shape != wanted or str(found.dtype) != tensor.dtype:
                raise BackendError(
                    f"backend '{self.name}' broke the contract of '{tensor.name}'",
                    got=f"{found.dtype} {found.shape}",
                    expected=f"{tensor.dtype} {wanted}",
                )


def memory_error(slices: NDArray[np.float32], error: Exception) -> OutOfMemoryError | None:
    """Return what a runtime's error means if it means a full memory, else None."""
    text = str(error)
    lowered = text.lower()
    if not isinstance(error, MemoryError) and not any(word in lowered for word in _MEMORY_WORDS):
        return None
    return OutOfMemoryError(
        f"a batch of {slices.shape[0]} slices does not fit into memory",
        got=text[-300:] or type(error).__name__,
        todo="use a smaller --batch",
    )


def parse_device(device: str) -> tuple[str, int]:
    """Split "cpu", "cuda" or "cuda:N" into kind and index.

    Raises:
        DeviceUnavailableError: any other text.
    """
    kind, _, index = device.partition(":")
    if kind == "cpu" and not index and device == "cpu":
        return "cpu", 0
    if kind == "cuda" and (device == "cuda" or index.isdecimal()):
        return "cuda", int(index or 0)
    raise DeviceUnavailableError(
        "unknown device", got=repr(device), expected="auto, cpu, cuda or cuda:N"
    )
