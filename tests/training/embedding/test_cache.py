from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.errors import OutputError, UsageError
from autosam_deploy.spec import PreprocessSpec
from autosam_deploy.training.embedding import cache as module
from autosam_deploy.training.embedding.cache import (
    EmbeddingCache,
    Space,
    entry_key,
    slice_sha256,
)

KEYS = [entry_key(slice_sha256(np.full((3, 4), n, np.float32)), "") for n in range(6)]


@pytest.fixture
def space(tiny_encoder: EncoderSpec) -> Space:
    return Space(encoder=tiny_encoder, encoder_sha256="ab" * 32, preprocess=PreprocessSpec())


def embedding(space: Space, value: float = 1.0) -> np.ndarray:
    return np.full(space.shape, value, np.float32)


def open_cache(folder: Path, space: Space, *, files: float = 100) -> EmbeddingCache:
    return EmbeddingCache(folder, space, limit_bytes=int(files * space.file_bytes))


def test_what_is_put_is_found(tmp_path: Path, space: Space) -> None:
    cache = open_cache(tmp_path, space)
    values = np.random.default_rng(0).normal(size=space.shape).astype(np.float32)
    assert not cache.has(KEYS[0])
    cache.put(KEYS[0], values)
    found = open_cache(tmp_path, space).get(KEYS[0])
    assert isinstance(found, np.memmap)
    assert found.dtype == np.float16
    assert np.array_equal(found, values.astype(np.float16))
    assert cache.path(KEYS[0]).stat().st_size == space.file_bytes


def test_float32_keeps_every_bit(tmp_path: Path, space: Space) -> None:
    wide = space.model_copy(update={"dtype": "float32"})
    values = np.random.default_rng(0).normal(size=space.shape).astype(np.float32)
    cache = open_cache(tmp_path, wide)
    cache.put(KEYS[0], values)
    assert np.array_equal(cache.get(KEYS[0]), values)


@pytest.mark.parametrize(
    "change",
    [
        {"encoder_sha256": "cd" * 32},
        {"preprocess": PreprocessSpec(intensity="slice-zscore")},
        {"dtype": "float32"},
        {"encoder": "resized"},
    ],
)
def test_another_space_finds_nothing(tmp_path: Path, space: Space, change: dict[str, Any]) -> None:
    """Embeddings of other weights must never be taken."""
    open_cache(tmp_path, space).put(KEYS[0], embedding(space))
    if change == {"encoder": "resized"}:
        change = {"encoder": space.encoder.resized((96, 96))}
    other = space.model_copy(update=change)
    assert not open_cache(tmp_path, other).has(KEYS[0])
    with pytest.raises(OutputError, match="cannot be read"):
        open_cache(tmp_path, other).get(KEYS[0])


def test_what_does_not_change_an_embedding_shares_it(tmp_path: Path, space: Space) -> None:
    open_cache(tmp_path, space).put(KEYS[0], embedding(space))
    same = space.model_copy(
        update={
            "preprocess": PreprocessSpec(slice_axis="i"),
            "encoder": space.encoder.model_copy(update={"name": "custom"}),
        }
    )
    assert open_cache(tmp_path, same).has(KEYS[0])


def test_keys_tell_slices_and_views_apart() -> None:
    flat = np.zeros((2, 6), np.float32)
    hashes = [slice_sha256(flat), slice_sha256(flat.reshape(3, 4)), slice_sha256(flat + 1)]
    assert len(set(hashes)) == 3
    assert len({entry_key(hashes[0], view) for view in ("", "a", "b")}) == 3
    # A view of the memory, not of its layout, is what counts.
    assert slice_sha256(np.asfortranarray(flat)) == hashes[0]


@pytest.mark.parametrize("cut", [0, 1, 60, 1000])
def test_truncated_file_counts_as_missing(tmp_path: Path, space: Space, cut: int) -> None:
    cache = open_cache(tmp_path, space)
    cache.put(KEYS[0], embedding(space))
    path = cache.path(KEYS[0])
    path.write_bytes(path.read_bytes()[:cut] if cut else b"")
    assert cache.plan(KEYS[:1]).missing == (KEYS[0],)
    cache.put(KEYS[0], embedding(space, 2.0))
    assert cache.get(KEYS[0]).max() == 2.0


def test_file_of_another_shape_is_refused(tmp_path: Path, space: Space) -> None:
    cache = open_cache(tmp_path, space)
    cache.put(KEYS[0], embedding(space))
    wrong = np.zeros((space.shape[1], space.shape[0], space.shape[2]), np.float16)
    with cache.path(KEYS[0]).open("wb") as stream:
        np.save(stream, wrong)
    with pytest.raises(OutputError, match=r"not what its folder says; got float16 \(6, 32, 6\)"):
        cache.get(KEYS[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_values_that_do_not_fit(tmp_path: Path, space: Space, value: float) -> None:
    cache = open_cache(tmp_path, space)
    with pytest.raises(UsageError, match="does not fit the cache's dtype"):
        cache.put(KEYS[0], embedding(space, value))
    assert not cache.path(KEYS[0]).exists()


def test_plan_counts_each_embedding_once(tmp_path: Path, space: Space) -> None:
    cache = open_cache(tmp_path, space)
    cache.put(KEYS[1], embedding(space))
    plan = cache.plan([KEYS[0], KEYS[1], KEYS[0], KEYS[2]])
    assert plan.keys == (KEYS[0], KEYS[1], KEYS[2])
    assert plan.missing == (KEYS[0], KEYS[2])
    assert plan.new_bytes == 2 * space.file_bytes
    assert plan.total_bytes == 3 * space.file_bytes


def test_limit_is_for_one_run(tmp_path: Path, space: Space) -> None:
    cache = open_cache(tmp_path, space, files=2.5)
    cache.plan(KEYS[:2])
    with pytest.raises(UsageError, match=r"the cache's limit; got 7\.3 kB \(3 of .*most 6\.08 kB"):
        cache.plan(KEYS[:3])


def test_least_recently_used_give_way(tmp_path: Path, space: Space) -> None:
    other = space.model_copy(update={"encoder_sha256": "cd" * 32})
    for age, (where, key) in enumerate(
        [(space, KEYS[0]), (other, KEYS[1]), (space, KEYS[2]), (other, KEYS[3])]
    ):
        cache = open_cache(tmp_path, where)
        cache.put(key, embedding(space))
        os.utime(cache.path(key), (1000 + age, 1000 + age))
    cache = open_cache(tmp_path, space, files=4)
    held = cache.get(KEYS[0])  # used again: it is the youngest now
    plan = cache.plan([KEYS[2], KEYS[4], KEYS[5]])
    assert cache.make_room(plan) == 2 * space.file_bytes
    assert [cache.has(KEYS[n]) for n in (0, 2)] == [True, True]
    assert [open_cache(tmp_path, other).has(KEYS[n]) for n in (1, 3)] == [False, False]
    assert plan.total_bytes == 4 * space.file_bytes
    assert held.max() == 1.0


def test_needed_embeddings_never_give_way(tmp_path: Path, space: Space) -> None:
    cache = open_cache(tmp_path, space, files=2)
    for key in KEYS[:2]:
        cache.put(key, embedding(space))
    assert cache.make_room(cache.plan(KEYS[:2])) == 0
    assert cache.has(KEYS[0])
    assert cache.has(KEYS[1])


def test_full_disk_is_noticed_before_the_work(
    tmp_path: Path, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 64 << 20
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    cache = open_cache(tmp_path / "not" / "yet", space)
    with pytest.raises(OutputError, match=r"do not fit on the disk of .*; got 67\.1 MB free"):
        cache.plan(KEYS[:1])


def test_failed_write_leaves_the_rest(
    tmp_path: Path, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(tmp_path, space)
    cache.put(KEYS[0], embedding(space))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.np, "save", full)
    with pytest.raises(OutputError, match=r"cannot write .*No space left on device"):
        cache.put(KEYS[1], embedding(space))
    assert cache.plan(KEYS[:2]).missing == (KEYS[1],)
    assert [path.name for path in tmp_path.rglob("*.npy*")] == [cache.path(KEYS[0]).name]


def test_space_describes_itself(tmp_path: Path, space: Space) -> None:
    cache = open_cache(tmp_path, space)
    cache.describe()
    cache.describe()
    text = (tmp_path / space.name / "space.json").read_text("utf-8")
    assert Space.model_validate_json(text) == space


def test_what_is_gone_cannot_be_used(tmp_path: Path, space: Space) -> None:
    cache = open_cache(tmp_path, space)
    with pytest.raises(
        OutputError, match=r"cached embedding '.*' cannot be read; got No such file"
    ):
        cache.mark_used(KEYS[0])
    cache.put(KEYS[0], embedding(space))
    os.utime(cache.path(KEYS[0]), (0, 0))
    cache.mark_used(KEYS[0])
    assert cache.path(KEYS[0]).stat().st_mtime > 0
