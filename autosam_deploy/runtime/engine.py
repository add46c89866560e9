"""The public way to run a bundle: slices or whole volumes in, labels out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.manifest import Manifest, Precision
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendInputError, OutOfMemoryError
from autosam_deploy.runtime.backend import Backend, BackendInfo, ProviderName, Request
from autosam_deploy.runtime.options import make_options
from autosam_deploy.runtime.table import DEFAULT, backend_class
from autosam_deploy.spec import Axis
from autosam_deploy.volumes.slices import resolve_axis, slices_along
from autosam_deploy.volumes.volume import Volume

_LOG = logging.getLogger(__name__)
Progress = Callable[[int, int], None]

#: Pixels of encoder input that a batch holds under `auto`. A CPU gains nothing from batches of
#: big slices, and a batch that is too large there ends in the system killing the process rather
#: than in an error that could be answered; GPUs do report it, and the batch is halved.
_AUTO_PIXELS = {"cpu": 1024 * 1024, "cuda": 4 * 1024 * 1024}
_AUTO_MOST = 16


@dataclass(frozen=True)
class Labels(Volume):
    """Labels of a volume, uint8; `skipped` slices of it were not run and are background."""

    skipped: int = 0


class Engine:
    """An opened bundle on a backend. One engine serves any number of volumes.

    Not thread-safe: open one per thread. A context manager that closes itself.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        """Take an opened bundle and backend; use `Engine.open`."""
        self.bundle = bundle
        self.backend = backend
        # What a volume taught about the device's memory holds for the volumes after it.
        self._largest: int | None = None

    @classmethod
    def open(
        cls,
        bundle: Bundle | Path | str,
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: Precision | Literal["auto"] = "auto",
        threads: int | None = None,
        provider: ProviderName = "auto",
        options: Mapping[str, Any] | None = None,
        verify: bool = True,
    ) -> Engine:
        """Open a bundle.

        Args:
            bundle: the bundle or its folder.
            backend: "auto" or a row of `runtime.table.BACKENDS`.
            device: "auto", "cpu", "cuda" or "cuda:N". What is not there is an error; `auto` takes
                a usable GPU, else the CPU, and says why in `info.reason`.
            precision: "auto" takes fp32 on CPUs; on GPUs fp16 if the bundle has it, else fp32.
            threads: CPU threads; None means every core that this process may use.
            provider: ONNX Runtime's execution provider, for that backend alone.
            options: of the backend, by field of its `options_class`: values, or texts as on a
                command line (`{"arena": "off"}`).
            verify: hash the bundle's members before using them (a `Bundle` was opened already).

        Raises:
            BundleError: the bundle is not sound.
            BackendError: the backend, device or precision is not there.
            UsageError: the backend has no such option, or it takes other values.
        """
        if threads is not None and threads < 1:
            raise BackendInputError("threads", got=str(threads), expected="1 or more")
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, verify=verify)
        kind = backend_class(DEFAULT if backend == "auto" else backend)
        request = Request(device=device, precision=precision, threads=threads, provider=provider)
        chosen = make_options(kind.options_class, options or {}, backend=kind.name)
        return cls(opened, kind(opened, request, options=chosen))

    @property
    def info(self) -> BackendInfo:
        """What is really in use: backend, device, provider, precision, versions, and why.

        Batches that were halved for want of memory are among its notes.
        """
        if self._largest is None:
            return self.backend.info
        note = f"out of memory: batches were halved to {self._largest} slices"
        return replace(self.backend.info, notes=(*self.backend.info.notes, note))

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    def labels(self, slices: NDArray[Any]) -> NDArray[np.uint8]:
        """Label raw slices, as one batch (`segment` splits; this does not).

        Args:
            slices: (B, 1, H, W) or (B, H, W), any real dtype, any intensity scale.

        Returns:
            Labels (B, H, W) uint8.

        Raises:
            BackendInputError: wrong shape, dtype or values.
        """
        batch = as_slices(slices)
        names = tuple(self.manifest.model.outputs)
        if "labels" in names:
            found: NDArray[np.uint8] = self.backend.run(batch, ("labels",))["labels"]
            return found
        # A bundle with logits alone: the same rule as in the graph, first of equals.
        logits = self.backend.run(batch, ("logits",))["logits"]
        return np.asarray(logits.argmax(axis=1), dtype=np.uint8)

    def logits(self, slices: NDArray[Any]) -> NDArray[np.float32]:
        """Return logits (B, K, H, W) float32 of raw slices (see `labels`).

        Raises:
            BackendInputError: wrong input, or the bundle was exported without logits.
        """
        return self.backend.run(as_slices(slices), ("logits",))["logits"]

    def outputs(self, slices: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return every output of the model by name, from one run (see `labels`)."""
        return self.backend.run(as_slices(slices), tuple(self.manifest.model.outputs))

    def segment(
        self,
        volume: Volume,
        *,
        axis: Axis | None = None,
        batch: int | Literal["auto"] = "auto",
        skip_flat: bool = False,
        progress: Progress | None = None,
    ) -> Labels:
        """Label every slice of a volume.

        Beside the volume and its labels one batch of float32 slices is in memory.

        Args:
            volume: array (z, y, x) of any real dtype.
            axis: image axis that slices are taken along; None is the bundle's own.
            batch: slices per run; `auto` sizes it by the encoder. Halved when memory runs out,
                with a warning in the log.
            skip_flat: slices that hold one value are background without a run. A model may say
                something else of them: normalised, such a slice is zeros, which it was hardly
                ever trained on.
            progress: called with (slices done, slices to run).

        Returns:
            Labels uint8 in the same geometry, and how many slices were skipped.

        Raises:
            BackendInputError: values that are not finite or do not fit float32; no slices.
            OutOfMemoryError: not even one slice fits.
        """
        chosen = resolve_axis(volume.geometry, axis or self.manifest.model.preprocess.slice_axis)
        stack = slices_along(volume.array, chosen)
        if batch != "auto" and batch < 1:
            raise BackendInputError("batch", got=str(batch), expected="1 or more, or auto")
        if 0 in stack.shape:
            raise BackendInputError("the volume is empty", got=f"shape {volume.array.shape}")
        _check_finite(volume)
        todo = np.flatnonzero(~_flat(stack)) if skip_flat else np.arange(len(stack))
        # In the order of the volume: turned round afterwards, labels would be there twice.
        labels = np.zeros(volume.array.shape, np.uint8)
        self._run_all(stack, slices_along(labels, chosen), todo, batch, progress)
        skipped = len(stack) - len(todo)
        return Labels(labels, volume.geometry, volume.name, skipped=skipped)

    def _run_all(
        self,
        stack: NDArray[Any],
        labels: NDArray[np.uint8],
        todo: NDArray[np.intp],
        batch: int | Literal["auto"],
        progress: Progress | None,
    ) -> None:
        """Fill in the labels of the slices with the numbers `todo`, a batch at a time."""
        size = self.auto_batch(len(todo)) if batch == "auto" else min(batch, len(todo))
        size = min(size, self._largest or size)
        done = 0
        while done < len(todo):
            part = _numbers(todo[done : done + size])
            try:
                labels[part] = self.labels(stack[part])
            except OutOfMemoryError:
                if size == 1:
                    raise
                self._largest = size = (size + 1) // 2
                _LOG.warning("out of memory: going on with batches of %d slices", size)
                continue
            done = min(done + size, len(todo))
            if progress is not None:
                progress(done, len(todo))

    def auto_batch(self, slices: int = _AUTO_MOST) -> int:
        """Return the batch size that `auto` stands for, with so many slices to run."""
        height, width = self.manifest.model.encoder.image_size
        device = self.backend.info.device.partition(":")[0]
        pixels = _AUTO_PIXELS.get(device, _AUTO_PIXELS["cpu"])
        wanted = max(pixels // (height * width), self.backend.side_by_side)
        return max(1, min(max(_AUTO_MOST, self.backend.side_by_side), slices, wanted))

    def close(self) -> None:
        """Release the model."""
        self.backend.close()

    def __enter__(self) -> Self:
        """Return the engine."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()


def as_slices(slices: NDArray[Any]) -> NDArray[np.float32]:
    """Return slices as (B, 1, H, W) float32, without a copy where they are that already.

    Raises:
        BackendInputError: not real numbers, another rank, or values beyond float32.
    """
    array = np.asarray(slices)
    if array.dtype.kind not in "iufb":
        raise BackendInputError("'slices'", got=str(array.dtype), expected="real numbers")
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or array.shape[1] != 1:
        raise BackendInputError(
            "'slices'", got=f"shape {np.shape(slices)}", expected="(B, 1, H, W) or (B, H, W)"
        )
    if array.dtype.kind == "f" and array.dtype.itemsize > 4 and array.size:
        # A finite float64 must not turn into infinity silently.
        peak = np.abs(array[np.isfinite(array)]).max(initial=0.0)
        if peak > np.finfo(np.float32).max:
            raise BackendInputError(
                "'slices'", got=f"magnitude {peak:.3g}", expected="float32 range"
            )
    try:
        return array.astype(np.float32, copy=False)
    except MemoryError as error:
        raise OutOfMemoryError(
            f"a batch of {len(array)} slices does not fit into memory", got=str(error)
        ) from error


def _check_finite(volume: Volume) -> None:
    """Refuse NaN and infinity before the first of many slow batches, plane by plane for memory."""
    if volume.array.dtype.kind != "f":
        return
    # Planes as they lie in memory, whatever axis is sliced along.
    bad = sum(plane.size - int(np.isfinite(plane).sum()) for plane in volume.array)
    if bad:
        raise BackendInputError(
            f"volume '{volume.name}' holds values that are not finite",
            got=f"{bad} of {volume.array.size}",
            todo="mask NaN and infinity before segmenting",
        )


def _flat(stack: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which slices of (N, H, W) hold one value, without a copy of the stack."""
    found: NDArray[np.bool_] = stack.min(axis=(1, 2)) == stack.max(axis=(1, 2))
    return found


def _numbers(part: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Return slice numbers as a range where they are one: then a batch is a view."""
    first, last = int(part[0]), int(part[-1])
    return slice(first, last + 1) if last - first + 1 == len(part) else part
