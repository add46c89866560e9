from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.errors import CheckpointError, OutputError, TrainingError, UsageError
from autosam_deploy.models.assemble import untrained
from autosam_deploy.models.checkpoints import read_checkpoint, write_segmenter
from autosam_deploy.models.segmenter import Segmenter
from autosam_deploy.spec import LinearHead, PreprocessSpec
from autosam_deploy.training.datasets.loading import LabelledSlices
from autosam_deploy.training.embedding.cache import CachePlan, EmbeddingCache, Space
from autosam_deploy.training.embedding.encoding import (
    RUNTIMES,
    FrozenEncoder,
    RuntimeName,
    choose_runtime,
    frozen_encoder,
)
from autosam_deploy.training.embedding.prepare import Caching, prepare_embeddings
from autosam_deploy.training.embedding.versions import (
    Views,
    fill_cache,
    keys_of,
    open_embeddings,
    stack,
)
from autosam_deploy.training.embedding.views import make_view
from autosam_deploy.training.watch import Watch

CPU = torch.device("cpu")


def volume(name: str, count: int, size: tuple[int, int], seed: int) -> LabelledSlices:
    random = np.random.default_rng(seed)
    slices = random.normal(500, 100, (count, *size)).astype(np.float32)
    return LabelledSlices(name, slices, random.integers(0, 3, slices.shape).astype(np.uint8))


@pytest.fixture
def volumes() -> list[LabelledSlices]:
    return [volume("a", 3, (12, 15), 1), volume("b", 2, (9, 9), 2)]


@pytest.fixture
def encoder(sam_file: Path) -> FrozenEncoder:
    return frozen_encoder(read_checkpoint(sam_file))


@pytest.fixture
def cache(tmp_path: Path, encoder: FrozenEncoder) -> EmbeddingCache:
    space = Space(
        encoder=encoder.spec,
        encoder_sha256=encoder.sha256,
        preprocess=encoder.preprocess,
        dtype="float32",
    )
    return EmbeddingCache(tmp_path / "cache", space, limit_bytes=10**9)


class Counting:
    """An encoder that writes the slice's mean everywhere and counts what it sees."""

    def __init__(self, shape: tuple[int, ...], *, stop_after: int = 10**6) -> None:
        self.shape, self.seen, self.stop_after = shape, 0, stop_after

    def __call__(self, slices: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.seen + len(slices) > self.stop_after:
            raise KeyboardInterrupt
        self.seen += len(slices)
        means = slices.mean(axis=(1, 2))[:, None, None, None]
        return np.broadcast_to(means, (len(slices), *self.shape)).astype(np.float32)


def test_embeddings_follow_slices_and_views(
    volumes: list[LabelledSlices], cache: EmbeddingCache
) -> None:
    views = Views(2)
    embed = Counting(cache.space.shape)
    stored: list[int] = []
    missing = cache.plan(keys_of(volumes, views)).missing
    fill_cache(volumes, cache, embed, missing=missing, views=views, batch=4, progress=stored.append)
    assert embed.seen == sum(stored) == len(missing) == 15
    found = open_embeddings(volumes, cache, views)
    assert [len(versions) for versions in found.slices] == [3] * 5
    slices = [slice_ for one in volumes for slice_ in one.slices]
    for slice_, plain in zip(slices, found.plain, strict=True):
        assert np.asarray(plain.embedding).max() == pytest.approx(slice_.mean())
    assert found.slices[3][2].origin == "b, slice 0, view 2"
    assert np.array_equal(found.slices[3][0].labels, volumes[1].labels[0])


def test_labels_of_a_view_are_those_of_its_image(
    volumes: list[LabelledSlices], cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Image and labels of a view are made at different times; they must be of one seed."""
    from autosam_deploy.training.embedding import versions as module

    seeds: list[int] = []

    def spy(*args: object, seed: int, **fields: object) -> object:
        seeds.append(seed)
        return make_view(*args, seed=seed, **fields)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "make_view", spy)
    views, part = Views(1), volumes[:1]
    fill_cache(part, cache, Counting(cache.space.shape), missing=keys_of(part, views), views=views)
    found = open_embeddings(part, cache, views)
    for index, (_, view) in enumerate(found.slices):
        image, labels = make_view(
            part[0].slices[index], part[0].labels[index], recipe=views.recipe, seed=seeds[index]
        )
        assert labels is not None
        assert np.array_equal(view.labels, labels)
        assert np.asarray(view.embedding).max() == pytest.approx(image.mean(), rel=1e-5)


def test_views_differ_by_number_seed_and_recipe(volumes: list[LabelledSlices]) -> None:
    part = volumes[1:]
    plain = set(keys_of(part, None))
    assert len(plain) == 2
    sets = [set(keys_of(part, views)) - plain for views in (Views(2), Views(2, seed=1))]
    weaker = Views(2, recipe=Views(0).recipe.model_copy(update={"flip_probability": 0.0}))
    sets.append(set(keys_of(part, weaker)) - plain)
    assert [len(one) for one in sets] == [4, 4, 4]
    assert len(set.union(*sets)) == 12
    assert sets[0] > set(keys_of(part, Views(1))) - plain  # fewer views are some of the same


def test_killed_run_goes_on(volumes: list[LabelledSlices], cache: EmbeddingCache) -> None:
    keys = keys_of(volumes, None)
    killed = Counting(cache.space.shape, stop_after=3)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        fill_cache(volumes, cache, killed, missing=keys, batch=2)
    plan = cache.plan(keys)
    assert len(plan.missing) == 5 - killed.seen == 2
    again = Counting(cache.space.shape)
    fill_cache(volumes, cache, again, missing=plan.missing, batch=2)
    assert again.seen == 2
    assert cache.plan(keys).missing == ()


def test_equal_slices_are_embedded_once(cache: EmbeddingCache) -> None:
    same = np.ones((4, 6, 6), np.float32)
    part = [LabelledSlices("a", same, np.zeros(same.shape, np.uint8))]
    embed = Counting(cache.space.shape)
    fill_cache(part, cache, embed, missing=keys_of(part, None))
    assert embed.seen == 1
    assert len(open_embeddings(part, cache)) == 4


def test_missing_embedding_is_an_error(
    volumes: list[LabelledSlices], cache: EmbeddingCache
) -> None:
    with pytest.raises(OutputError, match="run again: what is damaged is made anew"):
        open_embeddings(volumes, cache)


@pytest.mark.parametrize("name", RUNTIMES)
def test_runtimes_equal_the_segmenter(
    name: RuntimeName, encoder: FrozenEncoder, model_spec: object
) -> None:
    spec = model_spec("linear")  # type: ignore[operator]
    truth = Segmenter(spec).eval()
    truth.image_encoder.load_state_dict(dict(encoder.state))
    for size in ((1, 30, 41), (3, 17, 12)):
        slices = np.random.default_rng(3).normal(900, 200, size).astype(np.float32)
        with torch.no_grad():
            wanted = truth.embed(torch.from_numpy(slices)[:, None]).numpy()
        with RUNTIMES[name](encoder, device=CPU, threads=1) as embed:
            found = embed(slices)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= 2e-5 * np.abs(wanted).max()


def test_runtime_follows_the_amount_of_work(encoder: FrozenEncoder) -> None:
    from autosam_deploy.encoders import ENCODERS

    big = FrozenEncoder(ENCODERS["vit_b"], PreprocessSpec(), {}, "", random=True)
    assert choose_runtime(encoder, slices=10_000, device=CPU)[0] == "torch"
    assert choose_runtime(big, slices=5, device=CPU)[0] == "torch"
    assert choose_runtime(big, slices=350, device=CPU)[0] == "onnxruntime"
    assert choose_runtime(big, slices=350, device=torch.device("cuda:0"))[0] == "torch"


def test_encoder_that_gives_nan(encoder: FrozenEncoder) -> None:
    broken = dict(encoder.state)
    broken["neck.3.bias"] = torch.full_like(broken["neck.3.bias"], float("nan"))
    bad = FrozenEncoder(encoder.spec, encoder.preprocess, broken, "x", random=True)
    with (
        RUNTIMES["torch"](bad, device=CPU, threads=1) as embed,
        pytest.raises(TrainingError, match="embeddings that are not finite"),
    ):
        embed(np.ones((1, 8, 8), np.float32))


class Listening(Watch):
    def __init__(self) -> None:
        self.plans: list[CachePlan] = []
        self.done: list[tuple[int, int]] = []

    def embedding(self, plan: CachePlan, cache: EmbeddingCache, runtime: str) -> None:
        self.plans.append(plan)

    def embedded(self, done: int, total: int) -> None:
        self.done.append((done, total))


def test_prepared_once_for_all_heads(
    volumes: list[LabelledSlices], encoder: FrozenEncoder, tmp_path: Path
) -> None:
    caching = Caching(tmp_path / "cache", 10**9)
    records, watches = [], [Listening(), Listening()]
    for watch in watches:
        prepared = prepare_embeddings(
            volumes[:1], volumes[1:], encoder, caching=caching, views=Views(1), watch=watch
        )
        records.append(prepared.record)
    assert [record["computed"] for record in records] == [8, 0]
    assert [record["embeddings"] for record in records] == [8, 8]
    assert watches[0].done[-1] == (8, 8)
    assert [done for done, _ in watches[0].done] == sorted(done for done, _ in watches[0].done)
    assert watches[1].done == []
    assert len(prepared.train) == 3
    assert len(prepared.validation) == 2
    assert stack(prepared.validation).dtype == torch.float32


def test_embeddings_of_a_run_give_way_last(
    volumes: list[LabelledSlices], sam_file: Path, tmp_path: Path
) -> None:
    """Those that were there before the run, too: a study opens several spaces one after another."""
    sam, folder = read_checkpoint(sam_file), tmp_path / "cache"
    first, second = frozen_encoder(sam), frozen_encoder(sam, image_size=(64, 64))
    prepare_embeddings(volumes, (), first, caching=Caching(folder, 10**9))
    ours = set(folder.rglob("*.npy"))
    for path in ours:
        os.utime(path, (0, 0))
    other = folder / "other" / "00" / "other.npy"
    other.parent.mkdir(parents=True)
    other.write_bytes(bytes(1000))
    os.utime(other, (10**6, 10**6))  # used later than ours were, until the run
    limit = sum(path.stat().st_size for path in ours)
    limit += len(ours) * (128 + 2 * second.spec.out_chans * 64)  # those that are to come
    prepare_embeddings(volumes, (), first, caching=Caching(folder, limit))
    prepare_embeddings(volumes, (), second, caching=Caching(folder, limit))
    assert not other.exists()
    assert all(path.exists() for path in ours)


def test_tables_are_not_interpolated_twice(tmp_path: Path, sam_file: Path) -> None:
    """A bundle's weights bear the hash of the original: its embeddings would be taken for those."""
    sam, head = read_checkpoint(sam_file), LinearHead(num_classes=2, embed_dim=32)
    assert sam.encoder is not None
    made = untrained(sam.encoder.resized((64, 64)), head, sam=sam)
    path = tmp_path / "weights.safetensors"
    write_segmenter(path, made.segmenter.state_dict(), made.info())
    resized = read_checkpoint(path)
    same = frozen_encoder(resized, image_size=(64, 64))
    assert same.sha256 == frozen_encoder(sam).sha256
    assert same.state.keys() == frozen_encoder(sam).state.keys()
    message = r"tables of '.*weights\.safetensors' were interpolated.*; got 64x64; expected 48x48"
    with pytest.raises(CheckpointError, match=message):
        frozen_encoder(resized, image_size=(48, 48))


def test_without_validation_the_plain_training_slices_stand_in(
    volumes: list[LabelledSlices], encoder: FrozenEncoder, tmp_path: Path
) -> None:
    caching = Caching(tmp_path / "cache", 10**9)
    prepared = prepare_embeddings(volumes, (), encoder, caching=caching, views=Views(1))
    assert prepared.validation == prepared.train.plain


def test_nothing_to_embed(encoder: FrozenEncoder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="slices to embed; got none"):
        prepare_embeddings((), (), encoder, caching=Caching(tmp_path, 10**9))


def test_image_size_and_recipe_reach_the_encoder(sam_file: Path, tiny_encoder: EncoderSpec) -> None:
    sam = read_checkpoint(sam_file)
    found = frozen_encoder(
        sam, preprocess=PreprocessSpec(intensity="slice-zscore"), image_size=(32, 64)
    )
    assert found.spec.grid == (4, 8)
    assert found.random
    assert found.sha256 == frozen_encoder(sam).sha256
    slices = np.random.default_rng(0).normal(size=(1, 20, 20)).astype(np.float32)
    with RUNTIMES["torch"](found, device=CPU, threads=1) as embed:
        assert embed(slices).shape == (1, tiny_encoder.out_chans, 4, 8)


def test_views_are_counted_from_zero() -> None:
    with pytest.raises(UsageError, match="views of a slice; got -1; expected 0 or more"):
        Views(-1)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors as Linux does")
def test_open_embeddings_hold_no_descriptors(
    volumes: list[LabelledSlices], cache: EmbeddingCache
) -> None:
    """A training has more embeddings than a process may have files open."""
    views = Views(3)
    embed = Counting(cache.space.shape)
    fill_cache(volumes, cache, embed, missing=keys_of(volumes, views), views=views)
    before = len(list(Path("/proc/self/fd").iterdir()))
    found = open_embeddings(volumes, cache, views)
    versions = [one for versions in found.slices for one in versions]
    batch = stack(versions)
    assert len(versions) == 20
    assert batch.shape == (20, *cache.space.shape)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
