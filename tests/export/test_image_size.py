"""A head trained at a smaller input than the encoder's own: exported, and run on every backend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.export.cli import main
from autosam_deploy.models.checkpoints import HeadInfo, read_checkpoint, write_encoder, write_head
from autosam_deploy.models.encoders import resize_encoder_state, seeded_encoder_state
from autosam_deploy.models.hashing import weights_sha256
from autosam_deploy.models.heads import seeded_head_state
from autosam_deploy.models.segmenter import Segmenter, segmenter_from_state
from autosam_deploy.parity import ParityRecord
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.spec import HEAD_KINDS, HeadKind, ModelSpec

SpecFactory = Callable[..., ModelSpec]
#: Windows of 4 patches: a grid of 4 x 5 has a whole one, and one that is padded.
SIZE = (32, 40)


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Factory: `runs/<head>` as training at `SIZE` leaves it, and the segmenter that it is."""
    runs = tmp_path_factory.mktemp("runs")

    def build(kind: HeadKind, spec: ModelSpec) -> tuple[Path, Segmenter]:
        encoder, head = seeded_encoder_state(spec.encoder, 1), seeded_head_state(spec.head, 2)
        write_encoder(runs / "encoder.safetensors", encoder)
        small = spec.model_copy(update={"encoder": spec.encoder.resized(SIZE)})
        info = HeadInfo(
            head=spec.head,
            classes=spec.classes,
            preprocess=spec.preprocess,
            encoder=small.encoder,
            encoder_sha256=weights_sha256(encoder),
        )
        write_head(runs / kind / "head.safetensors", head, info)
        (runs / kind / "run.json").write_text('{"sam_checkpoint": "../encoder.safetensors"}')
        resized = resize_encoder_state(encoder, small.encoder)
        state = {f"image_encoder.{name}": tensor for name, tensor in resized.items()}
        return runs, segmenter_from_state(small, {**state, **head})

    return build


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_every_backend_labels_as_the_small_segmenter(
    trained: Any, model_spec: SpecFactory, kind: HeadKind
) -> None:
    runs, truth = trained(kind, model_spec(kind))
    result = run("--runs", runs, "--head", kind, "-q")
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(runs / kind / "model.autosam")
    assert bundle.manifest.model.encoder.image_size == SIZE
    record = ParityRecord.model_validate_json(bundle.file(bundle.manifest.parity).read_text())
    (gate,) = (one.gate for one in record.comparisons)
    slices = np.random.default_rng(0).normal(500, 200, (2, 37, 51)).astype(np.float32)
    logits = truth(torch.from_numpy(slices)[:, None]).numpy()
    best = np.sort(logits, axis=1)
    clear = best[:, -1] - best[:, -2] > 2 * gate
    assert clear.mean() > 0.99
    for backend in ("torch", "onnxruntime", "openvino"):
        with Engine.open(bundle, backend=backend, device="cpu", threads=1) as engine:
            assert np.abs(engine.logits(slices) - logits).max() <= gate, backend
            labels = engine.labels(slices)
        assert (labels == logits.argmax(axis=1))[clear].all(), backend
        assert len(np.unique(labels)) > 1


def test_a_head_is_exported_at_its_own_size_only(trained: Any, model_spec: SpecFactory) -> None:
    runs, _ = trained("linear", model_spec("linear"))
    result = run("--runs", runs, "--head", "linear", "--image-size", 48)
    assert result.exit_code == 2
    message = (
        "was trained at another image size; got 48x48; expected 32x40; leave the image size out, "
        "or train a head at the size that you want with autosam-train --image-size 48x48"
    )
    assert message in result.stderr
    shown = run("inspect", runs / "linear" / "head.safetensors", "--json")
    assert json.loads(shown.stdout)["encoder"]["image_size"] == [32, 40]


def test_the_weights_of_a_small_bundle_are_no_encoder_for_another_size(
    trained: Any, model_spec: SpecFactory, tmp_path: Path
) -> None:
    runs, truth = trained("linear", model_spec("linear"))
    assert run("--runs", runs, "--head", "linear", "-q", "-o", tmp_path / "m").exit_code == 0
    weights = tmp_path / "m" / "weights.safetensors"
    assert read_checkpoint(weights).encoder == truth.spec.encoder
    head = tmp_path / "head.safetensors"
    spec = model_spec("linear")
    info = read_checkpoint(runs / "linear" / "head.safetensors").info
    assert info is not None
    state = seeded_head_state(spec.head, 2)
    write_head(head, state, info.model_copy(update={"encoder": spec.encoder}))
    result = run("--checkpoint", head, "--sam-checkpoint", weights, "-o", tmp_path / "n")
    assert result.exit_code == 2
    assert "were interpolated for another image size; got 32x40; expected 48x48" in result.stderr
    assert not (tmp_path / "n").exists()


def test_untrained_at_a_smaller_size(tmp_path: Path) -> None:
    options = ("--untrained", "--encoder", "vit_tiny", "--head", "linear", "-o", tmp_path / "m")
    result = run(*options, "--image-size", "112x128")
    assert result.exit_code == 0, result.output
    assert "vit_tiny at 112x128" in result.output
    assert Bundle.open(tmp_path / "m").manifest.model.encoder.image_size == (112, 128)
