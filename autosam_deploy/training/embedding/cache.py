"""Embeddings on disk: made once, found again by what they were made from.

    CACHE/<space>/space.json        what all embeddings in this folder have in common
    CACHE/<space>/<xx>/<key>.npy    one embedding (C, Sh, Sw); xx are the first digits of the key

A space is the encoder's weights, its image size, the preprocessing, the precision of the arithmetic
and the stored dtype: another value of any of them is another folder, so an embedding of other
weights can never be taken by mistake. A key is the hash of the raw slice and of the view's recipe.
Files are renamed into place, so a killed process leaves whole files and goes on from them; one that
is cut short all the same (a crashed machine) is noticed by its size and made again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.errors import OutputError, UsageError
from autosam_deploy.files import atomic_file, write_json
from autosam_deploy.sizes import show_bytes
from autosam_deploy.spec import PreprocessSpec
from autosam_deploy.strict import Strict

CacheDtype = Literal["float16", "float32"]

#: numpy's header of a file of these shapes; its size is a part of what is expected of a file.
_HEADER_BYTES = 128
#: What must stay free on the disk beyond the embeddings.
_SPARE_BYTES = 64 << 20


class Space(Strict):
    """What the embeddings of one folder have in common (see the module's head).

    `preprocess.slice_axis` does not count: it says how volumes are cut, not what becomes of a
    slice. `encoder.name` does not count either. `precision` is that of the encoder's arithmetic.
    """

    encoder: EncoderSpec
    encoder_sha256: str
    preprocess: PreprocessSpec
    precision: Literal["fp32"] = "fp32"
    dtype: CacheDtype = "float16"
    version: Literal[1] = 1

    @property
    def name(self) -> str:
        """The folder's name: a hash of all fields that count."""
        counting = self.model_copy(
            update={
                "encoder": self.encoder.model_copy(update={"name": "encoder"}),
                "preprocess": self.preprocess.model_copy(update={"slice_axis": "auto"}),
            }
        )
        return hashlib.sha256(counting.model_dump_json().encode()).hexdigest()[:16]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, Sh, Sw) of an embedding."""
        return (self.encoder.out_chans, *self.encoder.grid)

    @property
    def file_bytes(self) -> int:
        """Size of one file."""
        return _HEADER_BYTES + int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class CachePlan:
    """What a run needs of a cache, before anything is computed.

    keys: of all embeddings that the run needs. missing: those that are not there. new_bytes: what
    they will take. total_bytes: the whole cache folder afterwards, other spaces and runs included.
    """

    keys: tuple[str, ...]
    missing: tuple[str, ...]
    new_bytes: int
    total_bytes: int


class EmbeddingCache:
    """One space of a cache folder. Several processes may use it at a time."""

    def __init__(self, folder: Path, space: Space, *, limit_bytes: int) -> None:
        """Name the folder; nothing is written yet.

        Args:
            folder: the cache, shared by all spaces, heads and runs.
            space: what the embeddings are.
            limit_bytes: what the whole cache may hold; the least recently used files give way.
        """
        self.folder = folder
        self.space = space
        self.limit_bytes = limit_bytes
        self.home = folder / space.name

    def path(self, key: str) -> Path:
        """Return where an embedding is, or would be."""
        return self.home / key[:2] / f"{key}.npy"

    def has(self, key: str) -> bool:
        """Tell whether an embedding is there and as long as it must be."""
        try:
            return self.path(key).stat().st_size == self.space.file_bytes
        except OSError:
            return False

    def get(self, key: str) -> NDArray[Any]:
        """Return an embedding (C, Sh, Sw), memory-mapped, read-only.

        Raises:
            OutputError: it is not there, or not what its place says.
        """
        path = self.path(key)
        try:
            found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            os.utime(path)  # a mark of use, for `make_room`; validity never depends on times
        except (OSError, ValueError) as error:
            raise OutputError(
                f"cached embedding '{path}' cannot be read",
                got=str(error),
                todo="run again: what is damaged is made anew",
            ) from error
        if found.shape != self.space.shape or found.dtype != self.space.dtype:
            raise OutputError(
                f"cached embedding '{path}' is not what its folder says",
                got=f"{found.dtype} {found.shape}",
                expected=f"{self.space.dtype} {self.space.shape}",
                todo=f"delete '{self.home}'",
            )
        return found

    def mark_used(self, key: str) -> None:
        """Note that an embedding is needed now, so that others give way before it.

        Raises:
            OutputError: it is not there.
        """
        try:
            os.utime(self.path(key))
        except OSError as error:
            raise OutputError(
                f"cached embedding '{self.path(key)}' cannot be read",
                got=error.strerror or str(error),
                todo="run again: what is gone is made anew",
            ) from error

    def put(self, key: str, embedding: NDArray[np.float32]) -> None:
        """Store an embedding (C, Sh, Sw) in the space's dtype.

        Raises:
            UsageError: it holds values that the dtype cannot hold, or NaN.
            OutputError: it cannot be written; what is there already stays.
        """
        with np.errstate(over="ignore"):  # what overflows is refused below
            stored = embedding.astype(self.space.dtype)
        if not np.isfinite(stored).all():
            peak = float(np.abs(embedding).max())
            raise UsageError(
                "an embedding does not fit the cache's dtype",
                got=f"magnitude {peak:.4g}",
                expected=f"finite in {self.space.dtype}",
                todo="use --cache-dtype float32, or check the encoder's weights",
            )
        with atomic_file(self.path(key)) as temporary, temporary.open("wb") as stream:
            np.save(stream, stored, allow_pickle=False)

    def plan(self, keys: Iterable[str]) -> CachePlan:
        """Say what is missing and what it will take.

        Raises:
            UsageError: more than the limit for this run alone, or than the disk has.
        """
        wanted = tuple(dict.fromkeys(keys))
        missing = tuple(key for key in wanted if not self.has(key))
        size = self.space.file_bytes
        if len(wanted) * size > self.limit_bytes:
            raise UsageError(
                "the embeddings of this run do not fit the cache's limit",
                got=f"{show_bytes(len(wanted) * size)} ({len(wanted)} of {show_bytes(size)})",
                expected=f"at most {show_bytes(self.limit_bytes)}",
                todo="raise --cache-limit, or use fewer --views, fewer volumes or float16",
            )
        new = len(missing) * size
        held = sum(entry.bytes for entry in self._entries())
        free = shutil.disk_usage(_existing(self.folder)).free
        # What gives way to the limit becomes free as well.
        freed = max(0, held + new - self.limit_bytes)
        if new + _SPARE_BYTES > free + freed:
            raise OutputError(
                f"the embeddings do not fit on the disk of '{self.folder}'",
                got=f"{show_bytes(free)} free",
                expected=f"{show_bytes(new + _SPARE_BYTES)}",
                todo="free space, or put the cache elsewhere with --cache",
            )
        return CachePlan(wanted, missing, new, min(held + new, max(self.limit_bytes, new)))

    def make_room(self, plan: CachePlan) -> int:
        """Remove the least recently used embeddings that a run does not need, down to the limit.

        Files that another process has mapped stay readable there.

        Returns:
            The number of bytes removed.
        """
        entries = list(self._entries())
        excess = sum(entry.bytes for entry in entries) + plan.new_bytes - self.limit_bytes
        if excess <= 0:
            return 0
        needed = {self.path(key) for key in plan.keys}
        removed = 0
        for entry in sorted(entries, key=lambda one: one.used):
            if removed >= excess:
                break
            if entry.path not in needed:
                entry.path.unlink(missing_ok=True)
                removed += entry.bytes
        return removed

    def describe(self) -> None:
        """Write `space.json`, so that a person can tell what a folder is of."""
        path = self.home / "space.json"
        if not path.is_file():
            write_json(path, self.space.model_dump(mode="json"))

    def _entries(self) -> Iterable[_Entry]:
        for path in self.folder.glob("*/??/*.npy"):
            try:
                state = path.stat()
            except OSError:
                continue  # another process removed it meanwhile
            yield _Entry(path, state.st_size, state.st_mtime_ns)


@dataclass(frozen=True)
class Stored:
    """An embedding on disk, for numpy an array: mapped while it is read, and no longer.

    A mapping holds a file descriptor as long as it lives, and a training has more embeddings than
    most systems allow a process descriptors.
    """

    cache: EmbeddingCache
    key: str

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the embedding (C, Sh, Sw), in memory.

        Raises:
            OutputError: it is not there, or not what its place says.
        """
        return np.array(self.cache.get(self.key), dtype)


@dataclass(frozen=True)
class _Entry:
    path: Path
    bytes: int
    used: int


def slice_sha256(slice_: NDArray[np.float32]) -> str:
    """Return the hash of a raw slice (H, W) float32: its shape and its values."""
    digest = hashlib.sha256(f"{slice_.shape[0]}x{slice_.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(slice_, dtype="<f4").data)
    return digest.hexdigest()


def entry_key(slice_hash: str, view: str) -> str:
    """Return the key of an embedding: of a slice as it is (`view` is empty) or of a view."""
    return hashlib.sha256(f"{slice_hash}:{view}".encode()).hexdigest()


def _existing(path: Path) -> Path:
    """Return the closest folder that exists."""
    absolute = path.absolute()
    return next(one for one in (absolute, *absolute.parents) if one.exists())
