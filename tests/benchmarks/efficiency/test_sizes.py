"""The image size as a factor of a study."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from autosam_deploy.benchmarks.efficiency.material import Material
from autosam_deploy.benchmarks.efficiency.plan import Cell
from autosam_deploy.benchmarks.efficiency.rows import Row, listed_sizes, row_names, sizes_of
from autosam_deploy.benchmarks.efficiency.study import Setting, StudyWatch, run_study
from autosam_deploy.errors import UsageError
from autosam_deploy.training.embedding.prepare import Caching

MaterialFactory = Callable[..., Material]
SettingFactory = Callable[..., Setting]
SIZES = ((32, 40), (48, 48))


class Seen(StudyWatch):
    """Keeps what was trained."""

    def __init__(self) -> None:
        self.trained: list[tuple[str, Any]] = []

    def cell(self, cell: Cell, epochs: int) -> None:
        self.trained.append((cell.method, cell.image_size))


def test_a_size_more(material: MaterialFactory, setting: SettingFactory, tmp_path: Path) -> None:
    """Cells of the other size stay as they are, and U-Nets are trained once."""
    folder, seen = tmp_path / "study", Seen()
    own = partial(setting, folder, caching=Caching(tmp_path / "cache", limit_bytes=10**8))
    before = run_study(material(), own())
    result = run_study(material(image_sizes=SIZES), own(resume=True), watch=seen)
    assert seen.trained == [("linear", (32, 40))] * 4
    kept = [cell for cell in result["cells"] if cell["image_size"] != [32, 40]]
    assert kept == before["cells"]
    assert [one["image_size"] for one in result["embeddings"]] == [[32, 40], [48, 48]]
    assert result["embeddings"][0]["bytes"] < result["embeddings"][1]["bytes"]
    assert result["encoder"]["macs"]["32x40"] < result["encoder"]["macs"]["48x48"]
    report = (folder / "report.md").read_text("utf-8")
    assert "## Difference in Dice to 48x48" in report
    assert re.search(r"^\| linear at 32x40 \| [+-].* ± .* \| [+-].* ± .* \|$", report, re.MULTILINE)
    assert "custom at 48x48 and 32x40, positional tables made for 48x48" in report
    for name in ("dice.png", "classes.png"):
        with Image.open(folder / name) as picture:
            assert "custom at 48x48 and 32x40, 4 steps" in str(picture.info["Title"])


def test_heads_learn_from_the_embeddings_of_their_size(
    material: MaterialFactory, tmp_path: Path
) -> None:
    made, caching = material(image_sizes=SIZES), Caching(tmp_path, limit_bytes=10**8)
    for size, grid in (((32, 40), (4, 5)), ((48, 48), (6, 6))):
        made.embed(size, caching=caching)
        (first, *_) = made.slices_of(made.drawn[:1], size).plain
        assert first.embedding.__array__().shape == (32, *grid)
        assert made.model_spec("cnn", size).encoder.image_size == size


def test_sizes_must_fit_the_cache_together(
    material: MaterialFactory, setting: SettingFactory, tmp_path: Path
) -> None:
    """Each alone would: the second would push the first out."""
    plan = {"methods": ("linear",), "volumes": (1, 2), "seeds": 1, "views": 0}
    made = material(**plan, image_sizes=((48, 48), (64, 64)))
    # 18 slices of 32 channels in half precision, with a header each, on 36 and on 64 tokens.
    needed = 18 * (2 * 128 + 2 * 32 * (36 + 64))
    tight = Caching(tmp_path / "cache", limit_bytes=needed - 1)
    with pytest.raises(UsageError, match="of all image sizes do not fit the cache's limit; got"):
        run_study(made, replace(setting(tmp_path / "tight"), caching=tight))
    enough = Caching(tmp_path / "cache", limit_bytes=needed)
    result = run_study(made, replace(setting(tmp_path / "study"), caching=enough))
    assert all(cell["failed"] is None for cell in result["cells"])


def test_rows_are_named_after_their_size_where_there_are_several() -> None:
    unet, large, small = (
        {"method": method, "image_size": size}
        for method, size in (("unet", None), ("cnn", [64, 48]), ("cnn", [48, 48]))
    )
    assert row_names([small, unet, small]) == {
        Row("cnn", (48, 48)): "cnn",
        Row("unet", None): "unet",
    }
    names = row_names([small, unet, large])
    assert list(names.values()) == ["cnn at 48x48", "unet", "cnn at 64x48"]
    assert sizes_of(names) == [(64, 48), (48, 48)]
    assert listed_sizes({"cells": [small, unet, large]}) == "64x48 and 48x48"
    assert listed_sizes({"cells": [small]}) == "48x48"
