from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autosam_deploy.benchmarks.efficiency.fits import fit_cell, summarise
from autosam_deploy.benchmarks.efficiency.material import Material
from autosam_deploy.benchmarks.efficiency.plan import METHODS, Cell, Method, uses_encoder
from autosam_deploy.training.datasets.loading import LabelledSlices
from autosam_deploy.training.embedding.prepare import Caching
from autosam_deploy.training.fitting.recipe import Epoch
from autosam_deploy.training.fitting.scoring import score_labels

MaterialFactory = Callable[..., Material]
SIZE = (48, 48)


def cell_of(method: Method, volumes: int, seed: int) -> Cell:
    return Cell(method, volumes, seed, SIZE if uses_encoder(method) else None)


def volume(labels: list[list[int]], *, name: str = "v") -> LabelledSlices:
    """One slice of one row for each list; slices 8 mm apart, columns 2 mm."""
    array = np.array(labels, np.uint8)[:, None, :]
    return LabelledSlices(name, array.astype(np.float32), array, "k", (8.0, 1.0, 2.0))


def test_distances_are_in_mm_along_each_axis() -> None:
    truth = volume([[0, 1, 0, 0], [0, 0, 0, 0]])
    for found, mm in ([[0, 0, 0, 1], [0, 0, 0, 0]], 4.0), ([[0, 0, 0, 0], [0, 1, 0, 0]], 8.0):
        (score,) = score_labels(truth, volume(found).labels, num_classes=2).classes
        assert (score.dice, score.hd95_mm, score.assd_mm) == (0, mm, mm)


def test_slices_without_spacing_have_no_distances() -> None:
    truth = replace(volume([[0, 1, 1, 0]]), spacing_mm=None)
    scores = score_labels(truth, truth.labels, num_classes=2)
    assert scores.dice == 1
    assert math.isnan(scores.classes[0].hd95_mm)
    assert summarise([scores], ("background", "a"))["hd95_mm"] is None


def test_means_are_taken_over_volumes_of_means_over_their_classes() -> None:
    truths = [volume([[1, 1, 2, 2]], name="a"), volume([[1, 1, 0, 0]], name="b")]
    found = [[[1, 0, 2, 2]], [[0, 0, 0, 0]]]
    scores = [
        score_labels(truth, volume(labels).labels, num_classes=3)
        for truth, labels in zip(truths, found, strict=True)
    ]
    summary = summarise(scores, ("background", "one", "two"))
    # Volume a: 2/3 and 1. Volume b has class 1 only, and it was missed.
    assert summary["dice"] == pytest.approx(((2 / 3 + 1) / 2 + 0) / 2)
    assert (summary["structures"], summary["missed"], summary["invented"]) == (3, 1, 0)
    assert summary["classes"]["one"]["dice"] == pytest.approx((2 / 3 + 0) / 2)
    assert summary["classes"]["two"]["dice"] == 1
    assert summary["classes"]["one"]["missed"] == 1
    # What was missed has no distance; the rest of class 1 reaches 2 mm, class 2 none.
    assert summary["hd95_mm"] == pytest.approx((summary["classes"]["one"]["hd95_mm"] + 0) / 2)


@pytest.fixture
def prepared(material: MaterialFactory, tmp_path: Path) -> Callable[..., Material]:
    """Factory: material with its embeddings."""

    def build(**fields: object) -> Material:
        made = material(methods=tuple(METHODS), cnn_channels=4, **fields)
        made.embed(SIZE, caching=Caching(tmp_path, limit_bytes=10**8))
        return made

    return build


def test_all_methods_take_the_same_steps(prepared: MaterialFactory) -> None:
    """3 slices a volume in batches of 4: with 3 volumes 3 steps an epoch, 6 for at least 4."""
    found = {}
    made = prepared(volumes=(3,), steps=4)
    for method in METHODS:
        told: list[Epoch] = []
        record = fit_cell(cell_of(method, 3, 0), made, report=told.append)
        found[method] = record["steps"]
        assert len(told) == record["epochs"] == 2
        assert 1 <= record["best_epoch"] <= 2
        assert record["validation_dice"] == max(epoch.dice for epoch in told)
        assert [one["volume"] for one in record["scores"]] == list(made.data.roles.test)
        assert record["parameters"] > 100
    assert set(found.values()) == {6}


@pytest.mark.parametrize("method", ["linear", "unet"])
def test_without_validation_volumes_those_learned_from_choose(
    prepared: MaterialFactory, method: Method
) -> None:
    made = prepared(val="0", steps=20, learning_rate=1e-2)
    cell = cell_of(method, 1, 0)
    record = fit_cell(cell, made)
    # The test volume is put in the place of the one learned from: the scores must be those that
    # chose the epoch. (Dice over all slices together, here over one volume.)
    (name,) = made.draw(cell)
    roles = replace(made.data.roles, test=(name,))
    same = replace(made, data=replace(made.data, roles=roles))
    again = fit_cell(cell, same)
    assert again["dice"] == pytest.approx(record["validation_dice"])
    assert again["dice"] != pytest.approx(record["dice"])


def test_u_nets_see_no_views_where_heads_see_none(material: MaterialFactory) -> None:
    cell = Cell("unet", 1, 0)
    assert material(views=0).unet_config(cell).views is None
    assert material(views=2).unet_config(cell).views is not None


def test_size_of_the_u_net_does_not_depend_on_test_volumes(material: MaterialFactory) -> None:
    made = material()
    large = {
        name: replace(one, slices=np.zeros((1, 200, 200), np.float32))
        for name, one in made.data.volumes.items()
        if name in made.data.roles.test
    }
    changed = replace(made, data=replace(made.data, volumes={**made.data.volumes, **large}))
    assert changed.unet_size == made.unet_size == (32, 32)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 5},
        {"batch": 2},
        {"learning_rate": 1e-4},
        {"views": 2},
        {"val": "1"},
        {"test": "3"},
    ],
)
@pytest.mark.parametrize("method", ["cnn", "unet-pretrained"])
def test_fingerprint_tells_what_decides_a_cell(
    material: MaterialFactory, method: Method, change: dict[str, object]
) -> None:
    cell = cell_of(method, 2, 1)
    before = material().fingerprint(cell)
    assert before == material().fingerprint(cell)
    # Kept views are the heads' alone.
    decides = method == "cnn" or change != {"views": 2}
    assert (before != material(**change).fingerprint(cell)) is decides
    # Other cells of the plan decide nothing.
    assert before == material(seeds=5, volumes=(2, 4), methods=(method,)).fingerprint(cell)


def test_fingerprint_tells_the_image_size(material: MaterialFactory) -> None:
    made, sizes = material(), ((48, 48), (64, 48))
    first, other = (made.fingerprint(Cell("linear", 1, 0, size)) for size in sizes)
    assert [key for key in first if first[key] != other[key]] == ["encoder"]


def test_a_head_without_a_size_is_no_u_net(material: MaterialFactory) -> None:
    with pytest.raises(LookupError, match="'linear, 1 volume, seed 0' has no image size"):
        fit_cell(Cell("linear", 1, 0), material())


def test_fingerprint_tells_the_data(material: MaterialFactory) -> None:
    made, cell = material(), cell_of("linear", 1, 0)
    for role in (made.draw(cell), made.data.roles.validation, made.data.roles.test):
        labels = made.data.volumes[role[0]].labels.copy()
        labels[0, 0, 0] ^= 1
        volumes = {
            **made.data.volumes,
            role[0]: replace(made.data.volumes[role[0]], labels=labels),
        }
        changed = replace(made, data=replace(made.data, volumes=volumes))
        differing = [
            key
            for key, value in made.fingerprint(cell).items()
            if changed.fingerprint(cell)[key] != value
        ]
        assert len(differing) == 1
        assert differing[0].endswith("volumes")
