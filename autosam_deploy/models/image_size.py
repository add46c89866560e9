"""Sizes of the encoder's input: as people write them, and which of them an encoder can take.

Free of torch, so that command lines can refuse a size before anything is loaded.
"""

from __future__ import annotations

from autosam_deploy.errors import SpecError, UsageError
from autosam_deploy.spec import EncoderSpec

#: (height, width) in pixels.
ImageSize = tuple[int, int]


def parse_image_size(text: str, what: str = "--image-size") -> ImageSize:
    """Read `512` or `512x384` (height, width).

    Args:
        text: what was given.
        what: how the message calls it.

    Raises:
        UsageError: it is neither.
    """
    parts = text.strip().lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(what, got=repr(text), expected="N or HxW in pixels, for example 512")
    return int(parts[0]), int(parts[-1])


def show_image_size(size: ImageSize) -> str:
    """Return a size as people read it ("512x384")."""
    return f"{size[0]}x{size[1]}"


def at_image_size(spec: EncoderSpec, size: ImageSize) -> EncoderSpec:
    """Return an encoder for an input size that was asked for.

    Both sides are multiples of the patch size; heads work on any token grid. A side is at least one
    window long: SAM pads the grid to whole windows (segment_anything/modeling/image_encoder.py,
    window_partition), so that below it a smaller picture leaves more padding and nothing else.

    Args:
        spec: the encoder, at any size.
        size: (height, width) in pixels.

    Raises:
        SpecError: a side is no multiple of the patch, or too small.
    """
    patch = spec.patch_size
    least = patch * max(1, spec.window_size)
    if all(side % patch == 0 and side >= least for side in size):
        return spec.resized(size)
    windows = f", one window of {spec.window_size} patches" if spec.window_size else ""
    height, width = (max(least, (side + patch // 2) // patch * patch) for side in size)
    raise SpecError(
        f"the image size does not suit the encoder '{spec.name}'",
        got=show_image_size(size),
        expected=f"multiples of the patch size {patch}, {least} or more{windows}",
        todo=f"take {show_image_size((height, width))}",
    )
