"""The attention kernels at the encoders' shapes, one at a time, checked and timed for the tuner.

Each kernel is launched by itself, on inputs that are made here and not by the other kernel, so that
what is wrong with one is not blamed on the other.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from autosam_deploy.errors import BackendError
from autosam_deploy.kernels.launch import check_device, interpreted, on_device
from autosam_deploy.kernels.relpos import relpos_attention_reference
from autosam_deploy.kernels.relpos_plan import Layout, Plan
from autosam_deploy.kernels.tiles import Kind, Tiles

#: Takes the work of one turn and returns the seconds that it takes on the device.
Timer = Callable[[Callable[[int], None]], float]

#: Sets of inputs that take turns: at least two, and more than twice the GPU's cache together.
_LEAST_SETS, _MOST_SETS = 2, 8
#: Of a token's channels, as a root of a mean square, relative to that of the whole result: biases,
#: weights and the result are each rounded to the dtype.
TOLERANCE = 16.0
#: What is written before every timed burst: it takes longer than the launches of the burst do, so
#: that they wait in the queue and the GPU does not wait for them. It also empties the cache.
_FILLER_BYTES = 256 << 20
_WARM_BURSTS, _BURSTS, _TURNS = 3, 15, 2


class RefusedError(BackendError):
    """Tiles that do not compile, do not fit the GPU, or give a wrong result."""

    def __init__(self, why: str, *, wrong: bool = False) -> None:
        """Say why; `wrong` where the kernel ran and its result is not the reference's."""
        super().__init__(why)
        self.wrong = wrong


@dataclass(frozen=True)
class Problem:
    """One kernel at one shape.

    Attributes:
        kind: which kernel; `bias` belongs to attention with `window`.
        plan: the sizes.
        dtype: float16 or bfloat16.
        batch: slices.
        blocks: how many blocks of an encoder do this: its weight in a sum of times.
    """

    kind: Kind
    plan: Plan
    dtype: torch.dtype
    batch: int
    blocks: int


class Work:
    """Inputs and reference of a problem, and the launch of its kernel."""

    def __init__(self, problem: Problem, device: torch.device) -> None:
        """Make inputs and compute the reference of the first set in float32.

        Args:
            problem: what to launch.
            device: an NVIDIA GPU, or the CPU in Triton's interpreter.
        """
        self.problem, self.device = problem, device
        self._random = torch.Generator(device).manual_seed(0)
        plan, dtype = problem.plan, problem.dtype
        self._tables = tuple(
            self._normal(side, plan.channels, side).to(dtype) for side in plan.sides
        )
        channels = plan.heads * plan.channels
        self._layout = Layout.of_thirds(plan.width, channels)
        shape = (problem.batch, plan.height, plan.width, 3 * channels)
        count = sets_of(problem.batch * plan.height * plan.width * 3 * channels * 2, device)
        self._projections = [self._projection(shape, dtype) for _ in range(count)]
        self._biases = [self._reference_biases(one) for one in self._projections]
        size = (*shape[:3], channels)
        self._out = torch.empty(size, dtype=dtype, device=device)
        self._written = [torch.empty_like(one) for one in self._biases[0]]
        self._expected = self._reference()

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._random, device=self.device)

    def _projection(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return q, k, v as thirds; q carries the scale, so scores and biases are of one size."""
        found = self._normal(*shape)
        found[..., : shape[-1] // 3] *= self.problem.plan.channels**-0.5
        return found.to(dtype)

    def _reference_biases(self, projection: Tensor) -> tuple[Tensor, Tensor]:
        """Return bias_h (unit, h, tokens) and bias_w (unit, tokens, padded w) in the dtype."""
        plan = self.problem.plan
        (side_h, side_w), (down, across) = plan.sides, plan.windows
        queries = projection.chunk(3, dim=-1)[0].float()
        padding = (0, 0, 0, across * side_w - plan.width, 0, down * side_h - plan.height)
        cut = F.pad(queries, padding).reshape(
            -1, down, side_h, across, side_w, plan.heads, plan.channels
        )
        units = cut.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, side_h, side_w, plan.channels)
        table_h, table_w = (table.float() for table in self._tables)
        bias_h = torch.einsum("uyxc,ycr->uryx", units, table_h).flatten(2)
        bias_w = torch.einsum("uyxc,xcs->uyxs", units, table_w).flatten(1, 2)
        bias_w = F.pad(bias_w, (0, plan.pads[1] - side_w))
        dtype = self.problem.dtype
        return bias_h.to(dtype).contiguous(), bias_w.to(dtype).contiguous()

    def _reference(self) -> tuple[Tensor, ...]:
        if self.problem.kind == "bias":
            return self._biases[0]
        plan = self.problem.plan
        parts = self._projections[0].chunk(3, dim=-1)
        expected = torch.empty(self._out.shape, device=self.device)
        # A dense bias of all heads and slices is gigabytes.
        for number in range(self.problem.batch):
            for head in range(plan.heads):
                own = slice(head * plan.channels, (head + 1) * plan.channels)
                q, k, v = (part[number : number + 1, ..., own] for part in parts)
                expected[number : number + 1, ..., own] = relpos_attention_reference(
                    q, k, v, *self._tables, num_heads=1, window=plan.window
                )
        return (expected,)

    def launch(self, tiles: Tiles, turn: int) -> None:
        """Launch the kernel on one of the sets of inputs."""
        with on_device(self.device):
            if self.problem.kind == "bias":
                self._launch_bias(tiles, turn)
            else:
                self._launch_attention(tiles, turn)

    def _launch_bias(self, tiles: Tiles, turn: int) -> None:
        # Triton's kernels are compiled code of their own.
        from autosam_deploy.kernels.relpos_bias_triton import relpos_bias

        plan, batch = self.problem.plan, self.problem.batch
        projection = self._projections[turn % len(self._projections)]
        relpos_bias[(plan.bias_programs(batch, tiles),)](
            *(projection, *self._tables, *self._written),
            *(projection.stride(0), plan.units(batch)),
            **plan.bias_constants(self._layout, tiles),
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )

    def _launch_attention(self, tiles: Tiles, turn: int) -> None:
        from autosam_deploy.kernels.relpos_triton import relpos_attention

        plan, at = self.problem.plan, turn % len(self._projections)
        parts = self._projections[at].chunk(3, dim=-1)
        relpos_attention[(plan.attention_programs(self.problem.batch, tiles),)](
            *(*parts, *self._biases[at], self._out),
            *(part.stride(0) for part in parts),
            **plan.attention_constants(self._layout, tiles),
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )

    def check(self, tiles: Tiles) -> None:
        """Launch once and compare with the reference.

        Raises:
            RefusedError: the result is not the reference's.
        """
        found = tuple(self._written) if self.problem.kind == "bias" else (self._out,)
        for one in found:
            one.fill_(float("nan"))
        self.launch(tiles, 0)
        limit = TOLERANCE * torch.finfo(self.problem.dtype).eps
        for one, expected in zip(found, self._expected, strict=True):
            error = worst_token(one.float(), expected.float())
            # Written so that a NaN is wrong.
            if not error <= limit:
                raise RefusedError(f"wrong by {error:.3g} of {limit:.3g}", wrong=True)


def worst_token(found: Tensor, expected: Tensor) -> float:
    """Return the largest error of a line of the last axis, relative to the size of the whole.

    Both are roots of mean squares. A NaN anywhere gives NaN.
    """
    apart = (found - expected).square().mean(dim=-1).max().sqrt()
    return float(apart / expected.square().mean().sqrt())


def problem_of(
    kind: Kind, plan: Plan, *, dtype: str, batch: int, blocks: int, device: torch.device
) -> Problem:
    """Return a problem, with what the interpreter needs where that is what runs.

    Args:
        kind: which kernel.
        plan: its sizes.
        dtype: "fp16" or "bf16".
        batch: slices.
        blocks: blocks of an encoder that do this.
        device: where it will run.

    Raises:
        BackendError: kernels cannot run there.
    """
    check_device(torch.empty(0, device=device))
    found = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    if interpreted() and found == torch.bfloat16:
        plan = Plan(**{**vars(plan), "widen": True})
    return Problem(kind, plan, found, batch, blocks)


def sets_of(size: int, device: torch.device) -> int:
    """Return how many sets of inputs of so many bytes take turns."""
    if device.type != "cuda":
        return _LEAST_SETS
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return max(_LEAST_SETS, min(_MOST_SETS, -(-2 * cache // size)))


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what compiling and launching may raise into a `RefusedError`.

    Raises:
        RefusedError: Triton or the driver does not take the tiles.
        BackendError: the GPU does not answer any more, which ends the process's work with it.
    """
    from triton import TritonError

    try:
        yield
    except (TritonError, RuntimeError) as error:
        text = f"{type(error).__name__}: {error}"
        try:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
        except RuntimeError as lost:
            raise BackendError(
                "the GPU failed while a kernel ran", got=text, todo="start the tuner again"
            ) from lost
        raise RefusedError(text[:300]) from error


def cuda_seconds(run: Callable[[int], None]) -> float:
    """Time a turn on the GPU: median of bursts over rotating inputs, between two events.

    Args:
        run: launches the work of a turn; turns are numbered from 0.

    Returns:
        Seconds a turn.
    """
    filler = torch.empty(_FILLER_BYTES, dtype=torch.uint8, device="cuda")
    found = []
    for burst in range(_WARM_BURSTS + _BURSTS):
        start, end = (_event() for _ in range(2))
        filler.zero_()
        start.record()
        for turn in range(_TURNS):
            run(burst * _TURNS + turn)
        end.record()
        end.synchronize()
        found.append(float(start.elapsed_time(end)) / 1000 / _TURNS)
    return statistics.median(found[_WARM_BURSTS:])


def _event() -> torch.cuda.Event:
    # torch leaves the constructor without types.
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
