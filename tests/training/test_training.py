from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
from autosam_deploy.training.fit import FitConfig, TrainingError, fit_head
from autosam_deploy.training.run import head_spec, train_head
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


def fit(head: Head, slices: EmbeddedSlices, **fields: float) -> object:
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
    with pytest.raises(TrainingError, match=r"loss is not finite; got nan in epoch 1, step [12]"):
        fit(head, slices)


def test_dead_head_is_noticed(model_spec: SpecFactory) -> None:
    """The reference's ReLU on logits can die: all are zero and nothing moves them."""
    head, slices = easy_slices(model_spec, "linear")
    spec = head.spec.model_copy(update={"final_relu": True})
    dead = Head(spec)
    with torch.no_grad():
        dead.mask_decoder.final[2].weight.zero_()
        dead.mask_decoder.final[2].bias.fill_(-1.0)
    with pytest.raises(TrainingError, match="the head died: all of its logits are equal"):
        fit(dead, slices)


@pytest.mark.parametrize("name", ["epochs", "batch", "learning_rate", "patience"])
def test_impossible_settings(name: str) -> None:
    with pytest.raises(UsageError, match=f"training {name}; got 0; expected > 0"):
        replace(FitConfig(), **{name: 0})


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


def test_pairs_are_read(folder: Path) -> None:
    found = load_labelled(folder / "imagesTr", folder / "labelsTr", num_classes=4)
    assert [volume.name for volume in found] == [f"heart_00{n}_0000" for n in range(3)]
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


def test_run_leaves_what_export_needs(
    folder: Path, tmp_path: Path, model_spec: SpecFactory
) -> None:
    encoder = model_spec("linear").encoder
    sam = tmp_path / "runs" / "encoder.safetensors"
    write_encoder(sam, seeded_encoder_state(encoder, 0))
    volumes = load_labelled(folder / "imagesTr", folder / "labelsTr", num_classes=4)
    head, best = train_head(
        volumes,
        tmp_path / "runs" / "linear",
        kind="linear",
        class_names=NAMES,
        sam_checkpoint=sam,
        config=FitConfig(epochs=2),
    )
    found = read_checkpoint(head)
    assert found.info is not None
    assert [entry.name for entry in found.info.classes] == list(NAMES)
    assert found.encoder_sha256 == read_checkpoint(sam).encoder_sha256
    run = json.loads((head.parent / "run.json").read_text("utf-8"))
    assert (head.parent / run["sam_checkpoint"]).resolve() == sam.resolve()
    metrics = json.loads((head.parent / "metrics.json").read_text("utf-8"))
    assert len(metrics["history"]) == 2
    assert metrics["best"]["dice"] == best.dice


def test_run_needs_volumes_and_an_encoder(folder: Path, tmp_path: Path) -> None:
    volumes = load_labelled(folder / "imagesTr", folder / "labelsTr", num_classes=4)
    options = {"kind": "linear", "class_names": NAMES, "sam_checkpoint": tmp_path / "none.pth"}
    with pytest.raises(UsageError, match="got 1 in all, 1 for validation"):
        train_head(volumes[:1], tmp_path, **options)
    with pytest.raises(CheckpointError, match=r"none\.pth"):
        train_head(volumes, tmp_path, **options)


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_head_specs_are_the_reference_shapes(kind: HeadKind) -> None:
    spec = head_spec(kind, num_classes=4)
    assert (spec.kind, spec.embed_dim) == (kind, 256)
    assert getattr(spec, "final_relu", False) is False
