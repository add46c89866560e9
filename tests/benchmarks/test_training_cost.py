"""`autosam-bench training-cost` on a very small encoder: what is measured, not how fast it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from autosam_deploy.benchmarks import training_cost
from autosam_deploy.benchmarks.cli import main
from autosam_deploy.models.checkpoints import write_encoder
from autosam_deploy.models.encoders import seeded_encoder_state
from autosam_deploy.models.segmenter import Segmenter
from autosam_deploy.spec import ModelSpec
from autosam_deploy.volumes.phantom import write_phantom_set

Cost = Callable[..., Result]


@pytest.fixture
def cost(tmp_path: Path, model_spec: Callable[..., ModelSpec]) -> Cost:
    write_phantom_set(tmp_path / "data", train=1, test=1)
    sam = tmp_path / "sam.safetensors"
    write_encoder(sam, seeded_encoder_state(model_spec("linear").encoder, 0), random_seed=0)

    def call(*options: object) -> Result:
        given = ("--data", tmp_path / "data", "--sam-checkpoint", sam, "--threads", 1)
        return CliRunner().invoke(main, ["training-cost", *map(str, (*given, *options))])

    return call


def test_encoder_runs_on_every_slice_of_every_epoch_in_one_way_only(
    cost: Cost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = Segmenter.embed

    def spy(self: Segmenter, slices: torch.Tensor) -> torch.Tensor:
        seen.append(len(slices))
        return original(self, slices)

    monkeypatch.setattr(Segmenter, "embed", spy)
    out = tmp_path / "cost.json"
    result = cost("--slices", 6, "--heads", "linear,autosam", "--rounds", 2, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    assert seen == [4, 2] * 2 * 2  # two batches a round, two rounds, two heads
    record = json.loads(out.read_text("utf-8"))
    assert record == json.loads(result.stdout)
    assert record["embedding"]["computed"] == 6
    assert "random weights" in record["encoder"]
    assert [row["head"] for row in record["heads"]] == ["linear", "autosam"]
    for row in record["heads"]:
        assert row["reference_s"] > 0
        assert row["ours_s"] > 0
        low, high = row["epoch_ratio_range"]
        assert 0 < low <= row["epoch_ratio"] <= high
        total = record["embedding"]["seconds"] + record["epochs"] * row["ours_s"]
        assert row["training_ratio"] == pytest.approx(
            record["epochs"] * row["reference_s"] / total, abs=0.1
        )


def test_both_ways_learn_the_same(model_spec: Callable[..., ModelSpec]) -> None:
    """The reference's way and ours take the same step: only where embeddings come from differs."""
    import numpy as np

    from autosam_deploy.models.segmenter import seeded_segmenter
    from autosam_deploy.training.datasets.loading import LabelledSlices
    from autosam_deploy.training.embedding.versions import EmbeddedSlices, Version

    spec = model_spec("linear")
    segmenter = seeded_segmenter(spec)
    random = np.random.default_rng(0)
    slices = random.normal(500, 90, (4, 20, 20)).astype(np.float32)
    volume = LabelledSlices("v", slices, random.integers(0, 3, slices.shape).astype(np.uint8))
    options = {"batch": 4}
    theirs = training_cost._trainer(spec, options)
    ours = training_cost._trainer(spec, options)
    training_cost._reference_epoch(theirs, segmenter, volume, 4, 1)
    with torch.no_grad():
        embedded = segmenter.embed(torch.from_numpy(slices)[:, None]).numpy()
    pairs = zip(embedded, volume.labels, strict=True)
    ours.epoch(EmbeddedSlices(tuple((Version(one, mask, "s"),) for one, mask in pairs)), 1)
    for name, weight in ours.head.state_dict().items():
        torch.testing.assert_close(weight, theirs.head.state_dict()[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--heads", "linear,unet"), "--heads; got unet; expected autosam, cnn, linear"),
        (("--slices", 99), "--slices; got 99; expected at most 12, one volume's"),
        (("--random-encoder", "vit_tiny"), "expected one of --sam-checkpoint and --random-encoder"),
    ],
)
def test_wrong_arguments(cost: Cost, options: tuple[object, ...], text: str) -> None:
    result = cost(*options)
    assert result.exit_code == 2
    assert text in result.stderr
