"""Tile sizes of the attention kernels: starting values, measured ones, and what a tuner may try.

Starting values follow from the registers: a tile of keys beside a tile of queries, its biases and
its sums have to fit a thread's 255 registers without spilling on every architecture, which
`autosam_deploy.kernels.ahead` checks without a GPU. They are no measurements. Measured choices are
looked up by the device's name; the file in the package holds those that came with a release.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from autosam_deploy.errors import UsageError

#: `grid`: attention over the whole grid. `window`: within windows. `bias`: the tables before both.
Kind = Literal["grid", "window", "bias"]
#: The measured choices that are part of the package.
PACKAGED = Path(__file__).with_name("tiles.json")
#: Shared memory a block may have on every supported GPU (sm86, 89 and 120: 99 KiB).
SHARED_BYTES = 99 * 1024
_BLOCKS, _WARPS, _STAGES = (16, 32, 64, 128, 256), (1, 2, 4, 8, 16), range(1, 9)


@dataclass(frozen=True)
class Tiles:
    """How one kernel is cut.

    block_m: queries a program takes. block_n: keys it takes at a time; whole token rows, so at
    least one row is taken however long. num_warps: warps of a program. num_stages: tiles of keys
    and values that are on their way at once, plus one.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        """Refuse what Triton cannot compile.

        Raises:
            UsageError: a number is none of those allowed.
        """
        for name, allowed in (
            ("block_m", _BLOCKS),
            ("block_n", _BLOCKS),
            ("num_warps", _WARPS),
            ("num_stages", _STAGES),
        ):
            value = getattr(self, name)
            if type(value) is not int or value not in allowed:
                raise UsageError(
                    f"tiles have an invalid {name}",
                    got=repr(value),
                    expected="one of " + ", ".join(map(str, allowed)),
                )


Measured = Mapping[tuple[str, Kind, int], Tiles]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kind: Kind
    width: int
    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    schema_version: Literal[1]
    devices: dict[str, list[_Row]]


#: (kind, widest head it is for) -> tiles, for every architecture from the named one on.
_STARTING: dict[int, dict[tuple[Kind, int], Tiles]] = {
    80: {
        ("grid", 64): Tiles(128, 64, 8, 3),
        ("grid", 128): Tiles(128, 64, 8, 2),
        ("window", 128): Tiles(64, 32, 4, 3),
        ("bias", 128): Tiles(64, 64, 4, 2),
    },
}
#: float32 is for checks: small tiles, as its products take many more registers.
_FLOAT32 = Tiles(32, 32, 4, 1)


def tiles_for(
    capability: int,
    kind: Kind,
    width: int,
    *,
    device: str | None = None,
    measured: Measured | None = None,
    itemsize: int = 2,
) -> Tiles:
    """Return the tiles of a kernel.

    Args:
        capability: 10 x major + minor of the GPU; 0 for Triton's interpreter.
        kind: which kernel.
        width: channels of a head.
        device: the GPU's name, to look up what was measured on it.
        measured: as `load_tiles` returns; without it only starting values are used.
        itemsize: bytes of an element; what was measured holds for halves (2).

    Raises:
        UsageError: the kind is not known, or the GPU is older than sm80.
    """
    check_kind(kind)
    if itemsize > 2:
        return _FLOAT32
    if measured is not None and device is not None:
        found = measured.get((device, kind, width))
        if found is not None:
            return found
    known = [one for one in _STARTING if one <= (capability or min(_STARTING))]
    if not known:
        raise UsageError(
            "no tiles for this GPU",
            got=f"capability {capability}",
            expected=f"{min(_STARTING)} or newer",
        )
    table = _STARTING[max(known)]
    widest = min(
        (most for one, most in table if one == kind and most >= width),
        default=max(most for one, most in table if one == kind),
    )
    return table[kind, widest]


def check_kind(kind: str) -> Kind:
    """Return a kind that is known.

    Raises:
        UsageError: it is not.
    """
    if kind not in get_args(Kind):
        raise UsageError(
            "no such kind of tiles", got=repr(kind), expected=", ".join(get_args(Kind))
        )
    return cast("Kind", kind)


def load_tiles(path: Path | None = None) -> Measured:
    """Read measured choices.

    The file is `{"schema_version": 1, "devices": {NAME: [{"kind", "width", "block_m", "block_n",
    "num_warps", "num_stages"}, ...]}}`, NAME as `torch.cuda.get_device_name` gives it.

    Args:
        path: the file; by default the one in the package.

    Returns:
        (device, kind, width) -> tiles.

    Raises:
        UsageError: the file cannot be read, is not of this form, or names one choice twice.
    """
    path = PACKAGED if path is None else path
    try:
        file = _File.model_validate_json(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"tiles '{path}' cannot be read", got=str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(one) for one in first["loc"]) or "the file"
        raise UsageError(f"tiles '{path}' are not valid", got=f"{where}: {first['msg']}") from error
    found: dict[tuple[str, Kind, int], Tiles] = {}
    for device, rows in file.devices.items():
        for row in rows:
            key = (device, row.kind, row.width)
            if key in found:
                raise UsageError(
                    f"tiles '{path}' name a choice twice",
                    got=f"{row.kind}, width {row.width}, of '{device}'",
                    expected="one row of each kind and width",
                )
            found[key] = Tiles(row.block_m, row.block_n, row.num_warps, row.num_stages)
    return found


def candidates(kind: Kind, width: int) -> Iterator[Tiles]:
    """Yield what a tuner should try, for halves.

    A warp multiplies 16 rows at a time, so programs have at most one warp for each 16 queries.
    Left out is what cannot fit: keys and values of all stages beyond `SHARED_BYTES`, and tiles
    whose scores, biases and sums alone take more than 255 registers a thread.

    Args:
        kind: which kernel.
        width: channels of a head.

    Raises:
        UsageError: the kind is not known.
    """
    check_kind(kind)
    if kind == "bias":
        for block_m, num_warps in product((32, 64, 128), (1, 2, 4, 8)):
            if block_m >= 16 * num_warps:
                yield Tiles(block_m, 64, num_warps, 2)
        return
    for block_m, block_n in product((32, 64, 128), (32, 64, 128)):
        for num_warps, num_stages in product((2, 4, 8), (1, 2, 3, 4)):
            shared = 2 * 2 * width * (block_n * max(1, num_stages - 1)) + 2 * width * block_m
            registers = block_m * (2 * block_n + width) // (32 * num_warps)
            if block_m >= 16 * num_warps and shared <= SHARED_BYTES and registers <= 255:
                yield Tiles(block_m, block_n, num_warps, num_stages)
