"""What is left in the repository when a write ends badly."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import OutputError
from autosam_deploy.export.triton import place
from autosam_deploy.export.triton.choose import Want
from autosam_deploy.export.triton.repository import Options, Written, write_repository


def write(bundle: Path, output: Path, want: Want | None = None, **options: Any) -> Written:
    opened = Bundle.open(bundle)
    return write_repository(opened, output, want=want, options=Options(name="heart", **options))


def tree(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def no_leftovers(tmp_path: Path) -> bool:
    return not [*tmp_path.rglob(".tmp-*"), *tmp_path.rglob(".old-*")]


def test_an_overwrite_that_cannot_be_finished_puts_the_old_back(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "repo"
    write(bundle, repo)
    before = tree(repo)
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "1" and Path(target) == repo / "heart" / "1":
            raise PermissionError(13, "Permission denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match=r"cannot move the model to .*; got Permission denied"):
        write(bundle, repo, Want(precision="fp32"), overwrite_version=1)
    assert tree(repo) == before
    assert no_leftovers(tmp_path)


SCRIPT = """
import os, resource, signal, sys
from pathlib import Path
from autosam_deploy import files
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.export.triton.repository import Options, write_repository
{prelude}
write_repository(Bundle.open(sys.argv[1]), Path(sys.argv[2]), options=Options(name="heart"))
"""


def run_script(prelude: str, bundle: Path, repo: Path) -> subprocess.CompletedProcess[str]:
    code = SCRIPT.format(prelude=prelude)
    return subprocess.run(
        [sys.executable, "-c", code, bundle, repo], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("existing", [False, True])
def test_a_killed_process_leaves_the_repository_as_it_was(
    bundle: Path, tmp_path: Path, existing: bool
) -> None:
    repo = tmp_path / "models" / "repo"
    if existing:
        write(bundle, repo)
    before = tree(repo)
    # Every file is written by then, and none is in its place.
    died = run_script("files._sync = lambda _: os.kill(os.getpid(), signal.SIGKILL)", bundle, repo)
    assert died.returncode == -signal.SIGKILL
    assert list((tmp_path / "models").glob(".tmp-repo-*/**/model.onnx"))
    assert tree(repo) == before
    # A server takes every folder in the repository for a model.
    assert [path.name for path in repo.glob("*")] == (["heart"] if existing else [])
    assert write(bundle, repo).version == (2 if existing else 1)


def test_a_full_disk_is_one_line_and_changes_nothing(bundle: Path, tmp_path: Path) -> None:
    size = (bundle / "model.fp16.onnx").stat().st_size
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, {resource.RLIM_INFINITY}))"
    failed = run_script(limit, bundle, tmp_path / "repo")
    assert failed.returncode == 1
    assert "OutputError: cannot write '" in failed.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "repo").exists()
    assert no_leftovers(tmp_path)


def test_two_writers_at_once_do_not_overwrite_each_other(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "repo"
    write(bundle, repo)
    move = place._move

    def late(source: Path, target: Path, *, retired: Path | None) -> None:
        (target / "other").mkdir(parents=True)
        move(source, target, retired=retired)

    monkeypatch.setattr(place, "_move", late)
    with pytest.raises(OutputError, match=r"cannot move the model to '.*heart/2'; got Directory n"):
        write(bundle, repo)
    assert [path.name for path in (repo / "heart" / "2").iterdir()] == ["other"]
    assert no_leftovers(tmp_path)


def test_a_repository_that_is_a_file_system_of_its_own(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "repo").mkdir()
    stat = Path.stat

    class Mounted:
        st_dev, st_mode = -1, stat(tmp_path).st_mode

    def elsewhere(self: Path, **flags: bool) -> Any:
        return Mounted if self == tmp_path / "repo" else stat(self, **flags)

    monkeypatch.setattr(Path, "stat", elsewhere)
    with pytest.raises(
        OutputError, match=r"repo' is the top of a file system of its own; .*models"
    ):
        write(bundle, tmp_path / "repo")
