"""Raw slices to the operand of the patch embedding, in two kernels.

Algebra: a convolution whose stride is its kernel size is a matrix product over patches, so

    conv2d(ImageInput(spec, image_size)(slices), weight, stride=patch)
        = (operand @ weight.flatten(1).T).permute(0, 3, 1, 2)

with operand (B, Sh, Sw, channels * patch * patch), values of a token ordered (channel, y, x).
Channel 2 is there when `ImageInput` marks padding: 1 inside the picture, 0 in the padding.

1. `slice_statistics` reads every slice once, in blocks of 4096 pixels (16384 for large slices):
   smallest and largest value, or smallest value, mean above it and sum of squares about that mean.
   Blocks are merged by whoever reads them, always in the same order and without atomics, so that
   results do not change from run to run. With n_i pixels, smallest values l_i, means m_i above
   them and sums of squares S_i of blocks (Chan, Golub, LeVeque 1983)

       l = min l_i,  m = sum n_i (m_i + l_i - l) / n,  S = sum S_i + n_i (m_i + l_i - l - m)^2

   which is the two-pass variance S / n: nowhere is a square of the level itself subtracted, and a
   flat slice has m = S = 0 exactly. `window` and `none` need no statistics.
2. `patch_tokens` reads the four pixels of a bilinear tap, normalises each in float32, weighs them
   by the index rule of `torch.nn.functional.interpolate`, rounds once to the output's dtype and
   stores whole tokens: the memory is written in order.

Memory moved for one 512 x 512 float32 slice of ViT-B at 1024 x 1024 (computed, not measured, each
tensor once a kernel): here 1.05 MB for statistics, 1.05 MB for taps and 2.10 MB of fp16 operand,
4.2 MB together. Plain PyTorch reads and writes 2.1 MB for minimum and maximum, 4.2 MB for shift and
division, 5.2 MB for the resize, 6.3 MB for the cast to fp16: 17.8 MB, and 4.2 MB more where the
convolution lays its patches out.

Values that are not finite behave as in `normalise`: a NaN makes its whole slice NaN where there are
statistics, an infinity gives zeros and NaNs. In the resize they spread to taps of weight zero, as
in torch, and also where the size stays the same, which torch copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autosam_deploy.errors import BackendInputError
from autosam_deploy.kernels.launch import check_device, float32_ratio, on_device
from autosam_deploy.models.preprocess import marks_padding, to_grey_input, valid_size
from autosam_deploy.spec import PreprocessSpec

SOURCES = (torch.float32, torch.int16, torch.uint16, torch.uint8)
OPERANDS = (torch.float16, torch.bfloat16, torch.float32)
#: Pixels of a slice are counted in 32 bits; offsets in memory are not.
_MOST_PIXELS = 2**31 - 1


def slices_to_tokens(
    slices: Tensor,
    spec: PreprocessSpec,
    *,
    image_size: tuple[int, int],
    patch: int,
    dtype: torch.dtype,
) -> Tensor:
    """Normalise, resize, pad and lay out in patches.

    Args:
        slices: raw (B, 1, H, W), float32, int16, uint16 or uint8, any strides; integers become
            float32 first, as values.
        spec: the recipe. Pixel mean and std are not applied: they are part of the weights
            (`fused.encoder.fold_grey`).
        image_size: encoder input (Hs, Ws), multiples of `patch`.
        patch: side of a patch in pixels.
        dtype: of the result: float16, bfloat16 or float32. All arithmetic is float32.

    Returns:
        (B, Hs / patch, Ws / patch, channels * patch * patch), contiguous, channels 1 or 2; without
        a gradient.

    Raises:
        BackendInputError: shapes or dtypes are not as above.
        DeviceUnavailableError: the slices are not on an NVIDIA GPU.
        MissingExtraError: Triton is not installed.
    """
    _check(slices, image_size=image_size, patch=patch, dtype=dtype)
    result: Tensor = torch.ops.autosam.slices_to_tokens(
        slices,
        list(image_size),
        patch,
        dtype,
        intensity=spec.intensity,
        level=spec.window_level or 0.0,
        window=spec.window_width or 1.0,
        longest=spec.resize == "longest-side",
        marks=marks_padding(spec),
    )
    return result


def slices_to_tokens_reference(
    slices: Tensor,
    spec: PreprocessSpec,
    *,
    image_size: tuple[int, int],
    patch: int,
    dtype: torch.dtype,
) -> Tensor:
    """Compute the same in plain PyTorch; float64 slices are computed in float64."""
    image = to_grey_input(slices, spec, image_size)
    batch, channels = image.shape[:2]
    rows, columns = image_size[0] // patch, image_size[1] // patch
    patches = image.reshape(batch, channels, rows, patch, columns, patch)
    operand: Tensor = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows, columns, -1)
    return operand.to(dtype)


def _check(slices: Tensor, *, image_size: Sequence[int], patch: int, dtype: torch.dtype) -> None:
    if slices.dim() != 4 or slices.shape[1] != 1 or min(slices.shape[2:]) < 1:
        raise BackendInputError(
            "slices have the wrong shape",
            got=str(tuple(slices.shape)),
            expected="(B, 1, H, W), no empty slice",
        )
    if slices.shape[2] * slices.shape[3] > _MOST_PIXELS:
        raise BackendInputError(
            "a slice is too large",
            got=f"{slices.shape[2]} x {slices.shape[3]} pixels",
            expected=f"at most {_MOST_PIXELS}",
        )
    if slices.dtype not in SOURCES:
        raise BackendInputError(
            "slices have the wrong dtype",
            got=str(slices.dtype),
            expected=" | ".join(map(str, SOURCES)),
        )
    if dtype not in OPERANDS:
        raise BackendInputError(
            "tokens cannot have this dtype", got=str(dtype), expected=" | ".join(map(str, OPERANDS))
        )
    if patch < 1 or min(image_size) < 1 or any(side % patch for side in image_size):
        raise BackendInputError(
            "patches do not tile the encoder's input",
            got=f"{image_size[0]} x {image_size[1]} in patches of {patch}",
            expected="positive multiples",
        )


def _grid(image_size: Sequence[int], patch: int) -> tuple[int, int]:
    return image_size[0] // patch, image_size[1] // patch


@torch.library.custom_op(
    "autosam::slices_to_tokens",
    mutates_args=(),
    schema=(
        "(Tensor slices, int[] image_size, int patch, ScalarType dtype, *, str intensity, "
        "float level, float window, bool longest, bool marks) -> Tensor"
    ),
)
def _slices_to_tokens(
    slices: Tensor,
    image_size: Sequence[int],
    patch: int,
    dtype: torch.dtype,
    *,
    intensity: str,
    level: float,
    window: float,
    longest: bool,
    marks: bool,
) -> Tensor:
    _check(slices, image_size=image_size, patch=patch, dtype=dtype)
    device = check_device(slices)
    rows, columns = image_size
    size = valid_size(slices.shape[2], slices.shape[3], (rows, columns)) if longest else image_size
    length = (2 if marks else 1) * patch * patch
    tokens = torch.empty(
        (slices.shape[0], *_grid(image_size, patch), length), dtype=dtype, device=device
    )
    if tokens.numel():
        with on_device(device):
            _launch(
                slices,
                tokens,
                valid=(size[0], size[1]),
                patch=patch,
                intensity=intensity,
                window=(level, window),
            )
    return tokens


@_slices_to_tokens.register_fake
def _(
    slices: Tensor, image_size: Sequence[int], patch: int, dtype: torch.dtype, **recipe: Any
) -> Tensor:
    length = (2 if recipe["marks"] else 1) * patch * patch
    return slices.new_empty((slices.shape[0], *_grid(image_size, patch), length), dtype=dtype)


def _launch(
    slices: Tensor,
    tokens: Tensor,
    *,
    valid: tuple[int, int],
    patch: int,
    intensity: str,
    window: tuple[float, float],
) -> None:
    """Launch both kernels; `valid` is the size of the picture inside the encoder's input."""
    # Triton is loaded here, since this module also serves who has none.
    import triton

    from autosam_deploy.kernels import tokens_triton as kernels

    batch, _, height, width = slices.shape
    strides = (slices.stride(0), slices.stride(2), slices.stride(3))
    block = kernels.BLOCKS[height * width > kernels.LARGE]
    blocks = triton.cdiv(height * width, block)
    if intensity in ("slice-minmax", "slice-zscore"):
        partials = torch.empty((batch, blocks, 3), dtype=torch.float32, device=slices.device)
        kernels.slice_statistics[(batch, blocks)](
            *(slices, partials, height * width, width, *strides),
            intensity=intensity,
            block=block,
            num_warps=kernels.NUM_WARPS[0],
        )
    else:
        partials = torch.empty(0, dtype=torch.float32, device=slices.device)
    _, rows, columns, length = tokens.shape
    kernels.patch_tokens[(batch * rows, triton.cdiv(columns, kernels.GROUP))](
        *(slices, partials, tokens, height, width, *strides, blocks, rows, columns, *valid),
        *(float32_ratio(height, valid[0]), float32_ratio(width, valid[1])),
        *(window[0] - window[1] / 2, window[1]),
        intensity=intensity,
        channels=length // (patch * patch),
        patch=patch,
        group=kernels.GROUP,
        elements=triton.next_power_of_2(length),
        block=block,
        padded=triton.next_power_of_2(blocks),
        num_warps=kernels.NUM_WARPS[1],
    )
