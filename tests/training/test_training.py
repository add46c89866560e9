from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autosam_deploy.errors import CheckpointError, UsageError, VolumeError
from autosam_deploy.models.checkpoints import read_checkpoint, write_encoder
from autosam_deploy.models.encoder import seeded_encoder_state
from autosam_deploy.models.heads import Head
from autosam_deploy.spec import HEAD_KINDS, HeadKind, ModelSpec, PreprocessSpec
from autosam_deploy.training.data import LabelledSlices, load_labelled
from autosam_deploy.training.embeddings import EmbeddedSlices, embed_volumes
from autosam_deploy.training.fit import (
    Epoch,
    FitConfig,
    FitResult,
    TrainingError,
    evaluate_head,
    fit_head,
)
from autosam_deploy.training.run import head_spec, start_head, train_head
from autosam_deploy.volumes.phantom import make_phantom, write_phantom_set
from autosam_deploy.volumes.volume import Volume
from autosam_deploy.volumes.write import write_volume

SpecFactory = Callable[..., ModelSpec]
NAMES = ("background", "rv", "myo", "lv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_phantom_set(tmp_path, train=3, test=1)
    return tmp_path


def easy_slices(model_spec: SpecFactory, kind: HeadKind) -> tuple[Head, EmbeddedSlices]:
    """Embeddings that say outright which class a token belongs to."""
    torch.manual_seed(0)
    spec = model_spec(kind).head
    labels = [
        np.kron(np.random.default_rng(n).integers(0, 3, (6, 6)), np.ones((4, 4))) for n in range(8)
    ]
    masks = tuple(label.astype(np.uint8) for label in labels)
    tokens = torch.stack([torch.from_numpy(mask[::4, ::4].copy()) for mask in masks]).long()
    embeddings = torch.zeros(8, spec.embed_dim, 6, 6)
    embeddings[:, :3] = 3 * torch.nn.functional.one_hot(tokens, 3).permute(0, 3, 1, 2).float()
    return Head(spec), EmbeddedSlices(embeddings, masks)


def fit(head: Head, slices: EmbeddedSlices, **fields: Any) -> FitResult:
    config = replace(FitConfig(epochs=15, learning_rate=3e-3), **fields)
    return fit_head(
        head, slices, slices, preprocess=PreprocessSpec(), image_size=(48, 48), config=config
    )


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_head_learns(model_spec: SpecFactory, kind: HeadKind) -> None:
    head, slices = easy_slices(model_spec, kind)
    # A linear head starts slowly: its few channels pass two norms before any class shows.
    result = fit(head, slices, epochs=60, learning_rate=1e-2 if kind == "linear" else 3e-3)
    assert result.history[-1].loss < 0.7 * result.history[0].loss
    assert result.best.dice > 0.7
    assert result.best.dice == max(epoch.dice for epoch in result.history)


def test_same_seed_same_weights(model_spec: SpecFactory) -> None:
    states = []
    for _ in range(2):
        head, slices = easy_slices(model_spec, "linear")
        states.append(fit(head, slices, epochs=3).state)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_sizes_may_differ(model_spec: SpecFactory) -> None:
    head, slices = easy_slices(model_spec, "linear")
    ragged = tuple(mask[: 24 - n, : 20 + n % 4] for n, mask in enumerate(slices.labels))
    result = fit(head, EmbeddedSlices(slices.embeddings, ragged), epochs=2)
    assert len(result.history) == 2


def test_loss_that_is_not_finite_names_the_step(model_spec: SpecFactory) -> None:
    head, slices = easy_slices(model_spec, "linear")
    slices.embeddings[5] = float("nan")
    with pytest.raises(
        TrainingError, match=r"not finite; got nan in epoch 1, step [12], training slices .*\b5\b"
    ):
        fit(head, slices)


def last_layer(head: Head) -> torch.nn.Conv2d:
    """The layer of a linear head that gives the logits."""
    layer = head.get_submodule("mask_decoder.final.2")
    assert isinstance(layer, torch.nn.Conv2d)
    return layer


def constant_head(model_spec: SpecFactory, *, bias: tuple[float, ...], relu: bool) -> Head:
    """A linear head whose last layer ignores what comes before it."""
    spec = model_spec("linear").head.model_copy(update={"final_relu": relu})
    head = Head(spec)
    with torch.no_grad():
        last_layer(head).weight.zero_()
        last_layer(head).bias.copy_(torch.tensor(bias))  # type: ignore[union-attr]
    return head


def test_dead_head_is_noticed(model_spec: SpecFactory) -> None:
    """The reference's ReLU on logits can die: all are zero and nothing moves them."""
    _, slices = easy_slices(model_spec, "linear")
    dead = constant_head(model_spec, bias=(-1.0, -1.0, -1.0), relu=True)
    with pytest.raises(TrainingError, match=r"head died: .* got constant output in epoch 1"):
        fit(dead, slices, epochs=1)


def test_constant_output_is_seen_though_classes_differ(model_spec: SpecFactory) -> None:
    _, slices = easy_slices(model_spec, "linear")
    head = constant_head(model_spec, bias=(1.0, 2.0, 3.0), relu=False)
    score = evaluate_head(head, slices, lambda low, size: low)
    assert score.spread == 0
    assert 0 < score.dice < 0.5


@pytest.mark.parametrize("name", ["epochs", "batch", "learning_rate", "patience", "time_limit_s"])
def test_impossible_settings(name: str) -> None:
    with pytest.raises(UsageError, match=f"training {name}; got 0; expected > 0"):
        replace(FitConfig(), **{name: 0})


def test_time_limit_stops_after_a_whole_epoch(model_spec: SpecFactory) -> None:
    head, slices = easy_slices(model_spec, "linear")
    assert len(fit(head, slices, epochs=50, time_limit_s=1e-9).history) == 1
    assert len(fit(head, slices, epochs=2, time_limit_s=600.0).history) == 2


def test_validation_needs_foreground(model_spec: SpecFactory) -> None:
    """Without any, no epoch has a Dice, and none could be called the best."""
    head, slices = easy_slices(model_spec, "linear")
    empty = EmbeddedSlices(slices.embeddings, tuple(mask * 0 for mask in slices.labels))
    with pytest.raises(UsageError, match=r"got 8 for training, 8 for validation; .* foreground"):
        fit_head(head, slices, empty, preprocess=PreprocessSpec(), image_size=(48, 48))
    with pytest.raises(UsageError, match="got 0 for training, 8 for validation"):
        fit_head(head, slices.part(0, 0), slices, preprocess=PreprocessSpec(), image_size=(48, 48))


def test_best_state_is_kept_though_training_goes_on(model_spec: SpecFactory) -> None:
    head, slices = easy_slices(model_spec, "linear")
    after: list[dict[str, torch.Tensor]] = []

    def spoil(epoch: Epoch) -> None:
        after.append(copy.deepcopy(head.state_dict()))
        if epoch.number == 5:
            with torch.no_grad():  # classes change places, and one epoch cannot undo that
                for weight in last_layer(head).parameters():
                    weight.copy_(weight.roll(1, 0))

    result = fit_head(
        head,
        slices,
        slices,
        preprocess=PreprocessSpec(),
        image_size=(48, 48),
        config=FitConfig(epochs=6, learning_rate=0.2),
        report=spoil,
    )
    assert result.best.dice > result.history[-1].dice
    equal = [all(torch.equal(result.state[n], state[n]) for n in state) for state in after]
    assert [number for number, same in enumerate(equal, start=1) if same] == [result.best.number]


def test_embeddings_follow_the_slices() -> None:
    volumes = [
        LabelledSlices("a", np.full((3, 4, 5), 1, np.float32), np.zeros((3, 4, 5), np.uint8)),
        LabelledSlices("b", np.full((2, 6, 5), 2, np.float32), np.ones((2, 6, 5), np.uint8)),
    ]
    seen: list[tuple[int, int]] = []
    found = embed_volumes(
        volumes,
        lambda slices: slices.mean(dim=(2, 3))[:, :, None, None],
        batch=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert found.embeddings.flatten().tolist() == [1, 1, 1, 2, 2]
    assert [mask.shape for mask in found.labels] == [(4, 5)] * 3 + [(6, 5)] * 2
    assert seen == [(2, 5), (3, 5), (5, 5)]
    assert len(found.part(3, 5)) == 2


def test_no_slices_to_embed() -> None:
    with pytest.raises(UsageError, match="slices to embed; got none"):
        embed_volumes([], lambda slices: slices)


def test_pairs_are_read(folder: Path) -> None:
    found = load_labelled(folder / "imagesTr", folder / "labelsTr", num_classes=4)
    assert [volume.name for volume in found] == [f"heart_00{n}" for n in range(3)]
    image, labels = make_phantom(1)
    assert (found[1].slices == image.array).all()
    assert (found[1].labels == labels.array).all()


def test_unpaired_volume(folder: Path) -> None:
    (folder / "labelsTr" / "heart_001.nii.gz").unlink()
    with pytest.raises(VolumeError, match=r"do not pair up; got 'heart_001' without labels"):
        load_labelled(folder / "imagesTr", folder / "labelsTr", num_classes=4)


def test_labels_beyond_the_classes(folder: Path) -> None:
    with pytest.raises(VolumeError, match=r"unknown label; got 3; expected 0\.\.2"):
        load_labelled(folder / "imagesTr", folder / "labelsTr", num_classes=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: replace(v, array=v.array[1:]), r"does not fit its volume; got shape \(11,"),
        (lambda v: replace(v, array=v.array * np.uint8(0)), "holds no foreground"),
        (
            lambda v: replace(v, geometry=replace(v.geometry, spacing=(1.4, 1.4, 9.0))),
            "does not lie where its volume lies",
        ),
    ],
)
def test_labels_that_do_not_fit(
    folder: Path, change: Callable[[Volume], Volume], message: str
) -> None:
    _, labels = make_phantom(1)
    write_volume(folder / "labelsTr" / "heart_001.nii.gz", change(labels))
    with pytest.raises(VolumeError, match=message):
        load_labelled(folder / "imagesTr", folder / "labelsTr", num_classes=4)


def train(
    folder: Path, target: Path, sam: Path, *, command: str | None = None
) -> tuple[Path, Epoch]:
    return train_head(
        load_labelled(folder / "imagesTr", folder / "labelsTr", num_classes=4),
        target,
        kind="linear",
        class_names=NAMES,
        sam_checkpoint=sam,
        config=FitConfig(epochs=2),
        command=command,
    )


def test_run_leaves_what_export_needs(
    folder: Path, tmp_path: Path, model_spec: SpecFactory
) -> None:
    sam = tmp_path / "runs" / "encoder.safetensors"
    write_encoder(sam, seeded_encoder_state(model_spec("linear").encoder, 0))
    head, best = train(folder, tmp_path / "runs" / "linear", sam, command="autosam-demo fit")
    found = read_checkpoint(head)
    assert found.info is not None
    assert [entry.name for entry in found.info.classes] == list(NAMES)
    assert found.encoder_sha256 == read_checkpoint(sam).encoder_sha256
    run = json.loads((head.parent / "run.json").read_text("utf-8"))
    assert (head.parent / run["sam_checkpoint"]).resolve() == sam.resolve()
    assert not Path(run["sam_checkpoint"]).is_absolute()
    assert run["command"] == "autosam-demo fit"
    metrics = json.loads((head.parent / "metrics.json").read_text("utf-8"))
    assert len(metrics["history"]) == 2
    assert metrics["best"]["dice"] == best.dice


def test_same_seed_same_file(folder: Path, tmp_path: Path, model_spec: SpecFactory) -> None:
    sam = tmp_path / "encoder.safetensors"
    write_encoder(sam, seeded_encoder_state(model_spec("linear").encoder, 0))
    one, _ = train(folder, tmp_path / "a", sam)
    torch.rand(1)  # what else was drawn in the process must not matter
    two, _ = train(folder, tmp_path / "b", sam)
    assert one.read_bytes() == two.read_bytes()


def test_autosam_head_starts_from_sams_decoder(tmp_path: Path, model_spec: SpecFactory) -> None:
    sam_file = tmp_path / "encoder.safetensors"
    write_encoder(sam_file, seeded_encoder_state(model_spec("autosam").encoder, 0))
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


def test_run_needs_volumes_and_an_encoder(folder: Path, tmp_path: Path) -> None:
    volumes = load_labelled(folder / "imagesTr", folder / "labelsTr", num_classes=4)
    fit_on = partial(
        train_head, kind="linear", class_names=NAMES, sam_checkpoint=tmp_path / "none.pth"
    )
    with pytest.raises(UsageError, match="got 1 in all, 1 for validation"):
        fit_on(volumes[:1], tmp_path)
    with pytest.raises(CheckpointError, match=r"none\.pth"):
        fit_on(volumes, tmp_path)


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_head_specs_are_the_reference_shapes(kind: HeadKind) -> None:
    spec = head_spec(kind, num_classes=4)
    assert (spec.kind, spec.embed_dim) == (kind, 256)
    assert getattr(spec, "final_relu", False) is False
