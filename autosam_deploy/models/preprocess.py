"""`PreprocessSpec` in plain PyTorch: raw slices to encoder input, low-res logits to slice size."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from autosam_deploy.errors import SpecError
from autosam_deploy.models.resize import Resize, bilinear
from autosam_deploy.spec import PreprocessSpec


def normalise(slices: Tensor, spec: PreprocessSpec) -> Tensor:
    """Scale the intensities of every slice by itself.

    Args:
        slices: raw (B, 1, H, W), any real dtype; what is not float64 is computed in float32.
        spec: the recipe; `slice-minmax` as the reference's dataset/ACDC.py, without its division
            by zero: a flat slice gives zeros.

    Returns:
        (B, 1, H, W), float32 or float64.
    """
    slices = slices if slices.dtype == torch.float64 else slices.float()
    if spec.intensity == "slice-minmax":
        low = slices.amin(dim=(2, 3), keepdim=True)
        return _divide(slices - low, slices.amax(dim=(2, 3), keepdim=True) - low)
    if spec.intensity == "slice-zscore":
        # From the minimum up, so that a flat slice is exactly zero. The mean of equal numbers may
        # differ from them by a rounding, and dividing that by itself would give ones.
        raised = slices - slices.amin(dim=(2, 3), keepdim=True)
        centred = raised - _mean(raised)
        return _divide(centred, _mean(centred.square()).sqrt())
    if spec.intensity == "window":
        if spec.window_level is None or spec.window_width is None:
            raise SpecError("a window needs a level and a width")
        lowest = spec.window_level - spec.window_width / 2
        return ((slices - lowest) / spec.window_width).clamp(0, 1)
    return slices


def _mean(x: Tensor) -> Tensor:
    """Return the mean of every slice (B, 1, 1, 1), of rows first.

    Runtimes that add up a whole slice one by one lose two digits to that, which every logit feels.
    """
    return x.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)


def _divide(x: Tensor, by: Tensor) -> Tensor:
    return x / torch.where(by > 0, by, torch.ones_like(by))


def valid_size(height: int, width: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the picture inside a padded encoder input (`longest-side`).

    The slice is scaled by min(Hs / H, Ws / W) and its sides are rounded half up, as SAM's
    `ResizeLongestSide`. In integers, round(H Ws / W) = (2 H Ws + W) // (2 W), and without
    branches, since sizes are symbols when a graph is traced: scaled by the larger of the two
    factors a side passes the input's and the minimum cuts it there. No side falls below one pixel.

    Args:
        height: of the slice in pixels.
        width: of the slice in pixels.
        image_size: encoder input (Hs, Ws).
    """
    rows, columns = image_size
    return (
        _clamp((2 * height * columns + width) // (2 * width), rows),
        _clamp((2 * width * rows + height) // (2 * height), columns),
    )


def _clamp(side: int, largest: int) -> int:
    clamped: int = torch.sym_max(1, torch.sym_min(largest, side))  # type: ignore[assignment]
    return clamped


def marks_padding(spec: PreprocessSpec, *, padded_stem: bool = False) -> bool:
    """Tell whether a grey input needs a channel that says where the picture is.

    The pixel mean that is folded into the encoder's first convolution holds inside the picture
    only, and zeros stand behind the normalisation: the padding of `longest-side`, and that of the
    convolution itself where it has some.

    Args:
        spec: the recipe.
        padded_stem: the encoder's first convolution pads.
    """
    return spec.pixel_mean is not None and (padded_stem or spec.resize == "longest-side")


def to_grey_input(
    slices: Tensor, spec: PreprocessSpec, image_size: tuple[int, int], *, padded_stem: bool = False
) -> Tensor:
    """Turn raw slices into a grey image, without pixel mean and std.

    Args:
        slices: raw (B, 1, H, W).
        spec: the recipe.
        image_size: encoder input (Hs, Ws).
        padded_stem: see `marks_padding`.

    Returns:
        (B, 1 or 2, Hs, Ws), float32 or float64; the second channel (see `marks_padding`) is 1
        inside the picture and 0 in the padding.
    """
    x = normalise(slices, spec)
    stretched = spec.resize == "stretch"
    height, width = (
        image_size if stretched else valid_size(slices.shape[2], slices.shape[3], image_size)
    )
    x = bilinear(x, (height, width))
    if marks_padding(spec, padded_stem=padded_stem):
        x = torch.cat([x, torch.ones_like(x)], dim=1)
    if stretched:
        return x
    return F.pad(x, (0, image_size[1] - width, 0, image_size[0] - height))


def to_encoder_input(
    slices: Tensor,
    spec: PreprocessSpec,
    image_size: tuple[int, int],
    *,
    resize: Resize = bilinear,
) -> Tensor:
    """Turn raw slices into the three-channel image that SAM's encoder takes.

    Args:
        slices: raw (B, 1, H, W), float32 or float64.
        spec: the recipe.
        image_size: encoder input (Hs, Ws).
        resize: how, for measurements.

    Returns:
        (B, 3, Hs, Ws).
    """
    x = normalise(slices, spec).expand(-1, 3, -1, -1)
    if spec.pixel_mean is not None and spec.pixel_std is not None:
        mean = x.new_tensor(spec.pixel_mean)[None, :, None, None]
        x = (x - mean) / x.new_tensor(spec.pixel_std)[None, :, None, None]
    if spec.resize == "stretch":
        return resize(x, image_size)
    height, width = valid_size(slices.shape[2], slices.shape[3], image_size)
    x = resize(x, (height, width))
    return F.pad(x, (0, image_size[1] - width, 0, image_size[0] - height))


def to_slice_size(
    low: Tensor,
    spec: PreprocessSpec,
    image_size: tuple[int, int],
    size: tuple[int, int],
    *,
    resize: Resize = bilinear,
) -> Tensor:
    """Resize low-resolution logits to the slice.

    Args:
        low: (B, K, h, w).
        spec: the recipe. `stretch`: one bilinear resize, as the reference. `longest-side`: to the
            encoder's size, cut the picture out, to the slice's size, as SAM's postprocess_masks.
        image_size: encoder input (Hs, Ws).
        size: slice (H, W).
        resize: how, for measurements.

    Returns:
        (B, K, H, W).
    """
    if spec.resize == "longest-side":
        height, width = valid_size(size[0], size[1], image_size)
        low = resize(low, image_size)
        low = low[:, :, :height, :width]
    return resize(low, size)
