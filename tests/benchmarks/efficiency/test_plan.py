from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autosam_deploy.benchmarks.efficiency.plan import (
    METHODS,
    Cell,
    Plan,
    uses_encoder,
    whole_epochs,
)
from autosam_deploy.errors import UsageError


def test_cells_come_seed_by_seed() -> None:
    plan = Plan(methods=("cnn", "unet"), volumes=(4, 1), seeds=2)
    assert [(cell.seed, cell.volumes, cell.method) for cell in plan.cells] == [
        (seed, count, method) for seed in (0, 1) for count in (1, 4) for method in ("cnn", "unet")
    ]


def test_heads_are_trained_at_every_size_and_others_once() -> None:
    plan = Plan(
        methods=("cnn", "unet"), volumes=(1,), seeds=1, image_sizes=((64, 96), (48, 48), (96, 80))
    )
    assert [(cell.method, cell.image_size) for cell in plan.cells] == [
        ("cnn", (96, 80)),
        ("cnn", (64, 96)),
        ("cnn", (48, 48)),
        ("unet", None),
    ]
    assert [str(cell) for cell in plan.cells[2:]] == [
        "cnn at 48x48, 1 volume, seed 0",
        "unet, 1 volume, seed 0",
    ]
    assert Plan(methods=("unet",), image_sizes=()).cells[0].image_size is None


def test_cells_have_files_of_their_own() -> None:
    cells = Plan(volumes=(1, 11, 111), seeds=12, image_sizes=((48, 48), (48, 64))).cells
    assert len({cell.name for cell in cells}) == len(cells)
    assert Cell("cnn", 4, 1, (48, 64)).name == "cnn-48x64-n004-s1"
    assert Cell("unet-pretrained", 4, 1).name == "unet-pretrained-n004-s1"
    assert str(Cell("cnn", 1, 0)) == "cnn, 1 volume, seed 0"


def test_heads_are_the_methods_with_an_encoder() -> None:
    assert [method for method in METHODS if uses_encoder(method)] == ["autosam", "cnn", "linear"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methods": ()}, "methods; got none; expected some of autosam, cnn, linear, unet"),
        ({"methods": ("cnn", "resnet")}, "methods; got 'resnet'; expected some of autosam"),
        ({"methods": ("cnn", "cnn")}, "methods named twice; got cnn"),
        ({"volumes": ()}, "volumes; got none; expected at least one"),
        ({"volumes": (1, 0)}, "volumes; got 0; expected 1 or more"),
        ({"volumes": (2, 2)}, "volumes named twice; got 2"),
        ({"image_sizes": ()}, "image sizes; got none; expected at least one"),
        ({"image_sizes": ((48, 64), (48, 64))}, "image sizes named twice; got 48x64"),
        (
            {"image_sizes": tuple((16 * n, 16) for n in range(1, 6))},
            "image sizes; got 5; expected at most 4",
        ),
        ({"seeds": 0}, "seeds; got 0; expected > 0"),
        ({"steps": -1}, "steps; got -1; expected > 0"),
        ({"views": -1}, "views; got -1; expected 0 or more"),
        ({"learning_rate": float("nan")}, "learning_rate; got nan"),
    ],
)
def test_plans_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(Plan(), **fields)


@pytest.mark.parametrize(
    ("steps", "slices", "epochs"),
    [(400, 35, 45), (400, 36, 45), (8, 8, 4), (1, 100, 1), (26, 99, 2)],
)
def test_epochs_have_at_least_the_steps(steps: int, slices: int, epochs: int) -> None:
    assert whole_epochs(steps, slices=slices, batch=4) == epochs
