"""Sizes of the encoder's input: as people write them, and which of them an encoder can take.

Free of torch, so that command lines can refuse a size before anything is loaded.
"""

from __future__ import annotations

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.errors import SpecError, UsageError

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

    Both sides are multiples of a token of the embedding; heads work on any token grid. A side is at
    least one window long: encoders pad their grid to whole windows, so that below it a smaller
    picture leaves more padding and nothing else.

    Args:
        spec: the encoder, at any size.
        size: (height, width) in pixels.

    Raises:
        SpecError: a side is no multiple of a token, or too small.
    """
    token, least = spec.pixels_per_token, spec.smallest_side
    if all(side % token == 0 and side >= least for side in size):
        return spec.resized(size)
    window = spec.largest_window
    windows = f", one window of {window} tokens" if window else ""
    height, width = (max(least, (side + token // 2) // token * token) for side in size)
    raise SpecError(
        f"the image size does not suit the encoder '{spec.name}'",
        got=show_image_size(size),
        expected=f"multiples of {token}, {least} or more{windows}",
        todo=f"take {show_image_size((height, width))}",
    )
