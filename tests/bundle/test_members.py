from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from autosam_deploy.bundle.members import list_members
from autosam_deploy.errors import BundleError


def test_files_of_all_folders(tmp_path: Path) -> None:
    (tmp_path / "golden" / "deep").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.onnx").write_bytes(b"123")
    (tmp_path / "golden" / "deep" / "b.npy").write_bytes(b"")
    assert list_members(tmp_path) == {"a.onnx": 3, "golden/deep/b.npy": 0}


@pytest.mark.parametrize("target", ["a.onnx", "golden", "nowhere", "/etc/passwd", ".."])
def test_links_are_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "a.onnx").write_bytes(b"123")
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "link").symlink_to(target)
    with pytest.raises(BundleError, match=r"'golden/link' of '.*' is a link; expected a regular"):
        list_members(tmp_path)


def test_pipes_and_sockets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BundleError, match=r"'pipe' .* is no regular file"):
        list_members(tmp_path)
    (tmp_path / "pipe").unlink()
    # The name of a socket is short by definition, so it is given relative to the folder.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(BundleError, match=r"'socket' .* is no regular file"):
            list_members(tmp_path)


@pytest.mark.parametrize(
    "name", ["libcuda.so", "libx.so.1.2", "nvinfer.DLL", "x.dylib", "x.pyd", "run.exe", "run.sh"]
)
def test_code_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(BundleError, match=r"is a program or library; expected data alone; remove"):
        list_members(tmp_path)


@pytest.mark.parametrize("name", ["also.txt", "x.so.onnx", "soda", ".DS_Store", "a.json"])
def test_data_is_not_code(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert list(list_members(tmp_path)) == [name]


def test_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"cannot be read; got No such file .*; check"):
        list_members(tmp_path / "nowhere")
