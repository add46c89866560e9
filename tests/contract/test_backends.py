"""One suite over every backend and head: what a host may rely on whatever runs the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from autosam_deploy.errors import BackendError, BackendInputError, BackendUnavailableError
from autosam_deploy.parity import ParityRecord
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.nvidia.cudart import Driver
from autosam_deploy.runtime.selftest import run_golden
from autosam_deploy.runtime.table import BACKENDS
from autosam_deploy.spec import HEAD_KINDS, HeadKind

SHAPES = ((1, 40, 56), (2, 33, 71), (3, 64, 64), (1, 7, 5), (2, 1, 30), (1, 30, 1))

#: Every backend in the precision of the reference, and the other graph that a bundle may hold.
#: `tensorrt` needs a GPU and engines: tests/runtime/test_trt_contract.py runs it on a fake one.
ROWS = (
    *((backend, "fp32") for backend in BACKENDS if backend != "tensorrt"),
    ("onnxruntime", "fp16"),
)


#: Every head on a ViT, and one on every other kind of encoder.
MODELS = (*((head, "vit") for head in HEAD_KINDS), ("autosam", "tinyvit"))


@pytest.fixture(params=[(*row, *model) for row in ROWS for model in MODELS], ids="-".join)
def engine(request: pytest.FixtureRequest, exported: Callable[..., Path]) -> Iterator[Engine]:
    backend, precision, kind, encoder = request.param
    with Engine.open(
        exported(kind, encoder), backend=backend, precision=precision, device="cpu", threads=1
    ) as opened:
        yield opened


@pytest.fixture
def gate(engine: Engine) -> float:
    """Largest difference of logits that export allowed in this precision."""
    text = engine.bundle.file(engine.manifest.parity).read_text("utf-8")
    comparisons = ParityRecord.model_validate_json(text).comparisons
    (found,) = [c.gate for c in comparisons if c.precision == engine.info.precision]
    return found


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


def test_one_pixel(engine: Engine) -> None:
    """A flat slice by necessity."""
    assert engine.labels(np.full((2, 1, 1), 7.0)).shape == (2, 1, 1)
    assert np.isfinite(engine.logits(np.full((2, 1, 1), 7.0))).all()


def test_slices_of_a_batch_do_not_touch_each_other(engine: Engine, gate: float) -> None:
    slices = slices_of((3, 30, 41))
    alone = np.concatenate([engine.logits(one[None]) for one in slices])
    # Another batch may be summed in another order, which is what the gate allows for.
    np.testing.assert_allclose(engine.logits(slices), alone, rtol=0, atol=2 * gate)


def test_same_slices_same_labels(engine: Engine) -> None:
    slices = slices_of((2, 30, 41))
    first = engine.logits(slices)
    engine.logits(slices_of((3, 21, 17)))
    assert (engine.logits(slices) == first).all()


def test_memory_of_the_caller_is_left_alone(engine: Engine) -> None:
    """Strided, read-only views are what slices of a volume are."""
    volume = slices_of((20, 24, 28))
    volume.flags.writeable = False
    before = volume.copy()
    strided = np.moveaxis(volume, 2, 0)[3:5]
    assert (engine.labels(strided) == engine.labels(strided.copy())).all()
    assert (volume == before).all()


def test_results_belong_to_the_caller(engine: Engine) -> None:
    slices = slices_of((1, 20, 30))
    first = engine.outputs(slices)
    kept = {name: array.copy() for name, array in first.items()}
    engine.outputs(slices_of((1, 20, 30), seed=1))
    for name, array in first.items():
        assert (array == kept[name]).all()
        array[:] = 0


def test_golden_slices_within_the_gate(engine: Engine, gate: float) -> None:
    results = run_golden(engine)
    assert [result.shape[0] for result in results] == [3, 1, 2]
    for result in results:
        assert result.max_logit_difference is not None
        assert result.max_logit_difference <= gate
        assert result.largest_wrong_margin <= 2 * gate
        assert result.agreement > 0.99


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_pixel_types_are_converted(engine: Engine, dtype: type) -> None:
    slices: np.ndarray = np.random.default_rng(0).integers(0, 200, (1, 20, 30)).astype(dtype)
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


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        (np.zeros((1, 1, 8, 8)), "got float64; expected float32"),
        (np.zeros((1, 1, 8, 8), np.float16), "got float16; expected float32"),
        (np.zeros((1, 1, 8, 8), ">f4"), "got >f4; expected float32"),
        (np.zeros((1, 8, 8), np.float32), r"got shape \(1, 8, 8\); expected \(B, 1, H, W\)"),
        (np.zeros((1, 3, 8, 8), np.float32), r"got shape \(1, 3, 8, 8\)"),
        (np.zeros((1, 1, 0, 8), np.float32), r"got shape \(1, 1, 0, 8\); .* none of them 0"),
    ],
)
def test_backend_itself_takes_nothing_but_the_contract(
    engine: Engine, slices: np.ndarray, message: str
) -> None:
    with pytest.raises(BackendInputError, match=f"'slices'; {message}"):
        engine.backend.run(slices, ("labels",))


def test_only_what_is_asked_for_is_returned(engine: Engine) -> None:
    slices = slices_of((1, 1, 20, 20))
    assert engine.backend.run(slices, ("labels",)).keys() == {"labels"}
    assert list(engine.backend.run(slices, ("logits", "labels"))) == ["logits", "labels"]


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
    assert (info.device, info.threads) == ("cpu", 1)
    assert info.precision in Path(info.artefact).name or info.artefact == "weights.safetensors"
    assert info.provider
    assert info.reason
    assert info.versions
    assert engine.bundle.path.joinpath(info.artefact).is_file()
    assert info.notes == ()
    assert json.loads(json.dumps(info.as_dict()))["reason"] == info.reason


# `openvino` has no GPU to miss: tests/runtime/test_ov.py.
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "openvino"])
def test_absent_gpu_is_an_error(
    backend: str, exported: Callable[[HeadKind], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autosam_deploy.runtime.ort.cuda_devices", lambda: 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("autosam_deploy.runtime.nvidia.cudart.probe_driver", lambda: Driver(0))
    with pytest.raises(BackendError, match="'cuda:0' is not there; got 0 usable CUDA devices"):
        Engine.open(exported("linear"), backend=backend, device="cuda")


@pytest.mark.parametrize("backend", BACKENDS)
def test_unknown_device_is_an_error(backend: str, exported: Callable[[HeadKind], Path]) -> None:
    with pytest.raises(BackendError, match="unknown device; got 'tpu'"):
        Engine.open(exported("linear"), backend=backend, device="tpu")


def test_unknown_backend_is_an_error(exported: Callable[[HeadKind], Path]) -> None:
    with pytest.raises(BackendUnavailableError, match=r"expected auto \| onnxruntime \| torch"):
        Engine.open(exported("linear"), backend="magic")
