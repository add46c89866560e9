from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import (
    BackendError,
    BackendInputError,
    BackendUnavailableError,
    OutOfMemoryError,
)
from autosam_deploy.runtime.engine import Engine

Exported = Callable[..., Path]


@pytest.fixture(autouse=True)
def same_threads() -> Any:
    """The backend sets torch's number of threads for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def open_torch(bundle: Bundle | Path, **options: Any) -> Engine:
    return Engine.open(bundle, backend="torch", **{"device": "cpu", "threads": 1, **options})


def rewritten(
    exported: Exported, tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> Bundle:
    """Return the bundle with other weights, as an opened bundle that nobody hashes again."""
    bundle = Bundle.open(exported("linear"), verify=False)
    state = load_file(bundle.path / "weights.safetensors")
    change(state)
    save_file(state, tmp_path / "weights.safetensors")
    return replace(bundle, path=tmp_path)


def test_is_the_segmenter(exported: Exported) -> None:
    from autosam_deploy.models.segmenter import Segmenter

    bundle = Bundle.open(exported("linear"), verify=False)
    segmenter = Segmenter(bundle.manifest.model).eval()
    segmenter.load_state_dict(load_file(bundle.path / "weights.safetensors"), strict=True)
    slices = np.random.default_rng(0).normal(size=(2, 1, 30, 41)).astype(np.float32)
    with open_torch(bundle) as engine, torch.inference_mode():
        expected = segmenter(torch.from_numpy(slices)).numpy()
        np.testing.assert_array_equal(engine.logits(slices), expected)


def test_read_only_slices_are_no_warning(exported: Exported) -> None:
    slices = np.zeros((1, 1, 9, 9), np.float32)
    slices.flags.writeable = False
    with open_torch(exported("linear")) as engine, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert engine.labels(slices).shape == (1, 9, 9)


def test_outputs_can_be_written_by_the_caller(exported: Exported) -> None:
    with open_torch(exported("linear")) as engine:
        engine.logits(np.zeros((1, 9, 9)))[:] = 0
        engine.labels(np.zeros((1, 9, 9)))[:] = 0


def test_threads_are_set(exported: Exported) -> None:
    with open_torch(exported("linear"), threads=2) as engine:
        assert engine.info.threads == torch.get_num_threads() == 2


def test_half_is_refused(exported: Exported) -> None:
    with pytest.raises(BackendError, match="'torch' has no half precision on CPUs; got fp16"):
        open_torch(exported("linear"), precision="fp16")


def test_providers_are_refused(exported: Exported) -> None:
    with pytest.raises(BackendError, match="belong to backend 'onnxruntime'; got provider cuda"):
        open_torch(exported("linear"), provider="cuda")


def test_slim_bundle_is_refused(toy_bundle: Callable[..., Path]) -> None:
    with pytest.raises(BackendError, match=r"no weights .*--slim"):
        open_torch(toy_bundle())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.popitem(), "do not fit; got .*Missing key"),
        (lambda state: state.update(extra=torch.zeros(1)), "do not fit; got .*Unexpected key"),
        (
            lambda state: state.update({key: value[None] for key, value in state.items()}),
            "do not fit; got .*size mismatch",
        ),
        (
            lambda state: state.update({key: value.half() for key, value in state.items()}),
            "not float32; got torch.float16",
        ),
    ],
)
def test_weights_that_do_not_fit(
    exported: Exported, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    with pytest.raises(BackendError, match=rf"the bundle's weights .*{message}"):
        open_torch(rewritten(exported, tmp_path, change))


def test_weights_that_are_no_weights(exported: Exported, tmp_path: Path) -> None:
    bundle = rewritten(exported, tmp_path, lambda state: None)
    (tmp_path / "weights.safetensors").write_text("text")
    with pytest.raises(BackendError, match=r"the bundle's weights do not fit; got .*[Hh]eader"):
        open_torch(bundle)


def test_full_memory(exported: Exported) -> None:
    """The CPU allocator of torch raises a plain RuntimeError."""
    with open_torch(exported("linear")) as engine:

        def full(slices: torch.Tensor) -> torch.Tensor:
            return torch.empty(1 << 60)

        engine.backend.segmenter = full  # type: ignore[attr-defined]
        with pytest.raises(OutOfMemoryError, match=r"a batch of 2 slices .*can't allocate memory"):
            engine.labels(np.zeros((2, 9, 9)))


def test_other_failures_are_one_line(exported: Exported) -> None:
    with open_torch(exported("linear")) as engine:

        def fail(slices: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("cuDNN says\nno")

        engine.backend.segmenter = fail  # type: ignore[attr-defined]
        with pytest.raises(BackendError, match="torch failed; got cuDNN says no"):
            engine.labels(np.zeros((2, 9, 9)))


def test_without_torch(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    from autosam_deploy.errors import MissingExtraError
    from autosam_deploy.runtime import pyt

    def absent(module: str, *, extra: str, feature: str) -> Any:
        raise MissingExtraError(f"{feature} needs '{module}'", todo=f"pip install [{extra}]")

    monkeypatch.setattr(pyt, "require", absent)
    with pytest.raises(BackendUnavailableError, match=r"backend 'torch' needs 'torch'; .*\[export"):
        open_torch(exported("linear"))


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, fake_streams: Any) -> Any:
    """A CUDA device that is this machine's CPU, with Triton's interpreter for the kernels."""
    from autosam_deploy.runtime import pyt, pyt_pipeline

    device = fake_streams()
    monkeypatch.setattr(
        pyt.TorchBackend, "_choose_device", lambda self, request: ("cuda:0", "a test")
    )
    monkeypatch.setattr(pyt, "_moved", lambda module, name: module)
    monkeypatch.setattr(pyt_pipeline, "CudaDevice", lambda name: device)
    return device


# On a machine with a GPU kernels are compiled, and take no tensors of the CPU.
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here")


@interpreted
@pytest.mark.parametrize("precision", ["auto", "fp16", "bf16"])
def test_half_precision_passes_the_self_test(
    exported: Exported, pretended: Any, precision: str
) -> None:
    """Weights and typing of the bundle, kernels, parts and copies: the whole way but the GPU."""
    bundle = Bundle.open(exported("linear"), verify=False)
    case = bundle.manifest.golden[0]
    slices, labels, logits = (
        np.load(bundle.file(ref)) for ref in (case.slices, case.labels, case.logits)
    )
    with open_torch(bundle, precision=precision, device="cuda", options={"part": 1}) as engine:
        assert engine.info.precision == ("bf16" if precision == "bf16" else "fp16")
        assert engine.info.provider == "kernels"
        assert "triton" in engine.info.versions
        assert any("bf16" in note for note in engine.info.notes) == (precision == "bf16")
        found = engine.outputs(slices)
        assert pretended.captures >= 1
        error = np.abs(found["logits"] - logits).max() / np.abs(logits).max()
        assert 0 < error < (5e-2 if precision == "bf16" else 5e-3)
        margin = np.sort(logits, axis=1)
        clear = margin[:, -1] - margin[:, -2] > 2 * error * np.abs(logits).max()
        assert np.array_equal(found["labels"][clear], labels[clear])


@interpreted
def test_kernels_that_an_encoder_cannot_use_are_told(exported: Exported, pretended: Any) -> None:
    bundle = exported("autosam", "tinyvit")
    with open_torch(bundle, precision="fp16", device="cuda") as engine:
        assert engine.info.provider == "kernels"
        assert engine.info.notes == (
            "of the Triton kernels this encoder can use one alone: labels",
        )
        assert engine.labels(np.ones((1, 1, 9, 9), np.float32)).shape == (1, 9, 9)


@interpreted
def test_without_kernels_only_when_asked(exported: Exported, pretended: Any) -> None:
    slices = np.random.default_rng(0).normal(size=(1, 1, 30, 41)).astype(np.float32)
    with open_torch(
        exported("linear"), precision="fp16", device="cuda", options={"kernels": "none"}
    ) as engine:
        assert engine.info.provider == "sdpa"
        assert any("without Triton kernels" in note for note in engine.info.notes)
        assert engine.labels(slices).shape == (1, 30, 41)


def test_without_triton_nothing_falls_back(
    exported: Exported, pretended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autosam_deploy.errors import MissingExtraError
    from autosam_deploy.runtime import pyt

    whole = pyt.require

    def absent(module: str, *, extra: str, feature: str) -> Any:
        if module == "triton":
            raise MissingExtraError(f"{feature} needs '{module}'", todo=f"pip install [{extra}]")
        return whole(module, extra=extra, feature=feature)

    monkeypatch.setattr(pyt, "require", absent)
    with pytest.raises(
        BackendUnavailableError, match=r"needs 'triton'; .*\[kernels\]; or give option kernels=none"
    ):
        open_torch(exported("linear"), device="cuda", precision="fp16")


def test_fp16_needs_a_typed_bundle(exported: Exported, pretended: Any, tmp_path: Path) -> None:
    bundle = Bundle.open(exported("linear"), verify=False)
    graphs = tuple(a for a in bundle.manifest.artefacts if a.precision != "fp16")
    plain = replace(bundle, manifest=bundle.manifest.model_copy(update={"artefacts": graphs}))
    with pytest.raises(BackendError, match=r"which nodes stay in float32; got no fp16 graph"):
        open_torch(plain, device="cuda", precision="fp16")
    with open_torch(plain, device="cuda") as engine:
        assert engine.info.precision == "fp32"


def test_parts_are_at_least_one_slice(exported: Exported) -> None:
    with pytest.raises(BackendInputError, match=r"option 'part'; got 0; expected 1 or more"):
        open_torch(exported("linear"), options={"part": 0})
