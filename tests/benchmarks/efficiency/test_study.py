from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from autosam_deploy.benchmarks.efficiency import fits, pretraining, study
from autosam_deploy.benchmarks.efficiency.material import Material
from autosam_deploy.benchmarks.efficiency.plan import METHODS, RANDOM_ENCODER, Cell
from autosam_deploy.benchmarks.efficiency.study import StudyWatch, run_study
from autosam_deploy.errors import OutputError, TrainingError, UsageError

MaterialFactory = Callable[..., Material]
SettingFactory = Callable[..., study.Setting]
FILES = ("label-efficiency.json", "report.md", "dice.png", "classes.png")


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "label-efficiency.json").read_text("utf-8"))
    return found


def scores(folder: Path) -> dict[str, list[Any]]:
    """What may not depend on the machine's speed, nor on how often a study was stopped."""
    return {
        f"{cell['method']} {cell['volumes']} {cell['seed']}": [
            cell[key] for key in ("train", "steps", "dice", "hd95_mm", "classes", "scores")
        ]
        for cell in read(folder)["cells"]
    }


def times_of(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}


def text_of(picture: Path) -> str:
    """What a PNG says about itself."""
    with Image.open(picture) as opened:
        return " ".join(str(value) for value in opened.info.values())


def kill_after(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    """Let a study be interrupted when so many cells are done."""
    done: list[Cell] = []

    def fit(cell: Cell, *args: Any, **options: Any) -> dict[str, Any]:
        if len(done) == cells:
            raise KeyboardInterrupt("stop")
        done.append(cell)
        return fits.fit_cell(cell, *args, **options)

    monkeypatch.setattr(study, "fit_cell", fit)


def test_every_cell_is_there_once(study_folder: Path) -> None:
    cells = read(study_folder)["cells"]
    assert [(cell["seed"], cell["volumes"], cell["method"]) for cell in cells] == [
        (seed, count, method)
        for seed in (0, 1)
        for count in (1, 2)
        for method in ("linear", "unet")
    ]
    assert len(list((study_folder / "cells").iterdir())) == len(cells) == 8
    assert all(cell["failed"] is None and 0 <= cell["dice"] <= 1 for cell in cells)


def test_test_volumes_are_nobodys(study_folder: Path) -> None:
    result = read(study_folder)
    data = result["data"]
    apart = {*data["validation"], *data["test"]}
    assert (len(data["pool"]), len(data["validation"]), len(data["test"])) == (6, 2, 2)
    for cell in result["cells"]:
        assert len(cell["train"]) == cell["volumes"]
        assert not apart & set(cell["train"])
        assert [one["volume"] for one in cell["scores"]] == data["test"]


def test_methods_of_a_seed_learn_from_the_same_volumes(study_folder: Path) -> None:
    for cell in read(study_folder)["cells"]:
        drawn = read(study_folder)["data"]["draws"][str(cell["seed"])]
        assert cell["train"] == drawn[: cell["volumes"]]


def test_report_has_the_numbers_of_the_json(study_folder: Path) -> None:
    report, result = (study_folder / "report.md").read_text("utf-8"), read(study_folder)
    for method in ("linear", "unet"):
        by_count = {}
        for count in (1, 2):
            first, second = (
                cell["dice"]
                for cell in result["cells"]
                if (cell["method"], cell["volumes"]) == (method, count)
            )
            spread = abs(first - second) / 2**0.5  # sample standard deviation of two
            by_count[count] = f"{(first + second) / 2:.3f} ± {spread:.3f}"
        line = next(line for line in report.splitlines() if line.startswith(f"| {method} |"))
        assert line.replace("*", "") == f"| {method} | {by_count[1]} | {by_count[2]} |"
    for name in (*result["data"]["pool"], *result["data"]["validation"], *result["data"]["test"]):
        assert f"`{name}`" in report
    assert "so that N stands for N + 2 labelled volumes" in report
    assert re.search(r"N = 1: 4, N = 2: 4\.", report)  # steps


def test_everything_is_written(study_folder: Path) -> None:
    for name in FILES:
        assert (study_folder / name).stat().st_size > 500
    for name in ("dice.png", "classes.png"):
        with Image.open(study_folder / name) as picture:
            assert picture.size[0] > 1000
        assert "Label efficiency: hearts, custom at 48x48, 4 steps, 2 seeds" in text_of(
            study_folder / name
        )
    result = read(study_folder)
    assert [one["image_size"] for one in result["embeddings"]] == [[48, 48]]
    assert result["embeddings"][0]["computed"] > 0
    assert {"torch", "monai"} <= set(result["machine"]["versions"])


def test_equal_studies_have_equal_scores(
    material: MaterialFactory, setting: SettingFactory, tmp_path: Path
) -> None:
    plan = {"methods": tuple(METHODS), "volumes": (2,), "seeds": 1, "cnn_channels": 4}
    for name in ("first", "second"):
        run_study(material(**plan), setting(tmp_path / name))
    assert len(scores(tmp_path / "first")) == len(METHODS)
    assert scores(tmp_path / "first") == scores(tmp_path / "second")


def test_a_killed_study_goes_on(
    study_folder: Path,
    material: MaterialFactory,
    setting: SettingFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        kill_after(patch, 3)
        with pytest.raises(KeyboardInterrupt, match="stop"):
            run_study(material(), setting(folder))
    before = times_of(folder)
    assert len(before) == 3
    assert not (folder / "report.md").exists()
    with pytest.raises(OutputError, match="holds a study already; go on with --resume"):
        run_study(material(), setting(folder))
    trained: list[Cell] = []

    class Seen(StudyWatch):
        def cell(self, cell: Cell, epochs: int) -> None:
            trained.append(cell)

    run_study(material(), setting(folder, resume=True), watch=Seen())
    assert trained == list(material().plan.cells[3:])
    assert {name: times_of(folder)[name] for name in before} == before
    assert scores(folder) == scores(study_folder)


def test_a_study_grows(
    study_folder: Path, material: MaterialFactory, setting: SettingFactory, tmp_path: Path
) -> None:
    """One seed and method first, the rest on top: the same as everything at once."""
    folder, notes = tmp_path / "grown", []

    class Seen(StudyWatch):
        def note(self, text: str) -> None:
            notes.append(text)

    run_study(material(methods=("linear",), seeds=1, volumes=(2,)), setting(folder))
    run_study(material(), setting(folder, resume=True))
    assert scores(folder) == scores(study_folder)
    run_study(material(seeds=1), setting(folder, resume=True), watch=Seen())
    assert len(read(folder)["cells"]) == 4
    assert notes == ["4 finished cells of other methods, sizes, volumes, seeds left out"]


def test_cells_made_otherwise_are_not_mixed_in(
    material: MaterialFactory, setting: SettingFactory, tmp_path: Path
) -> None:
    folder, plan = tmp_path / "mixed", {"methods": ("linear",), "volumes": (1,), "seeds": 1}
    run_study(material(**plan), setting(folder))
    before = scores(folder)
    with pytest.raises(
        OutputError,
        match=r"'linear at 48x48, 1 volume, seed 0' was made in another way; got .*steps 4,.* 9, ",
    ):
        run_study(material(**plan, steps=9), setting(folder, resume=True))
    assert scores(folder) == before
    run_study(material(**plan, steps=9), setting(folder, overwrite=True))
    assert read(folder)["recipe"]["steps"] == 9


def test_a_failed_cell_is_recorded_and_the_rest_goes_on(
    material: MaterialFactory,
    setting: SettingFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fit(cell: Cell, *args: Any, **options: Any) -> dict[str, Any]:
        if cell.method == "linear" and cell.volumes == 1:
            raise TrainingError("the head died", got="constant output")
        return fits.fit_cell(cell, *args, **options)

    folder = tmp_path / "failing"
    with monkeypatch.context() as patch:
        patch.setattr(study, "fit_cell", fit)
        run_study(material(), setting(folder))
    result, report = read(folder), (folder / "report.md").read_text("utf-8")
    failed = [cell for cell in result["cells"] if cell["failed"] is not None]
    assert [(cell["method"], cell["seed"]) for cell in failed] == [("linear", 0), ("linear", 1)]
    assert {cell["failed"] for cell in failed} == {"the head died; got constant output"}
    assert re.search(r"^\| linear \| failed \| ", report, re.MULTILINE)
    assert "* linear, 1 volume, seed 1: the head died; got constant output" in report
    # It would fail again: a resumed study does not try.
    run_study(material(), setting(folder, resume=True))
    assert len([one for one in read(folder)["cells"] if one["failed"] is not None]) == 2


def test_a_loss_that_is_not_finite_fails_its_cell_alone(
    material: MaterialFactory, setting: SettingFactory, tmp_path: Path
) -> None:
    """The real thing: a rate that no network bears."""
    fields = {"volumes": (1,), "seeds": 1, "steps": 6, "learning_rate": 1e30}
    result = run_study(material(**fields), setting(tmp_path / "wild"))
    assert [bool(cell["failed"]) for cell in result["cells"]] == [True, True]
    assert "not finite" in result["cells"][1]["failed"]
    assert (tmp_path / "wild" / "dice.png").is_file()


def test_an_encoder_is_pretrained_once_a_seed_and_kept(
    material: MaterialFactory,
    setting: SettingFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, made = tmp_path / "pretrained", []

    def pretrain(volumes: Any, **options: Any) -> Any:
        made.append((options["config"].seed, len(volumes)))
        return real(volumes, **options)

    real = pretraining.pretrain
    monkeypatch.setattr(pretraining, "pretrain", pretrain)
    plan = {"methods": ("unet", "unet-pretrained"), "seeds": 2}
    with monkeypatch.context() as patch:
        kill_after(patch, 3)
        with pytest.raises(KeyboardInterrupt, match="stop"):
            run_study(material(**plan), setting(folder))
    assert made == [(0, 6)]  # on the whole pool, though cells learn from one or two of it
    result = run_study(material(**plan), setting(folder, resume=True))
    assert made == [(0, 6), (1, 6)]
    assert [record["seed"] for record in result["pretraining"]] == [0, 1]
    assert all(record["seconds"] > 0 for record in result["pretraining"])
    by_method = {
        method: [cell["scores"] for cell in result["cells"] if cell["method"] == method]
        for method in plan["methods"]
    }
    assert by_method["unet"] != by_method["unet-pretrained"]
    assert result["embeddings"] == []
    assert "without labels; loss" in (folder / "report.md").read_text("utf-8")


def test_pretraining_that_fails_fails_its_cells(
    material: MaterialFactory,
    setting: SettingFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    def pretrain(volumes: Any, **options: Any) -> Any:
        tried.append(options["config"].seed)
        raise TrainingError("the pretraining loss is not finite")

    monkeypatch.setattr(pretraining, "pretrain", pretrain)
    plan = {"methods": ("unet-pretrained",), "seeds": 1}
    result = run_study(material(**plan), setting(tmp_path / "study"))
    assert [cell["failed"] for cell in result["cells"]] == [
        "the pretraining loss is not finite"
    ] * 2
    assert tried == [0]


def test_an_altered_pretrained_encoder_is_noticed(
    material: MaterialFactory, setting: SettingFactory, tmp_path: Path
) -> None:
    folder, plan = tmp_path / "study", {"methods": ("unet-pretrained",), "seeds": 1}
    run_study(material(**plan, volumes=(1,)), setting(folder))
    weights = folder / "pretraining" / "seed-0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"1234")
    with pytest.raises(OutputError, match=r"seed-0\.safetensors' is not the encoder that was"):
        run_study(material(**plan, volumes=(1, 2)), setting(folder, resume=True))


def test_a_random_encoder_is_named_everywhere(study_folder: Path) -> None:
    assert read(study_folder)["warning"] == RANDOM_ENCODER
    assert read(study_folder)["encoder"]["random"] is True
    assert f"> **{RANDOM_ENCODER}**" in (study_folder / "report.md").read_text("utf-8")
    for name in ("dice.png", "classes.png"):
        assert RANDOM_ENCODER in text_of(study_folder / name)


def test_real_weights_are_not_called_random(
    study_folder: Path, material: MaterialFactory, setting: SettingFactory, tmp_path: Path
) -> None:
    """The same weights in a file that does not say so: nothing else changes."""
    folder = tmp_path / "real"
    run_study(material(random=False), setting(folder))
    assert scores(folder) == scores(study_folder)
    assert read(folder)["warning"] is None
    for name in ("label-efficiency.json", "report.md"):
        assert "RANDOM" not in (folder / name).read_text("utf-8")
    assert "Its weights are random" not in (folder / "report.md").read_text("utf-8")
    for name in ("dice.png", "classes.png"):
        assert "RANDOM" not in text_of(folder / name)


def test_more_volumes_than_the_pool(
    material: MaterialFactory, setting: SettingFactory, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--volumes; got 7; expected 1 to 6, which is what 2 for"):
        run_study(material(volumes=(1, 7)), setting(tmp_path / "study"))
    assert not (tmp_path / "study").exists()


def test_one_foreground_class_has_no_panels(study_folder: Path, tmp_path: Path) -> None:
    from autosam_deploy.benchmarks.efficiency.report import write_report

    result = read(study_folder)
    result["data"]["classes"] = result["data"]["classes"][:2]
    write_report(tmp_path, result)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES[:3])
    assert "classes.png" not in (tmp_path / "report.md").read_text("utf-8")
