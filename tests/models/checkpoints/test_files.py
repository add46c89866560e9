from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from autosam_deploy.errors import CheckpointError
from autosam_deploy.models.checkpoints import read_checkpoint
from autosam_deploy.models.checkpoints.files import read_file

WEIGHTS = {"a.weight": torch.ones(3, 4), "a.bias": torch.zeros(4)}


class Payload:
    """Creates a file when it is unpickled by an unsuspecting reader."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def save_zip(content: Any, path: Path) -> None:
    torch.save(content, path)


def save_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [save_zip, save_legacy, save_pickle])
def test_code_in_a_pickle_is_refused_and_does_not_run(
    tmp_path: Path, write: Callable[[Any, Path], None]
) -> None:
    marker, path = tmp_path / "it-ran", tmp_path / "evil.pth"
    write({"state_dict": WEIGHTS, "args": Payload(marker)}, path)
    # The payload is a real one: a reader that trusts the file runs it.
    if write is save_pickle:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()
    marker.unlink()
    with pytest.raises(CheckpointError, match=r"evil\.pth' cannot be used: it is a.*none of it"):
        read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("write", [save_zip, save_legacy])
def test_both_formats_of_torch_are_read(tmp_path: Path, write: Callable[[Any, Path], None]) -> None:
    write({"state_dict": WEIGHTS, "epoch": 3, "name": "vit_b"}, tmp_path / "w.pth")
    found = read_file(tmp_path / "w.pth")
    assert found.wrapped == "state_dict"
    assert found.state.keys() == WEIGHTS.keys()
    assert torch.equal(found.state["a.weight"], WEIGHTS["a.weight"])


def test_metadata_of_safetensors(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "w.safetensors", metadata={"who": "me"})
    found = read_file(tmp_path / "w.safetensors")
    assert (found.metadata, found.wrapped) == ({"who": "me"}, None)


def test_a_prefix_goes_only_if_all_names_have_it(tmp_path: Path) -> None:
    for names, expected in (
        (["module.module.a", "module.module.b"], ["a", "b"]),
        (["module.a", "b"], ["module.a", "b"]),
    ):
        save_zip({name: torch.ones(1) for name in names}, tmp_path / "w.pth")
        assert list(read_file(tmp_path / "w.pth").state) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>Not found</html>", "not a weights file; got text that begins"),
        (b"version https://git-lfs.github.com/spec/v1\n", "begins with 'version https://git-lfs"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "not a weights file; got bytes that begin with 89 48"),
        (b"PK\x03\x04" + bytes(100), "truncated or damaged"),
        (b"\x80\x02" + bytes(100), "truncated or damaged|instructions unknown"),
        (bytes([255] * 8) + b"{" + bytes(60), "truncated or damaged"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.98])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_refused(tmp_path: Path, kind: str, kept: float) -> None:
    path = tmp_path / "file.pth"
    if kind == "safetensors":
        save_file(WEIGHTS, path)
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=kind == "zip")
    data = path.read_bytes()
    path.write_bytes(data[: max(1, int(len(data) * kept))])
    with pytest.raises(CheckpointError, match=r"truncated or damaged|not a weights file"):
        read_checkpoint(path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_altered_bytes_raise_our_error_or_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file.pth"
    if kind == "safetensors":
        save_file(WEIGHTS, path)
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=kind == "zip")
    data = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(150):
        position, value = (
            int(torch.randint(0, top, (1,), generator=generator)) for top in (len(data), 256)
        )
        path.write_bytes(data[:position] + bytes([value]) + data[position + 1 :])
        try:
            read_file(path)
        except CheckpointError:
            refused += 1
    assert refused > 0


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.pth' cannot be used: it cannot be opened"):
        read_checkpoint(tmp_path / "nothing.pth")
    with pytest.raises(CheckpointError, match="it is a folder; expected a file; name the file"):
        read_checkpoint(tmp_path)
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"name a file in it: 'model\.safetensors'"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "no weights by name; got a list"),
        (torch.ones(3), "no weights by name; got a Tensor"),
        ({"epoch": 3, "lr": 0.1}, "it holds no weights; got entries 'epoch', 'lr'"),
        ({"state_dict": {}}, "it holds no weights; got no entries"),
        ({"w": torch.ones(2, 2).to_sparse()}, r"'w' is not plain numbers; got torch\.sparse_coo"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "'w' is not plain numbers"),
    ],
)
def test_torch_files_without_plain_weights(tmp_path: Path, content: Any, message: str) -> None:
    save_zip(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "w.pth")


def test_a_zip_that_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_checkpoint(tmp_path / "a.pth")
