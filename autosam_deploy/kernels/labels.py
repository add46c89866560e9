"""Low-resolution logits to labels at the slice's size, in one kernel.

Algebra: labels = argmax over classes of `to_slice_size(low.float(), ...)`. A pixel's logits are
computed class by class in registers and only the largest so far is kept, so neither the logits at
the slice's size (B, K, H, W) nor argmax's int64 exist.

`stretch` is one bilinear resize: 4 values a class and pixel. `longest-side` is two, to the
encoder's size and, from the picture inside it, to the slice's; here each of the outer resize's 4
values is interpolated between 4 of `low` as it is needed, with both steps' own index rule and
weights, so what is composed is exactly the two resizes and the image in between does not exist.

Of equal logits the lowest class wins, as in `torch.argmax` on a CPU (on a GPU torch promises no
order). A NaN counts as the largest value and the first NaN wins, as there. A tap of weight zero
still counts, as 0 x NaN and 0 x inf are NaN; only a resize to the same size, which torch copies,
lets what is not finite spread to its neighbours here and not there.

Memory moved for one 512 x 512 slice of ViT-B at 1024 x 1024 with K = 4 (computed, not measured,
each tensor once a kernel): float32 logits (4, 256, 256) are 1.05 MB, labels 0.26 MB: 1.3 MB
together. Plain PyTorch writes and reads 4.19 MB of logits at the slice's size, writes and reads
2.10 MB of int64 labels: 13.9 MB; with `longest-side`, where it also writes and reads (4, 1024,
1024), 47.4 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autosam_deploy.errors import BackendInputError
from autosam_deploy.kernels.launch import check_device, float32_ratio, on_device
from autosam_deploy.models.preprocess import to_slice_size, valid_size
from autosam_deploy.spec import PreprocessSpec

LOGITS = (torch.float32, torch.float16, torch.bfloat16)
#: Labels are bytes, and 255 is left to hosts for "no label".
MAX_CLASSES = 255


def logits_to_labels(
    low: Tensor, spec: PreprocessSpec, *, image_size: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Resize logits to the slice and take the largest class of every pixel.

    Args:
        low: (B, K, h, w), float32, float16 or bfloat16, K up to 255, any strides (channels first
            or last); all arithmetic is float32.
        spec: the recipe, of which the resize counts.
        image_size: encoder input (Hs, Ws).
        size: slice (H, W).

    Returns:
        uint8 (B, H, W), contiguous.

    Raises:
        BackendInputError: shapes or dtypes are not as above.
        DeviceUnavailableError: the logits are not on an NVIDIA GPU.
        MissingExtraError: Triton is not installed.
    """
    _check(low, image_size=image_size, size=size)
    result: Tensor = torch.ops.autosam.logits_to_labels(
        low, list(image_size), list(size), longest=spec.resize == "longest-side"
    )
    return result


def logits_to_labels_reference(
    low: Tensor, spec: PreprocessSpec, *, image_size: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Compute the same in plain PyTorch; float64 logits are resized in float64."""
    wide = low if low.dtype == torch.float64 else low.float()
    return to_slice_size(wide, spec, image_size, size).argmax(dim=1).to(torch.uint8)


def _check(low: Tensor, *, image_size: Sequence[int], size: Sequence[int]) -> None:
    if low.dim() != 4 or min(low.shape[1:]) < 1:
        raise BackendInputError(
            "logits have the wrong shape",
            got=str(tuple(low.shape)),
            expected="(B, K, h, w), K, h and w at least 1",
        )
    if low.shape[1] > MAX_CLASSES:
        raise BackendInputError(
            "too many classes for labels of one byte",
            got=str(low.shape[1]),
            expected=f"at most {MAX_CLASSES}",
        )
    if low.dtype not in LOGITS:
        raise BackendInputError(
            "logits have the wrong dtype",
            got=str(low.dtype),
            expected=" | ".join(map(str, LOGITS)),
        )
    if min(*size, *image_size) < 1:
        raise BackendInputError(
            "sizes must be positive",
            got=f"slice {tuple(size)}, encoder input {tuple(image_size)}",
            expected="at least one pixel a side",
        )


@torch.library.custom_op(
    "autosam::logits_to_labels",
    mutates_args=(),
    schema="(Tensor low, int[] image_size, int[] size, *, bool longest) -> Tensor",
)
def _logits_to_labels(
    low: Tensor, image_size: Sequence[int], size: Sequence[int], *, longest: bool
) -> Tensor:
    _check(low, image_size=image_size, size=size)
    device = check_device(low)
    labels = torch.empty((low.shape[0], *size), dtype=torch.uint8, device=device)
    if labels.numel():
        rows, columns = image_size
        picture = valid_size(size[0], size[1], (rows, columns)) if longest else low.shape[2:]
        with on_device(device):
            _launch(low, labels, image=(rows, columns) if longest else None, picture=picture)
    return labels


@_logits_to_labels.register_fake
def _(low: Tensor, image_size: Sequence[int], size: Sequence[int], **recipe: Any) -> Tensor:
    del image_size, recipe
    return low.new_empty((low.shape[0], *size), dtype=torch.uint8)


def _launch(
    low: Tensor, labels: Tensor, *, image: tuple[int, int] | None, picture: Sequence[int]
) -> None:
    """Launch the kernel.

    Args:
        low: (B, K, h, w).
        labels: (B, H, W), written.
        image: the size in between that `low` is resized to, None where there is none.
        picture: size of its part, or of `low`, that becomes the slice.
    """
    # Triton is loaded here, since this module also serves who has none.
    import triton

    from autosam_deploy.kernels import labels_triton as kernels

    batch, classes, rows, columns = low.shape
    _, height, width = labels.shape
    between = image or (rows, columns)
    tile_h, tile_w = kernels.TILE
    grid = (batch * triton.cdiv(height, tile_h), triton.cdiv(width, tile_w))
    kernels.pixel_labels[grid](
        *(low, labels, classes, rows, columns, *low.stride(), height, width, *picture),
        *(float32_ratio(picture[0], height), float32_ratio(picture[1], width)),
        *(float32_ratio(rows, between[0]), float32_ratio(columns, between[1])),
        nested=image is not None,
        tile_h=tile_h,
        tile_w=tile_w,
        num_warps=kernels.NUM_WARPS,
    )
