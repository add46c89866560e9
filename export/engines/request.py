"""What engine is wanted: family, GPUs, precision, sizes; and how the command line writes that."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from autosam_deploy.bundle.manifest import Manifest
from autosam_deploy.errors import ExportError, UsageError
from autosam_deploy.runtime.nvidia.families import FAMILIES, Family

Triple = tuple[int, int, int]

#: Word on the command line -> family.
WORDS = {family.word: family for family in FAMILIES.values()}
#: GPUs that RTX engines are built for unless others are named: GeForce and RTX workstation cards
#: of the last three generations.
DEFAULT_RTX = (86, 89, 120)
DEFAULT_BATCH: Triple = (1, 4, 8)
#: Sides of slices, in pixels. The range costs no memory: activations are the encoder's.
SMALLEST_SIDE, LARGEST_SIDE = 16, 1024


@dataclass(frozen=True)
class EngineRequest:
    """One call of the builder for each of `capabilities`.

    family: a key of `FAMILIES`. capabilities: 89 is sm89; empty means the family's default, which
    for `tensorrt` is the device that is here. precision: of the graph to build from. batch, size:
    smallest, best and largest number of slices and side in pixels; size None follows the golden
    slices. workspace_bytes: scratch memory that kernels may take at most.
    """

    family: str = "tensorrt_rtx"
    capabilities: tuple[int, ...] = ()
    precision: Literal["auto", "fp16", "fp32"] = "auto"
    batch: Triple = DEFAULT_BATCH
    size: Triple | None = None
    workspace_bytes: int | None = None


def parse_family(word: str) -> Family:
    """Return the family of `--engine`.

    Raises:
        UsageError: unknown word.
    """
    if word not in WORDS:
        raise UsageError("--engine", got=repr(word), expected=" or ".join(sorted(WORDS)))
    return WORDS[word]


def parse_triple(text: str, option: str) -> Triple:
    """Read MIN:OPT:MAX, or one number for all three.

    Raises:
        UsageError: no numbers, or they do not rise from 1.
    """
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(part.isdecimal() and len(part) < 7 for part in parts):
        raise UsageError(option, got=repr(text), expected="MIN:OPT:MAX or one number")
    low, best, high = (int(part) for part in (parts if len(parts) == 3 else parts * 3))
    if not 1 <= low <= best <= high:
        raise UsageError(option, got=repr(text), expected="1 <= MIN <= OPT <= MAX")
    return low, best, high


def parse_capabilities(text: str | None) -> tuple[int, ...]:
    """Read compute capabilities by comma: "86,89", "sm89", "8.9".

    Raises:
        UsageError: something else.
    """
    if text is None:
        return ()
    found = []
    for part in text.split(","):
        digits = part.strip().lower().removeprefix("sm").replace(".", "").lstrip("_")
        if not digits.isdecimal() or not 2 <= len(digits) <= 3:
            raise UsageError("--sm", got=repr(part), expected="numbers by comma, such as 86,89,120")
        found.append(int(digits))
    return tuple(dict.fromkeys(found))


def known_capabilities(module: Any) -> dict[int, Any]:
    """Return the GPUs that a library of the RTX family names: 89 -> its enumeration's member."""
    members = getattr(module.ComputeCapability, "__members__", {})
    return {int(name[2:]): value for name, value in members.items() if name.startswith("SM")}


def resolve_capabilities(
    request: EngineRequest, module: Any, *, device: int | None
) -> tuple[int, ...]:
    """Return the GPUs to build for.

    Args:
        request: names them, or leaves it to the family.
        module: the family's library.
        device: compute capability of the device that is here; None without one.

    Raises:
        UsageError: the family cannot build for one of them.
        ExportError: `tensorrt` without a device: it measures kernels on the one it builds for.
    """
    family = FAMILIES[request.family]
    if family.name == "tensorrt":
        if device is None:
            raise ExportError(
                f"{family.title} builds engines on the GPU that they are for",
                got="no usable device here",
                todo="run the same command on the target, or build with --engine rtx",
            )
        if request.capabilities not in ((), (device,)):
            raise UsageError("--sm", got=_listed(request.capabilities), expected=f"sm{device}")
        return (device,)
    known = known_capabilities(module)
    wanted = request.capabilities or tuple(sm for sm in DEFAULT_RTX if sm in known)
    if unknown := [sm for sm in wanted if sm not in known]:
        raise UsageError(
            f"{family.title} cannot build for sm{unknown[0]}",
            got=_listed(wanted),
            expected=f"some of {_listed(tuple(sorted(known)))}",
            todo="data-centre GPUs such as sm90 take --engine tensorrt, built there"
            if unknown[0] in (90, 100, 103)
            else None,
        )
    return wanted


def _listed(capabilities: tuple[int, ...]) -> str:
    return ", ".join(f"sm{sm}" for sm in capabilities)


def make_profile(
    request: EngineRequest, manifest: Manifest, golden: list[tuple[int, ...]]
) -> dict[str, Triple]:
    """Return the sizes of the dynamic axes.

    Args:
        request: names them, or leaves sides to the golden slices.
        manifest: of the bundle; its input tensor has the axes.
        golden: shapes (B, 1, H, W) of the golden slices, which an engine must be able to run.

    Returns:
        Axis symbol -> (smallest, best, largest).

    Raises:
        ExportError: a golden slice lies outside of the profile.
    """
    sides = [side for shape in golden for side in shape[2:]]
    size = request.size or (
        min(SMALLEST_SIDE, *sides),
        round(median(sides)),
        max(LARGEST_SIDE, *sides),
    )
    batches, height, width = (
        axis for axis in manifest.model.input_tensor.shape if isinstance(axis, str)
    )
    for low, high, option, found in (
        (size[0], size[2], "--size", sorted(sides)),
        # Larger batches are cut into pieces; smaller ones cannot be made larger.
        (request.batch[0], None, "--batch", sorted(shape[0] for shape in golden)),
    ):
        if found[0] < low or (high is not None and found[-1] > high):
            raise ExportError(
                f"the profile of {option} leaves out the golden slices of the bundle",
                got=f"{low}..{high or 'any'}",
                expected=f"{found[0]}..{found[-1]} inside",
                todo=f"widen {option}, or export the bundle with --samples of the size you need",
            )
    return {batches: request.batch, height: size, width: size}
