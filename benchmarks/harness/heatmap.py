"""Where labels differ: the worst slice as a picture, for reports."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autosam_deploy.benchmarks.harness.record import HeatMap

if TYPE_CHECKING:
    from autosam_deploy.benchmarks.harness.judge import Standard
    from autosam_deploy.benchmarks.harness.runners import Outputs

#: Pixels of a panel's longer side.
_SIDE = 220
_GAP = 6
#: Colours of the picture beside those of its marks.
_COLOURS = 120
_DIFFERENT, _TIE = (214, 39, 40), (255, 191, 0)
Rgb = NDArray[np.uint8]


def heat_map(
    outputs: Sequence[Outputs], standard: Standard, colours: Sequence[str]
) -> HeatMap | None:
    """Draw the slice with the most labels that differ; None where none does.

    Three panels: the segmenter's labels, the row's, and the difference: red where labels differ,
    amber where they differ on a near-tie.

    Args:
        outputs: of the row, a batch each.
        standard: inputs and truth.
        colours: of the classes ("#rrggbb").
    """
    worst: tuple[int, int, int] | None = None
    pixels = total = 0
    for batch, (found, logits) in enumerate(zip(outputs, standard.logits, strict=True)):
        wrong = _labels(found) != logits.argmax(axis=1)
        total += int(wrong.sum())
        pixels += wrong.size
        for index, count in enumerate(wrong.sum(axis=(1, 2)).tolist()):
            if count and (worst is None or count > worst[0]):
                worst = (count, batch, index)
    if worst is None:
        return None
    count, batch, index = worst
    logits = standard.logits[batch][index]
    truth, mine = logits.argmax(axis=0), _labels(outputs[batch])[index]
    top = np.sort(logits, axis=0)[-2:]
    tie = (top[1] - top[0]) <= 2 * standard.reference.max_error
    grey = _grey(standard.inputs.batches[batch][index, 0])
    base = np.repeat((grey // 3 + 20)[..., None].astype(np.uint8), 3, axis=2)
    wrong = truth != mine
    title = f"{standard.inputs.name}, batch {batch}, slice {index}: {count} of {truth.size} pixels"
    picture = _png(
        [_overlay(grey, truth, colours), _overlay(grey, mine, colours), base],
        {_DIFFERENT: wrong & ~tie, _TIE: wrong & tie},
    )
    return HeatMap(title=title, png=picture, differing=total, pixels=pixels)


def _labels(outputs: Outputs) -> NDArray[Any]:
    return outputs["labels"] if "labels" in outputs else outputs["logits"].argmax(axis=1)


def _grey(image: NDArray[np.float32]) -> Rgb:
    low, high = np.percentile(image, (1, 99))
    scaled = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1)
    return np.asarray(scaled * 255, np.uint8)


def _overlay(grey: Rgb, labels: NDArray[Any], colours: Sequence[str]) -> Rgb:
    picture = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    for value, colour in enumerate(colours[1:], start=1):
        rgb = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        mask = labels == value
        picture[mask] = 0.45 * picture[mask] + 0.55 * np.asarray(rgb, np.float32)
    return picture.astype(np.uint8)


def _png(panels: Sequence[Rgb], marks: Mapping[tuple[int, int, int], NDArray[np.bool_]]) -> str:
    """Set panels side by side, paint marks into the last, and return the PNG in base64.

    The colours of marks have places of their own in the palette, and a mark that is smaller than a
    pixel of the picture still fills one: a few wrong pixels are what one looks for.
    """
    height, width = panels[0].shape[:2]
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    whole = Image.new("RGB", (len(panels) * size[0] + (len(panels) - 1) * _GAP, size[1]), "white")
    for place, panel in enumerate(panels):
        # Pixels stay pixels: a smooth picture of labels shows classes that are not there.
        part = Image.fromarray(panel).resize(size, Image.Resampling.NEAREST)
        whole.paste(part, (place * (size[0] + _GAP), 0))
    paletted = whole.quantize(_COLOURS)
    palette = (paletted.getpalette() or [])[: 3 * _COLOURS]
    palette += [0] * (3 * _COLOURS - len(palette))
    pixels = np.array(paletted)
    for number, (colour, mask) in enumerate(marks.items()):
        small = Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX)
        pixels[:, -size[0] :][np.asarray(small) > 0] = _COLOURS + number
        palette += colour
    final = Image.fromarray(pixels, mode="P")
    final.putpalette(palette)
    stream = io.BytesIO()
    final.save(stream, format="PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")
