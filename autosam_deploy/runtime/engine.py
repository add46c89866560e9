"""The public way to run a bundle: slices or whole volumes in, labels out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.manifest import Manifest, Precision
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendInputError, OutOfMemoryError
from autosam_deploy.runtime.backend import Backend, BackendInfo, ProviderName, Request
from autosam_deploy.runtime.table import DEFAULT, backend_class
from autosam_deploy.spec import Axis
from autosam_deploy.volumes.slices import resolve_axis, slices_along, stack_labels
from autosam_deploy.volumes.volume import Volume

_LOG = logging.getLogger(__name__)
Progress = Callable[[int, int], None]

#: Pixels of encoder input that a batch holds under `auto`: one slice at 1024x1024, 16 at 256x256.
_AUTO_BATCH_PIXELS = 1024 * 1024


class Engine:
    """An opened bundle on a backend. One engine serves any number of volumes.

    Not thread-safe: open one per thread.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        """Take an opened bundle and backend; use `Engine.open`."""
        self.bundle = bundle
        self.backend = backend

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
        verify: bool = True,
    ) -> Engine:
        """Open a bundle.

        Args:
            bundle: the bundle or its folder.
            backend: "auto" or a row of `runtime.table.BACKENDS`.
            device: "auto", "cpu", "cuda" or "cuda:N". What is not there is an error; `auto` takes
                a usable GPU, else the CPU, and says why in `info.reason`.
            precision: "auto" takes fp32 on CPUs and the lowest precision of the bundle on GPUs.
            threads: CPU threads; None means every core that this process may use.
            provider: ONNX Runtime's execution provider, for that backend alone.
            verify: hash the bundle's members before using them.

        Raises:
            BundleError: the bundle is not sound.
            BackendError: the backend, device or precision is not there.
        """
        if threads is not None and threads < 1:
            raise BackendInputError("threads", got=str(threads), expected="1 or more")
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, verify=verify)
        kind = backend_class(DEFAULT if backend == "auto" else backend)
        request = Request(device=device, precision=precision, threads=threads, provider=provider)
        return cls(opened, kind(opened, request))

    @property
    def info(self) -> BackendInfo:
        """What is really in use: backend, device, provider, precision, versions, and why."""
        return self.backend.info

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    def labels(self, slices: NDArray[Any]) -> NDArray[np.uint8]:
        """Label raw slices.

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
        progress: Progress | None = None,
    ) -> Volume:
        """Label every slice of a volume.

        Beside the volume and its labels one batch of float32 slices is in memory.

        Args:
            volume: array (z, y, x) of any real dtype.
            axis: image axis that slices are taken along; None is the bundle's own.
            batch: slices per run; `auto` sizes it by the encoder. Halved when memory runs out,
                with a warning in the log.
            progress: called with (slices done, slices in all).

        Returns:
            Labels uint8 in the same geometry.

        Raises:
            BackendInputError: values that are not finite or do not fit float32.
            OutOfMemoryError: not even one slice fits.
        """
        chosen = resolve_axis(volume.geometry, axis or self.manifest.model.preprocess.slice_axis)
        stack = slices_along(volume.array, chosen)
        size = self.auto_batch() if batch == "auto" else batch
        if size < 1:
            raise BackendInputError("batch", got=str(batch), expected="1 or more, or auto")
        labels = np.empty(stack.shape, np.uint8)
        done = 0
        while done < len(stack):
            try:
                labels[done : done + size] = self.labels(stack[done : done + size])
            except OutOfMemoryError:
                if size == 1:
                    raise
                size = max(1, size // 2)
                _LOG.warning("out of memory: going on with batches of %d slices", size)
                continue
            done = min(done + size, len(stack))
            if progress is not None:
                progress(done, len(stack))
        return Volume(stack_labels(labels, chosen), volume.geometry, volume.name)

    def auto_batch(self) -> int:
        """Return the batch size that `auto` stands for."""
        height, width = self.manifest.model.encoder.image_size
        return max(1, min(16, _AUTO_BATCH_PIXELS // (height * width)))

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
    if array.dtype == np.float64 and array.size:
        # A finite float64 must not turn into infinity silently.
        peak = np.abs(array[np.isfinite(array)]).max(initial=0.0)
        if peak > np.finfo(np.float32).max:
            raise BackendInputError(
                "'slices'", got=f"magnitude {peak:.3g}", expected="float32 range"
            )
    return array.astype(np.float32, copy=False)
