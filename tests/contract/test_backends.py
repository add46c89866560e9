"""One suite over every backend and head: what a host may rely on whatever runs the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from autosam_deploy.errors import BackendError, BackendInputError, BackendUnavailableError
from autosam_deploy.parity import ParityRecord
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.selftest import run_golden
from autosam_deploy.runtime.table import BACKENDS
from autosam_deploy.spec import HEAD_KINDS, HeadKind

SHAPES = ((1, 40, 56), (2, 33, 71), (3, 64, 64), (1, 7, 5), (2, 1, 30))


@pytest.fixture(params=[(b, h) for b in BACKENDS for h in HEAD_KINDS], ids="-".join)
def engine(
    request: pytest.FixtureRequest, exported: Callable[[HeadKind], Path]
) -> Iterator[Engine]:
    backend, kind = request.param
    with Engine.open(exported(kind), backend=backend, device="cpu", threads=1) as opened:
        yield opened


def slices_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-300, 1900, shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_batch_and_size(engine: Engine, shape: tuple[int, ...]) -> None:
    slices = slices_of(shape)
    labels, logits = engine.labels(slices), engine.logits(slices)
    assert labels.dtype == np.uint8
    assert labels.shape == shape
    assert logits.dtype == np.float32
    assert logits.shape == (shape[0], 3, *shape[1:])
    assert (labels == logits.argmax(axis=1)).all()
    assert len(np.unique(logits)) > 3


def test_slices_of_a_batch_do_not_touch_each_other(engine: Engine) -> None:
    slices = slices_of((3, 30, 41))
    alone = np.concatenate([engine.logits(one[None]) for one in slices])
    np.testing.assert_allclose(engine.logits(slices), alone, atol=2e-4)


def test_golden_slices_within_the_gate(engine: Engine) -> None:
    results = run_golden(engine)
    text = engine.bundle.file(engine.manifest.parity).read_text("utf-8")
    gate = ParityRecord.model_validate_json(text).comparisons[0].gate
    assert [result.shape[0] for result in results] == [3, 1, 2]
    for result in results:
        assert result.max_logit_difference is not None
        assert result.max_logit_difference <= gate
        assert result.agreement > 0.999


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_pixel_types_are_converted(engine: Engine, dtype: type) -> None:
    slices = np.random.default_rng(0).integers(0, 200, (1, 20, 30)).astype(dtype)
    assert (engine.labels(slices) == engine.labels(slices.astype(np.float32))).all()


def test_a_flat_slice_is_labelled(engine: Engine) -> None:
    assert np.isfinite(engine.logits(np.full((1, 20, 20), 31000.0))).all()


def test_unit_channel_axis_is_accepted(engine: Engine) -> None:
    slices = slices_of((2, 20, 30))
    assert (engine.labels(slices[:, None]) == engine.labels(slices)).all()


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        (np.zeros((20, 30)), r"got shape \(20, 30\); expected \(B, 1, H, W\) or \(B, H, W\)"),
        (np.zeros((1, 3, 20, 30)), r"got shape \(1, 3, 20, 30\)"),
        (np.zeros((0, 20, 30)), r"got shape \(0, 1, 20, 30\)"),
        (np.zeros((1, 20, 30), complex), r"got complex128; expected real numbers"),
        (np.full((1, 20, 30), 1e39), r"magnitude 1e\+39; expected float32 range"),
    ],
)
def test_wrong_input_is_refused(engine: Engine, slices: np.ndarray, message: str) -> None:
    with pytest.raises(BackendInputError, match=message):
        engine.labels(slices)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(engine: Engine, bad: float) -> None:
    slices = slices_of((2, 20, 30))
    slices[1, 3, 4] = bad
    with pytest.raises(BackendInputError, match="not finite; got 1 of 1200"):
        engine.labels(slices)


def test_unknown_output_is_refused(engine: Engine) -> None:
    with pytest.raises(BackendInputError, match="no output 'masks'"):
        engine.backend.run(slices_of((1, 1, 20, 20)), ("masks",))


def test_closed_engine_is_refused(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(BackendError, match="the engine is closed"):
        engine.labels(slices_of((1, 20, 20)))


def test_info_says_what_is_in_use(engine: Engine) -> None:
    info = engine.info
    assert info.backend == engine.backend.name
    assert (info.device, info.precision, info.threads) == ("cpu", "fp32", 1)
    assert info.provider
    assert info.reason
    assert info.versions
    assert engine.bundle.path.joinpath(info.artefact).is_file()


@pytest.mark.parametrize("backend", BACKENDS)
def test_absent_gpu_is_an_error(
    backend: str, exported: Callable[[HeadKind], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autosam_deploy.runtime.ort.cuda_devices", lambda: 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BackendError, match="'cuda:0' is not there; got 0 usable CUDA devices"):
        Engine.open(exported("linear"), backend=backend, device="cuda")


@pytest.mark.parametrize("backend", BACKENDS)
def test_unknown_device_is_an_error(backend: str, exported: Callable[[HeadKind], Path]) -> None:
    with pytest.raises(BackendError, match="unknown device; got 'tpu'"):
        Engine.open(exported("linear"), backend=backend, device="tpu")


def test_unknown_backend_is_an_error(exported: Callable[[HeadKind], Path]) -> None:
    with pytest.raises(BackendUnavailableError, match=r"expected auto \| onnxruntime \| torch"):
        Engine.open(exported("linear"), backend="magic")
