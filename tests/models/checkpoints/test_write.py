from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from autosam_deploy.errors import CheckpointError, OutputError
from autosam_deploy.models.checkpoints import (
    HeadInfo,
    read_checkpoint,
    write_encoder,
    write_head,
    write_segmenter,
)
from autosam_deploy.models.heads import seeded_head_state
from autosam_deploy.spec import HeadKind, HeadSpec

MakeHead = Callable[[HeadKind], HeadSpec]
MakeInfo = Callable[..., HeadInfo]


def test_weights_of_another_head_are_not_written(
    tmp_path: Path, reference_head: MakeHead, head_info: MakeInfo
) -> None:
    linear, cnn = reference_head("linear"), reference_head("cnn")
    path = tmp_path / "head.safetensors"
    with pytest.raises(CheckpointError, match="do not fit the model: missing"):
        write_head(path, seeded_head_state(linear, 0), head_info(cnn))
    with pytest.raises(CheckpointError, match="do not fit the model: missing"):
        write_segmenter(path, seeded_head_state(cnn, 0), head_info(cnn))
    with pytest.raises(
        CheckpointError, match=r"of no known kind; .*'patch_embed\.proj\.weight' \(vit\)"
    ):
        write_encoder(path, seeded_head_state(cnn, 0))
    assert list(tmp_path.iterdir()) == []


def test_views_halves_and_parameters_are_stored_as_plain_float32(
    tmp_path: Path, encoder_state: dict[str, Tensor]
) -> None:
    name = "blocks.0.attn.qkv.weight"
    odd = {**encoder_state, name: torch.nn.Parameter(encoder_state[name].t().contiguous().t())}
    odd["pos_embed"] = odd["pos_embed"].half()
    write_encoder(tmp_path / "encoder.safetensors", odd)
    found = read_checkpoint(tmp_path / "encoder.safetensors").encoder_state
    assert found is not None
    assert torch.equal(found[name], encoder_state[name])
    assert torch.equal(found["pos_embed"], encoder_state["pos_embed"].half().float())


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reference_head: MakeHead,
    head_info: MakeInfo,
) -> None:
    head, path = reference_head("linear"), tmp_path / "head.safetensors"
    write_head(path, seeded_head_state(head, 0), head_info(head))
    before = path.read_bytes()

    def full_disk(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("autosam_deploy.models.checkpoints.write.save_file", full_disk)
    with pytest.raises(OutputError, match=r"cannot write.*No space left"):
        write_head(path, seeded_head_state(head, 1), head_info(head))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["head.safetensors"]


def test_a_path_that_cannot_be_written(
    tmp_path: Path, reference_head: MakeHead, head_info: MakeInfo
) -> None:
    (tmp_path / "file").write_text("in the way")
    head = reference_head("linear")
    with pytest.raises(OutputError, match="cannot write"):
        write_head(tmp_path / "file" / "h.safetensors", seeded_head_state(head, 0), head_info(head))


def test_equal_weights_make_equal_files(
    tmp_path: Path, reference_head: MakeHead, head_info: MakeInfo
) -> None:
    head = reference_head("autosam")
    state = seeded_head_state(head, 0)
    write_head(tmp_path / "a.safetensors", state, head_info(head))
    write_head(tmp_path / "b.safetensors", dict(reversed(state.items())), head_info(head))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
