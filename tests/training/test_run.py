from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from autosam_deploy.errors import CheckpointError, DeviceUnavailableError, UsageError
from autosam_deploy.metrics import dice
from autosam_deploy.models.checkpoints import read_checkpoint
from autosam_deploy.spec import HEAD_KINDS, HeadKind, ModelSpec, PreprocessSpec
from autosam_deploy.training.datasets.loading import LabelledSlices, load_labelled
from autosam_deploy.training.device import choose_device
from autosam_deploy.training.embedding.versions import Views
from autosam_deploy.training.fitting.recipe import FitConfig
from autosam_deploy.training.fitting.start import head_spec, start_head
from autosam_deploy.training.run import (
    JOURNAL_FILE,
    Trained,
    TrainRequest,
    train_head,
)
from autosam_deploy.training.watch import Watch

SpecFactory = Callable[..., ModelSpec]
NAMES = ("background", "rv", "myo", "lv")


@pytest.fixture
def volumes(phantoms: Path) -> list[LabelledSlices]:
    return load_labelled(phantoms / "imagesTr", phantoms / "labelsTr", num_classes=4)


@pytest.fixture
def request_(sam_file: Path, tmp_path: Path) -> TrainRequest:
    return TrainRequest(
        kind="linear",
        class_names=NAMES,
        sam_checkpoint=sam_file,
        cache=tmp_path / "cache",
        config=FitConfig(epochs=2),
        threads=1,
        command="autosam-train --data phantoms",
    )


def train(
    volumes: list[LabelledSlices], target: Path, request_: TrainRequest, **fields: Any
) -> Trained:
    return train_head(volumes[:-1], volumes[-1:], target, request=request_, **fields)


def test_run_leaves_what_export_needs(
    volumes: list[LabelledSlices], tmp_path: Path, request_: TrainRequest
) -> None:
    trained = train(volumes, tmp_path / "runs" / "linear", request_)
    found = read_checkpoint(trained.head)
    assert found.info is not None
    assert [entry.name for entry in found.info.classes] == list(NAMES)
    assert found.info.training["random_encoder"] is True
    assert found.encoder_sha256 == read_checkpoint(request_.sam_checkpoint).encoder_sha256
    folder = trained.head.parent
    assert sorted(path.name for path in folder.iterdir()) == [
        "curves.png",
        "head.safetensors",
        "metrics.json",
        "run.json",
    ]
    run = json.loads((folder / "run.json").read_text("utf-8"))
    assert (folder / run["sam_checkpoint"]).resolve() == request_.sam_checkpoint.resolve()
    assert not Path(run["sam_checkpoint"]).is_absolute()
    assert run["command"] == "autosam-train --data phantoms"
    assert Image.open(folder / "curves.png").size[0] > 800


def test_record_says_what_was_done(
    volumes: list[LabelledSlices], tmp_path: Path, request_: TrainRequest
) -> None:
    request_ = replace(request_, views=Views(1))
    trained = train(volumes, tmp_path / "linear", request_)
    metrics = json.loads((tmp_path / "linear" / "metrics.json").read_text("utf-8"))
    assert len(metrics["history"]) == 2
    assert metrics["best"]["dice"] == trained.best.dice
    assert metrics["ended"] == "all 2 epochs are done"
    assert metrics["data"]["train"] == ["heart_000", "heart_001"]
    assert metrics["data"]["validation"] == ["heart_002"]
    assert metrics["data"]["views"] == 1
    assert metrics["cache"]["embeddings"] == metrics["cache"]["computed"] == 2 * 2 * 12 + 12
    assert metrics["encoder"]["random"] is True
    assert set(metrics["versions"]) == {"autosam-deploy", "torch", "monai"}
    (scores,) = metrics["validation_scores"]
    assert [row["class"] for row in scores["classes"]] == list(NAMES[1:])


def test_scores_are_those_of_the_kept_weights(
    volumes: list[LabelledSlices], tmp_path: Path, request_: TrainRequest
) -> None:
    """The exported head, run by hand over the validation volume, has the Dice of the table."""
    from autosam_deploy.models.assemble import assemble

    request_ = replace(
        request_, kind="cnn", cnn_channels=16, config=FitConfig(epochs=10, learning_rate=1e-3)
    )
    trained = train(volumes, tmp_path / "cnn", request_)
    head, sam = read_checkpoint(trained.head), read_checkpoint(request_.sam_checkpoint)
    segmenter = assemble(head, sam=sam).segmenter
    slices = torch.from_numpy(volumes[-1].slices)[:, None]
    labels = torch.cat([segmenter.labels(part) for part in slices.split(4)]).numpy()
    found = dice(labels, volumes[-1].labels, num_classes=4)[1:]
    assert found.max() > 0.1  # something was learnt
    scored = [one.dice for one in trained.scores[0].classes]
    # Kept embeddings are in half precision: a few pixels may differ.
    assert scored == pytest.approx(found.tolist(), abs=0.01)


def test_second_run_and_other_heads_find_the_embeddings(
    volumes: list[LabelledSlices], tmp_path: Path, request_: TrainRequest
) -> None:
    computed = [
        train(
            volumes, tmp_path / kind, replace(request_, kind=kind, config=FitConfig(epochs=1))
        ).record["cache"]["computed"]
        for kind in ("linear", "cnn", "autosam")
    ]
    assert computed == [36, 0, 0]


def test_same_seed_same_file(
    volumes: list[LabelledSlices], tmp_path: Path, request_: TrainRequest
) -> None:
    request_ = replace(request_, views=Views(1))
    one = train(volumes, tmp_path / "a", request_).head
    torch.rand(1)  # what else was drawn in the process must not matter
    other = replace(request_, cache=tmp_path / "another_cache")
    two = train(volumes, tmp_path / "b", other).head
    assert one.read_bytes() == two.read_bytes()
    different = replace(request_, config=replace(request_.config, seed=1))
    assert train(volumes, tmp_path / "c", different).head.read_bytes() != one.read_bytes()


class Killing(Watch):
    def epoch(self, epoch: object) -> None:
        if epoch.number == 4:  # type: ignore[attr-defined]
            raise KeyboardInterrupt


def test_killed_run_resumes_to_the_same_file(
    volumes: list[LabelledSlices],
    tmp_path: Path,
    request_: TrainRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from autosam_deploy.training.fitting import resume

    monkeypatch.setattr(resume, "SAVE_EVERY_S", 0.0)
    request_ = replace(request_, config=FitConfig(epochs=6), views=Views(1))
    whole = train(volumes, tmp_path / "whole", request_).head
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        train(volumes, tmp_path / "cut", request_, watch=Killing())
    assert (tmp_path / "cut" / JOURNAL_FILE).is_file()
    assert not (tmp_path / "cut" / "head.safetensors").exists()
    changed = replace(request_, config=FitConfig(epochs=6, learning_rate=1e-3))
    with pytest.raises(UsageError, match="got another recipe; expected the same data"):
        train(volumes, tmp_path / "cut", changed, resume=True)
    with pytest.raises(UsageError, match="got another data; expected the same data"):
        train_head(volumes[1:], volumes[:1], tmp_path / "cut", request=request_, resume=True)
    resumed = train(volumes, tmp_path / "cut", request_, resume=True).head
    assert resumed.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "cut" / JOURNAL_FILE).exists()
    with pytest.raises(UsageError, match=r"nothing to resume .* got a finished head"):
        train(volumes, tmp_path / "cut", request_, resume=True)


def test_half_precision_embeddings_change_little(
    volumes: list[LabelledSlices], tmp_path: Path, request_: TrainRequest
) -> None:
    request_ = replace(request_, config=FitConfig(epochs=10))
    found = [
        train(volumes, tmp_path / dtype, replace(request_, cache_dtype=dtype)).best  # type: ignore[arg-type]
        for dtype in ("float16", "float32")
    ]
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-2)


def test_without_validation_volumes(
    volumes: list[LabelledSlices], tmp_path: Path, request_: TrainRequest
) -> None:
    trained = train_head(volumes[:1], (), tmp_path / "one", request=request_)
    assert [score.name for score in trained.scores] == ["heart_000"]
    assert trained.record["data"]["validation"] == []


def test_autosam_head_starts_from_sams_decoder(sam_file: Path, model_spec: SpecFactory) -> None:
    sam, spec = read_checkpoint(sam_file), model_spec("autosam").head
    plain = start_head(spec, sam, seed=3).state_dict()
    decoder = {
        name: torch.full_like(tensor, 0.5)
        for name, tensor in plain.items()
        if name.startswith("mask_decoder.")
    }
    found = start_head(spec, replace(sam, sam_decoder_state=decoder), seed=3).state_dict()
    taken = {name for name in found if not torch.equal(found[name], plain[name])}
    assert taken
    assert taken == {name for name in decoder if "iou" not in name and "mask_tokens" not in name}
    assert all((found[name] == 0.5).all() for name in taken)


def test_run_needs_volumes_and_an_encoder(
    volumes: list[LabelledSlices], tmp_path: Path, request_: TrainRequest
) -> None:
    with pytest.raises(UsageError, match="volumes for training; got none"):
        train_head((), volumes, tmp_path, request=request_)
    with pytest.raises(CheckpointError, match=r"none\.pth"):
        train(volumes, tmp_path, replace(request_, sam_checkpoint=tmp_path / "none.pth"))


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_head_specs_are_the_reference_shapes(kind: HeadKind) -> None:
    spec = head_spec(kind, num_classes=4)
    assert (spec.kind, spec.embed_dim) == (kind, 256)
    assert getattr(spec, "final_relu", False) is False


@pytest.mark.parametrize("text", ["tpu", "cuda:", "cuda:x", ""])
def test_unknown_devices(text: str) -> None:
    with pytest.raises(DeviceUnavailableError, match=r"unknown device; got .* expected auto, cpu"):
        choose_device(text)


def test_device_that_is_not_there() -> None:
    assert choose_device("cpu")[0].type == "cpu"
    with pytest.raises(DeviceUnavailableError, match=r"'cuda:99' is not there; got cpu.*expected"):
        choose_device("cuda:99")


def test_training_starts_from_an_earlier_head(
    volumes: list[LabelledSlices], tmp_path: Path, request_: TrainRequest
) -> None:
    first = train(volumes, tmp_path / "first", request_)
    still = FitConfig(epochs=1, learning_rate=1e-12)
    again = replace(request_, config=still, start_from=first.head)
    second = train(volumes, tmp_path / "second", again)
    kept = read_checkpoint(first.head).head_state
    found = read_checkpoint(second.head).head_state
    assert kept is not None
    assert found is not None
    for name, weight in kept.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-9)
    assert second.best.dice == pytest.approx(first.best.dice, abs=1e-6)
    assert second.record["start_from"] == str(first.head)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "cnn"}, "has another head; got"),
        ({"class_names": ("background", "a", "b", "c")}, "has another set of class names; got"),
        ({"image_size": (96, 96)}, r"another image size; got \(48, 48\); expected \(96, 96\)"),
        ({"preprocess": PreprocessSpec(intensity="none")}, "has another preprocessing"),
        ({"start_from": "sam"}, "is no start for this training; got sam; expected a head of"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_heads_that_are_no_start(
    volumes: list[LabelledSlices],
    tmp_path: Path,
    request_: TrainRequest,
    change: dict[str, Any],
    message: str,
) -> None:
    first = train(volumes, tmp_path / "first", request_)
    if change == {"start_from": "sam"}:
        change = {"start_from": request_.sam_checkpoint}
    wrong = replace(request_, **{"start_from": first.head, **change})
    with pytest.raises(CheckpointError, match=message):
        train(volumes, tmp_path / "second", wrong)
