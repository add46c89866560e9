"""Layer normalisation over channels in one pass over memory, stored in the dtype of its reader.

    y = (x - mean) / sqrt(var + eps) * weight + bias,    var = mean((x - mean)^2),

both means over the last axis.

All arithmetic is float32, as the norms of a typed graph are islands (`fused/precision.py`); what is
rounded to halves is the input, which is halves already, and the result, once.

A row stays in registers, so mean and variance are two passes over registers and one over memory.
Values are taken relative to the row's first one, x_0: the mean of x - x_0 is small where all of
a row lies high, so its rounding does not reach the variance, and a row of equal values gives the
bias exactly. An x_0 that lies far out does no harm, since |x_0 - mean| is at most sqrt(C) standard
deviations: each x - x_0 is within about sqrt(C) 2^-24 of them.

Bytes that cross the memory bus per slice with 64 x 64 tokens, each tensor counted once an operation
(computed from the shapes, not measured). `cast, norm, cast` is what PyTorch does with halves and a
norm in float32: 2 + 4 bytes a value for the cast, 4 + 4 for the norm, 4 + 2 for the cast back. Here
it is 2 + 2.

==============================  ==================  ==================
in halves                       ViT-B (768)         ViT-H (1280)
==============================  ==================  ==================
one norm: cast, norm, cast      62.9 MB             104.9 MB
one norm: here                  12.6 MB             21.0 MB
norms of all blocks             24                  64
*all: cast, norm, cast*         1.51 GB             6.71 GB
*all: here*                     0.30 GB             1.34 GB
==============================  ==================  ==================

Where the stream between blocks is float32, PyTorch moves 14 bytes a value (norm, cast) and this
kernel 6. A norm is one launch instead of three.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from autosam_deploy.errors import BackendInputError
from autosam_deploy.kernels.launch import check_device, on_device

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
#: A row has to fit the registers of one program.
MOST_CHANNELS = 8192
#: Dimensions in front of the channels that remain after joining those that lie in one line.
_MOST_AXES = 3
_INT32 = 2**31 - 1


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, *, eps: float, dtype: torch.dtype
) -> Tensor:
    """Normalise over the last axis; forward only.

    Args:
        x: (..., C), float16, bfloat16 or float32, C up to 8192. Channels are contiguous; the other
            strides are free, as long as at most three dimensions are left once neighbours that one
            stride describes are joined. Nothing is copied.
        weight: (C,) float32.
        bias: (C,) float32.
        eps: added to the variance, inside the root.
        dtype: of the result: float16, bfloat16 or float32.

    Returns:
        (..., C), contiguous.

    Raises:
        BackendInputError: shapes, dtypes or strides are not as above, or a gradient is wanted.
        BackendError: tensors lie on different devices, or where kernels cannot run.
        MissingExtraError: Triton is not installed.
    """
    if torch.is_grad_enabled() and any(one.requires_grad for one in (x, weight, bias)):
        raise BackendInputError(
            "the layer-norm kernel has no backward pass",
            got="an input that requires a gradient",
            todo="run under torch.inference_mode() or use torch.nn.functional.layer_norm",
        )
    found: Tensor = torch.ops.autosam.layer_norm(x, weight, bias, eps, dtype)
    return found


def layer_norm_reference(
    x: Tensor, weight: Tensor, bias: Tensor, *, eps: float, dtype: torch.dtype
) -> Tensor:
    """Compute the same in plain PyTorch: in float64 if `x` is that, else in float32."""
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    y = F.layer_norm(x.to(exact), x.shape[-1:], weight.to(exact), bias.to(exact), eps)
    return y.to(dtype)


@torch.library.custom_op(
    "autosam::layer_norm",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor bias, float eps, ScalarType dtype) -> Tensor",
)
def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    _check(x, weight, bias, dtype)
    sizes, strides = row_axes(x)
    device = check_device(x, weight, bias)
    # Triton is optional, and its kernels are compiled code of their own.
    from autosam_deploy.kernels.norm_triton import Cut
    from autosam_deploy.kernels.norm_triton import layer_norm as kernel

    out = torch.empty(x.shape, dtype=dtype, device=device)
    channels = x.shape[-1]
    rows = x.numel() // channels
    if rows == 0:
        return out
    cut = Cut.of(channels)
    with on_device(device):
        kernel[(cut.programs(rows),)](
            x,
            weight,
            bias,
            out,
            rows,
            *sizes[1:],
            *strides,
            eps,
            channels=channels,
            block_rows=cut.rows,
            block=cut.columns,
            num_warps=cut.num_warps,
        )
    return out


@_layer_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype)


def row_axes(x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Describe where the rows of (..., C) lie with three sizes and strides, slowest first.

    Neighbouring dimensions that one stride describes are joined, and missing ones are 1 in front.

    Returns:
        Three sizes and three strides in elements.

    Raises:
        BackendInputError: more than three dimensions are left, or one is too long to be counted in
            32 bits.
    """
    sizes: list[int] = []
    strides: list[int] = []
    for size, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True):
        if size == 1:
            continue
        if sizes and strides[-1] == size * stride:
            sizes[-1], strides[-1] = sizes[-1] * size, stride
        else:
            sizes.append(size)
            strides.append(stride)
    if len(sizes) > _MOST_AXES or x.numel() // x.shape[-1] > _INT32:
        raise BackendInputError(
            "the layer-norm kernel does not take these strides",
            got=f"{tuple(x.stride())} of {tuple(x.shape)}",
            expected=f"at most {_MOST_AXES} dimensions that cannot be joined, 2 ** 31 - 1 rows",
            todo="call contiguous() first",
        )
    missing = _MOST_AXES - len(sizes)
    return (1,) * missing + tuple(sizes), (0,) * missing + tuple(strides)


def _check(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
    if x.dtype not in DTYPES or dtype not in DTYPES:
        raise BackendInputError(
            "the layer-norm kernel does not take these dtypes",
            got=f"{x.dtype} to {dtype}",
            expected="of " + ", ".join(map(str, DTYPES)),
        )
    if x.ndim < 1 or not 1 <= x.shape[-1] <= MOST_CHANNELS:
        raise BackendInputError(
            "the layer-norm kernel does not take this shape",
            got=str(tuple(x.shape)),
            expected=f"(..., C), C from 1 to {MOST_CHANNELS}",
        )
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        raise BackendInputError(
            "channels do not lie side by side",
            got=f"stride {x.stride(-1)}",
            expected="1",
            todo="call contiguous() first",
        )
    for name, one in (("weight", weight), ("bias", bias)):
        fits = tuple(one.shape) == (x.shape[-1],) and one.dtype == torch.float32
        if not fits or not one.is_contiguous():
            raise BackendInputError(
                f"{name} does not fit",
                got=f"{one.dtype} {tuple(one.shape)} with strides {tuple(one.stride())}",
                expected=f"contiguous torch.float32 ({x.shape[-1]},)",
            )
