"""Weights files as bytes: safetensors or torch.save, told apart by content, never run as code."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from autosam_deploy.errors import CheckpointError
from autosam_deploy.models.states import listing

#: Keys under which training scripts keep the weights beside epoch, optimiser and the like.
WRAPPERS = ("state_dict", "model", "model_state_dict")
#: Prefixes that wrappers put before every name: DataParallel, torch.compile, Lightning.
_PREFIXES = ("module.", "_orig_mod.", "model.")

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_FORBIDDEN = re.compile(
    r"Unsupported (?:global|class|operand)|not an allowed global", re.IGNORECASE
)
_GLOBAL = re.compile(r"GLOBAL (\S+)")
# Whatever torch's readers raise on bytes that were cut or altered.
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)
_DAMAGED_TODO = "copy or download the file again and compare its size"


@dataclass(frozen=True, eq=False)
class RawFile:
    """Named tensors of a file, outer key and common prefixes taken off.

    `strangers` are top-level entries among the weights that are no tensors; `metadata` comes with
    safetensors only.
    """

    state: dict[str, Tensor]
    wrapped: str | None
    strangers: tuple[str, ...]
    metadata: dict[str, str]


def read_file(path: Path) -> RawFile:
    """Read a weights file.

    Raises:
        CheckpointError: the file is not there, not readable, damaged, of another kind, or a pickle
            that wants to run code (which it does not get to do).
    """
    start = _first_bytes(path)
    metadata: dict[str, str] = {}
    # safetensors first: its leading length may begin with any byte, a pickle's 0x80 among them.
    if start[8:9] == b"{":
        content, metadata = _load_safetensors(path)
    elif start.startswith((_ZIP, _PICKLE)):
        content = _load_torch(path)
    else:
        raise CheckpointError(
            "it is not a weights file",
            got=_describe(start),
            expected="a file written by torch.save or safetensors",
        )
    wrapped, weights = _unwrap(content)
    tensors = {str(k): v for k, v in weights.items() if isinstance(v, Tensor)}
    strangers = tuple(str(k) for k, v in weights.items() if not isinstance(v, Tensor))
    if not tensors:
        raise CheckpointError(
            "it holds no weights",
            got=f"entries {listing(strangers)}" if strangers else "no entries",
            expected="named tensors, at the top or under " + ", ".join(WRAPPERS),
        )
    return RawFile(_as_float32(_strip(tensors)), wrapped, strangers, metadata)


def _first_bytes(path: Path) -> bytes:
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in {".safetensors", ".pth"})
        hint = f"name a file in it: {listing(inside)}" if inside else "name the file itself"
        raise CheckpointError("it is a folder", expected="a file", todo=hint)
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
    except OSError as error:
        raise CheckpointError("it cannot be opened", got=error.strerror or str(error)) from error
    if not start:
        raise CheckpointError("it is empty", todo=_DAMAGED_TODO)
    return start


def _describe(start: bytes) -> str:
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        # A failed download or a Git LFS pointer is best recognised by its own first words.
        return f"text that begins with {start[:40].decode('ascii')!r}"
    return f"bytes that begin with {start[:8].hex(' ')}"


def _load_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # What torch warns of (old protocols, sparse tensors) is an error below or harmless.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        text = str(error)
        if _FORBIDDEN.search(text):
            name = _GLOBAL.search(text)
            raise CheckpointError(
                "it is a pickle of more than weights, and none of it was run",
                got=f"a reference to '{name.group(1)}'"
                if name
                else "instructions unknown to torch",
                expected="tensors, numbers and text only",
                todo="save the model's state_dict() alone, where you trust the file",
            ) from error
        raise _damaged(error) from error


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            return {name: stream.get_tensor(name) for name in stream.keys()}, metadata  # noqa: SIM118 - safe_open is no mapping
    except (SafetensorError, *_DAMAGE) as error:
        raise _damaged(error) from error


def _damaged(error: BaseException) -> CheckpointError:
    detail = " ".join(str(error).split()) or "no detail"
    return CheckpointError(
        "it is truncated or damaged",
        got=f"{type(error).__name__}: {detail[:120]}",
        todo=_DAMAGED_TODO,
    )


def _unwrap(content: Any) -> tuple[str | None, Mapping[Any, Any]]:
    if not isinstance(content, Mapping):
        raise CheckpointError(
            "it holds no weights by name",
            got=f"a {type(content).__name__}",
            expected="a state dict",
        )
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping):
            return key, content[key]
    return None, content


def _strip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off prefixes that every name has, as often as they come."""
    while prefix := next(
        (p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), None
    ):
        tensors = {name[len(prefix) :]: tensor for name, tensor in tensors.items()}
    return tensors


def _as_float32(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise CheckpointError(
                f"weight '{name}' is not plain numbers",
                got=f"{tensor.layout}, {tensor.dtype}",
                expected="a dense real tensor",
            )
    return {name: tensor.detach().to(torch.float32) for name, tensor in tensors.items()}
