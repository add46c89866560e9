from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autosam_deploy import files
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.bundle.writer import BundleWriter, create_bundle
from autosam_deploy.errors import BundleError, OutputError
from autosam_deploy.spec import HeadKind

Exported = Callable[[HeadKind], Path]


def refill(folder: Path, source: Path) -> None:
    for member in source.iterdir():
        if member.name != "manifest.json":
            copy = shutil.copytree if member.is_dir() else shutil.copy
            copy(member, folder / member.name)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_new_bundle_takes_the_place_of_the_old(exported: Exported, tmp_path: Path) -> None:
    target = Path(shutil.copytree(exported("linear"), tmp_path / "m.autosam"))
    manifest = Bundle.open(exported("linear")).manifest.model_copy(update={"name": "newer"})
    with create_bundle(target) as writer:
        refill(writer.folder, exported("linear"))
        writer.finish(manifest)
    assert Bundle.open(target).manifest.name == "newer"
    assert leftovers(tmp_path) == []


def test_failure_leaves_the_old_bundle(exported: Exported, tmp_path: Path) -> None:
    target = Path(shutil.copytree(exported("linear"), tmp_path / "m.autosam"))

    def fail() -> None:
        with create_bundle(target) as writer:
            (writer.folder / "half").write_text("x")
            raise RuntimeError("the exporter broke")

    with pytest.raises(RuntimeError, match="the exporter broke"):
        fail()
    assert Bundle.open(target).manifest.name == "linear"
    assert leftovers(tmp_path) == []


def test_block_without_manifest_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(BundleError, match="left without a manifest"),
        create_bundle(tmp_path / "m.autosam"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_unlisted_files_are_refused(exported: Exported, tmp_path: Path) -> None:
    manifest = Bundle.open(exported("linear")).manifest

    def write() -> None:
        with create_bundle(tmp_path / "m.autosam") as writer:
            refill(writer.folder, exported("linear"))
            (writer.folder / "notes.txt").write_text("x")
            writer.finish(manifest)

    with pytest.raises(BundleError, match=r"not in its manifest; got \['notes.txt'\]"):
        write()


def test_what_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    precious = tmp_path / "data"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    with (
        pytest.raises(OutputError, match=r"'.*data' is in the way; got .* no bundle"),
        create_bundle(precious),
    ):
        pass
    assert (precious / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize(
    "content", ['{"name": "a web app", "icons": []}', "[]", "no JSON", "[" * 200_000]
)
def test_other_manifests_are_no_bundles(tmp_path: Path, content: str) -> None:
    """Web apps and browser extensions have a manifest.json too."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "manifest.json").write_text(content)
    with pytest.raises(OutputError, match=r"'.*site' is in the way"), create_bundle(site):
        pass
    assert (site / "manifest.json").read_text() == content


def test_damaged_bundle_is_replaced(exported: Exported, tmp_path: Path) -> None:
    target = Path(shutil.copytree(exported("linear"), tmp_path / "m.autosam"))
    (target / "model.fp32.onnx").unlink()
    manifest = Bundle.open(exported("linear")).manifest
    with create_bundle(target) as writer:
        refill(writer.folder, exported("linear"))
        writer.finish(manifest)
    Bundle.open(target)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a b", "a\\b", ""])
def test_badly_named_member(tmp_path: Path, path: str) -> None:
    writer = BundleWriter(tmp_path)
    with pytest.raises(BundleError, match="a member of the bundle is badly named; got "):
        writer.ref(path)


def test_member_that_was_not_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"'model\.fp32\.onnx' was not written"):
        BundleWriter(tmp_path).ref("model.fp32.onnx")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with (
        pytest.raises(OutputError, match="cannot write"),
        create_bundle(tmp_path / "locked" / "m.autosam"),
    ):
        pass


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(OutputError, match=r"cannot write .*Not a directory|cannot write .*exists"),
        create_bundle(tmp_path / "file" / "m.autosam"),
    ):
        pass


def test_full_disk_is_one_line(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    target = Path(shutil.copytree(exported("linear"), tmp_path / "m.autosam"))
    manifest = Bundle.open(target).manifest
    monkeypatch.setattr(files, "_sync", full)

    def write() -> None:
        with create_bundle(target) as writer:
            refill(writer.folder, exported("linear"))
            writer.finish(manifest)

    with pytest.raises(OutputError, match="got No space left on device") as caught:
        write()
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert Bundle.open(target).manifest.name == "linear"
    assert leftovers(tmp_path) == []


def test_killed_writer_leaves_the_old_bundle(exported: Exported, tmp_path: Path) -> None:
    target = Path(shutil.copytree(exported("linear"), tmp_path / "m.autosam"))
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from autosam_deploy.bundle.writer import create_bundle\n"
        "with create_bundle(Path(sys.argv[1])) as writer:\n"
        "    (writer.folder / 'model.fp32.onnx').write_bytes(b'x' * 1000)\n"
        "    sys.stdout.write('half\\n')\n"
        "    sys.stdout.flush()\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert Bundle.open(target).manifest.name == "linear"
    assert not (target / "half").exists()
