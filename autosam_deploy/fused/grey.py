"""Three equal channels and their normalisation, folded into an encoder's first convolution."""

from __future__ import annotations

import torch
from torch import Tensor

from autosam_deploy.spec import PreprocessSpec


def fold_grey(
    weight: Tensor, bias: Tensor, preprocess: PreprocessSpec, *, marked: bool
) -> tuple[Tensor, Tensor]:
    """Fold three equal channels and the pixel normalisation into a grey convolution.

    conv(W, (x - m_c) / s_c) + b = conv(sum_c W_c / s_c, x) + b - conv(sum_c W_c m_c / s_c, 1).
    Where zeros stand behind the normalisation (`preprocess.marks_padding`) the last term holds
    inside the picture only, so it becomes the weight of a second channel that is 1 inside and 0
    outside; elsewhere that channel would be 1 everywhere and goes into the bias.

    Args:
        weight: (C, 3, p, p).
        bias: (C,).
        preprocess: pixel mean and std in the units that the intensity step leaves.
        marked: the input has that second channel.

    Returns:
        Weight (C, 1 or 2, p, p) and bias (C,).
    """
    if preprocess.pixel_mean is None or preprocess.pixel_std is None:
        return weight.sum(dim=1, keepdim=True), bias
    std = weight.new_tensor(preprocess.pixel_std)[None, :, None, None]
    mean = weight.new_tensor(preprocess.pixel_mean)[None, :, None, None]
    grey = (weight / std).sum(dim=1, keepdim=True)
    offset = -(weight * (mean / std)).sum(dim=1, keepdim=True)
    if marked:
        return torch.cat([grey, offset], dim=1), bias
    return grey, bias + offset.sum(dim=(1, 2, 3))
