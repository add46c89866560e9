from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import ExportError, UsageError
from autosam_deploy.export.triton.choose import Choice, Want, choose_artefact

AddEngine = Callable[..., str]


def choose(bundle: Path, **fields: object) -> Choice:
    return choose_artefact(Bundle.open(bundle), Want(**fields))  # type: ignore[arg-type]


def test_graph_follows_the_device(bundle: Path) -> None:
    assert choose(bundle).artefact.file.path == "model.fp16.onnx"
    assert choose(bundle).reason == "fp16 is the best for a GPU"
    assert choose(bundle, device="cpu").artefact.file.path == "model.fp32.onnx"
    assert choose(bundle, precision="fp32").artefact.file.path == "model.fp32.onnx"


def test_fp16_on_a_cpu_is_said_to_be_slow(bundle: Path) -> None:
    assert choose(bundle, device="cpu").notes == ()
    (note,) = choose(bundle, device="cpu", precision="fp16").notes
    assert note.startswith("fp16 on a CPU is slower than fp32")


def test_what_auto_falls_back_to_is_said(bundle: Path, keep: Callable[..., None]) -> None:
    keep(bundle, ("onnx", "fp32"))
    assert choose(bundle).reason == "fp32, since the bundle has none in fp16"


def test_missing_graph_names_the_command(bundle: Path, keep: Callable[..., None]) -> None:
    keep(bundle, ("onnx", "fp32"))
    message = r"no fp16 graph; got graphs in fp32; export again: autosam-export --precision fp32,f"
    with pytest.raises(ExportError, match=message):
        choose(bundle, precision="fp16")


def test_bundle_of_engines_alone(
    bundle: Path, keep: Callable[..., None], with_engine: AddEngine
) -> None:
    with_engine(bundle)
    keep(bundle, ("engine", "fp16"))
    with pytest.raises(ExportError, match="no ONNX graph; export again, or use --platform tensor"):
        choose(bundle)
    assert choose(bundle, platform="tensorrt").artefact.kind == "engine"


def test_missing_engine_names_the_command(bundle: Path, with_engine: AddEngine) -> None:
    with pytest.raises(ExportError, match="no TensorRT engine") as caught:
        choose(bundle, platform="tensorrt")
    assert str(caught.value) == (
        f"the bundle has no TensorRT engine; run: autosam-export engine {bundle} --engine tensorrt"
    )
    with_engine(bundle, family="tensorrt_rtx")
    message = (
        r"got 'engines/0.* of TensorRT-RTX, which Triton does not load; "
        r"on a machine with an sm90 GPU, run: autosam-export engine .* --engine tensorrt$"
    )
    with pytest.raises(ExportError, match=message):
        choose(bundle, platform="tensorrt", sm=90)


def test_several_engines(bundle: Path, with_engine: AddEngine) -> None:
    for sm in (80, 89):
        with_engine(bundle, compute_capabilities=(sm,))
    newer = with_engine(bundle, compute_capabilities=(89,), version="11.0.1.2")
    with_engine(bundle, compute_capabilities=(90,), precision="fp32")
    with_engine(bundle, compute_capabilities=(89,), family="tensorrt_rtx")

    def path(**fields: object) -> str:
        return choose(bundle, platform="tensorrt", **fields).artefact.file.path

    assert path(sm=80) == "engines/0.fp16.engine"
    assert path(sm=90) == "engines/3.fp32.engine"
    assert path(precision="fp32") == "engines/3.fp32.engine"
    assert path(engine_file=newer) == newer
    message = (
        r"several engines of the bundle fit; got '.*1\.fp16\.engine' \(fp16, sm89, 10\.13\.3\.9\)"
        r", '.*2\.fp16.*; choose one with --sm or --engine-file"
    )
    with pytest.raises(ExportError, match=message):
        path(sm=89)
    with pytest.raises(
        ExportError, match=r"no TensorRT engine for sm75; got '.*with an sm75 GPU, run: "
    ):
        path(sm=75)
    with pytest.raises(ExportError, match=r"no TensorRT engine in bf16; got '"):
        path(precision="bf16")
    with pytest.raises(ExportError, match=r"no TensorRT engine 'engines/9'; got '"):
        path(engine_file="engines/9")
    with pytest.raises(ExportError, match=r"no TensorRT engine 'engines/4.fp16.engine'; got '"):
        path(engine_file="engines/4.fp16.engine")


def test_what_an_engine_needs_is_said(bundle: Path, with_engine: AddEngine) -> None:
    with_engine(bundle)
    (note,) = choose(bundle, platform="tensorrt").notes
    assert note.startswith("the engine runs with TensorRT 10.13.3.9 and sm89 alone")


def test_engine_of_another_graph_or_system_is_refused(bundle: Path, with_engine: AddEngine) -> None:
    stale = with_engine(bundle, graph_sha256="1" * 64)
    with pytest.raises(ExportError, match=r"built from another graph than the bundle's; got sha2"):
        choose(bundle, platform="tensorrt")
    other = with_engine(bundle, platform="windows-x86_64")
    message = r"on another system than Triton's; got windows-x86_64; expected linux-\*; on Linux, r"
    with pytest.raises(ExportError, match=message):
        choose(bundle, platform="tensorrt", engine_file=other)
    assert stale != other


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"platform": "tensorrt", "device": "cpu"}, "TensorRT engines run on GPUs alone; got --pl"),
        ({"sm": 89}, "--sm and --engine-file choose among engines; got --platform onnxruntime"),
        ({"engine_file": "x"}, "--sm and --engine-file choose among engines"),
    ],
)
def test_contradicting_wishes(bundle: Path, fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose(bundle, **fields)
