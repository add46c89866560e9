from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.encoders import ENCODERS
from autosam_deploy.export import pipeline
from autosam_deploy.export.cli import main
from autosam_deploy.models.checkpoints import HeadInfo, write_encoder, write_head
from autosam_deploy.models.encoders import seeded_encoder_state
from autosam_deploy.models.hashing import weights_sha256
from autosam_deploy.models.heads import seeded_head_state
from autosam_deploy.models.segmenter import seeded_segmenter
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.spec import AutosamHead, HeadKind, ModelSpec

Exported = Callable[[HeadKind], Path]
SpecFactory = Callable[..., ModelSpec]


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def runs(tmp_path: Path, model_spec: SpecFactory) -> Path:
    """`runs/linear` as training leaves it."""
    spec = model_spec("linear")
    encoder = seeded_encoder_state(spec.encoder, 1)
    write_encoder(tmp_path / "runs" / "encoder.safetensors", encoder)
    info = HeadInfo(
        head=spec.head,
        classes=spec.classes,
        preprocess=spec.preprocess,
        encoder=spec.encoder,
        encoder_sha256=weights_sha256(encoder),
    )
    folder = tmp_path / "runs" / "linear"
    write_head(folder / "head.safetensors", seeded_head_state(spec.head, 2), info)
    (folder / "run.json").write_text('{"sam_checkpoint": "../encoder.safetensors"}')
    return tmp_path / "runs"


def test_export_finds_what_training_left(runs: Path) -> None:
    result = run("--head", "linear", "--fp16", "--runs", runs)
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(runs / "linear" / "model.autosam")
    assert bundle.precisions("onnx") == ("fp32", "fp16")
    assert bundle.manifest.trained
    assert set(bundle.manifest.provenance.sources) == {"head.safetensors", "encoder.safetensors"}
    record = json.loads((bundle.path / "parity.json").read_text("utf-8"))
    assert record["verdict"] == "passed"
    assert [c["precision"] for c in record["comparisons"]] == ["fp32", "fp16"]
    assert all(c["required_tolerance"] <= c["gate"] for c in record["comparisons"])
    assert "passed" in result.output
    assert run("verify", bundle.path).exit_code == 0
    assert run("verify", bundle.path, "--backend", "torch", "--json").exit_code == 0


def test_json_and_options(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.autosam"
    result = run(
        "--runs",
        runs,
        "-o",
        output,
        "--outputs",
        "labels",
        "--slim",
        "--lowering",
        "masked",
        "--classes",
        "background,anterior,posterior",
        "--intended-use",
        "trial",
        "--json",
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["bundle"] == str(output)
    manifest = Bundle.open(output).manifest
    assert [a.kind for a in manifest.artefacts] == ["onnx"]
    assert (manifest.artefacts[0].lowering, manifest.artefacts[0].opset) == ("masked", 23)
    assert manifest.model.outputs == ("labels",)
    assert [c.name for c in manifest.model.classes] == ["background", "anterior", "posterior"]
    assert manifest.intended_use == "trial"


def test_reference_checkpoint_gives_equal_logits_through_the_graph(
    model_spec: SpecFactory, tmp_path: Path
) -> None:
    # The reference's decoder always has eight heads, which shapes cannot tell.
    head = AutosamHead(num_classes=3, embed_dim=32, num_heads=8, mlp_dim=40)
    truth = seeded_segmenter(model_spec("autosam").model_copy(update={"head": head}), seed=5)
    state = {f"module.{name}": tensor for name, tensor in truth.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "model.pth")
    output = tmp_path / "m.autosam"
    result = run("--checkpoint", tmp_path / "model.pth", "-o", output, "-q")
    assert result.exit_code == 0, result.output
    slices = torch.rand(2, 1, 40, 30) * 900
    with Engine.open(output, threads=1) as engine:
        found = engine.logits(slices.numpy())
    np.testing.assert_allclose(found, truth(slices).numpy(), atol=1e-4)


def test_untrained_is_marked(tmp_path: Path) -> None:
    output = tmp_path / "x.autosam"
    result = run(
        "--untrained", "--encoder", "vit_tiny", "--head", "linear", "--num-classes", 2, "-o", output
    )
    assert result.exit_code == 0, result.output
    assert "random weights" in result.output
    manifest = Bundle.open(output).manifest
    assert not manifest.trained
    assert "Random weights" in manifest.intended_use
    assert json.loads((output / "parity.json").read_text("utf-8"))["verdict"] == "latency-only"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "no trained head at 'RUNS/<head>/head.safetensors'; train one"),
        (("--head", "cnn"), "no trained head at 'RUNS/cnn/head.safetensors'"),
        (("--checkpoint", "nowhere.pth"), "nowhere.pth"),
        (("--precision", "int4"), "--precision; got int4; expected fp32, fp16"),
        (("--outputs", "masks"), "--outputs; got 'masks'"),
        (("--lowering", "masked", "--opset", "20"), "'masked' cannot be written in this opset"),
        (("--untrained",), "--untrained needs to know what to build"),
        (
            ("--untrained", "--encoder", "vit_b", "--head", "cnn", "--num-classes", "1"),
            "--num-classes; got 1; expected 2..255",
        ),
        (
            ("--untrained", "--encoder", "vit_tiny", "--head", "cnn", "--image-size", "100"),
            "got 100x100; expected multiples of 16, 112 or more",
        ),
        (
            ("--untrained", "--encoder", "vit_tiny", "--head", "cnn", "--image-size", "a"),
            "--image-size; got 'a'; expected N or HxW in pixels",
        ),
        (("inspect", "nowhere"), "no file at 'nowhere'"),
        (("verify", "nowhere"), "no bundle at 'nowhere'"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    runs = tmp_path / "none"
    options = () if args and args[0] in ("inspect", "verify") else ("--runs", runs)
    result = run(*options, *args)
    assert result.exit_code == 2
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert message.replace("RUNS", str(runs)) in lines[-1]
    assert "Traceback" not in result.output


def test_other_encoder_weights_are_refused(runs: Path, model_spec: SpecFactory) -> None:
    other = seeded_encoder_state(model_spec("linear").encoder, 7)
    write_encoder(runs / "other.safetensors", other)
    result = run("--runs", runs, "--sam-checkpoint", runs / "other.safetensors")
    assert result.exit_code == 2
    assert "trained on other encoder weights" in result.stderr or "encoder" in result.stderr
    assert not (runs / "linear" / "model.autosam").exists()


def test_encoder_of_another_variant_is_refused(runs: Path) -> None:
    write_encoder(runs / "tiny.safetensors", seeded_encoder_state(ENCODERS["vit_tiny"], 0))
    result = run("--runs", runs, "--sam-checkpoint", runs / "tiny.safetensors")
    assert result.exit_code == 2
    assert "embed_dim" in result.stderr or "variant" in result.stderr or "vit_tiny" in result.stderr


def test_head_of_another_kind_is_refused(runs: Path) -> None:
    result = run(
        "--head",
        "cnn",
        "--checkpoint",
        runs / "linear" / "head.safetensors",
        "--sam-checkpoint",
        runs / "encoder.safetensors",
    )
    assert result.exit_code == 2
    assert "holds another head; got linear; expected cnn" in result.stderr


def test_class_names_must_fit(runs: Path) -> None:
    result = run("--runs", runs, "--classes", "background,heart")
    assert result.exit_code == 2
    assert "class names do not match the head; got 2 names" in result.stderr


def test_gone_encoder_is_named(runs: Path) -> None:
    (runs / "encoder.safetensors").unlink()
    result = run("--runs", runs)
    assert result.exit_code == 2
    assert "are gone; got no file '../encoder.safetensors'; name them with" in result.stderr


def test_several_heads_need_a_choice(runs: Path) -> None:
    shutil.copytree(runs / "linear", runs / "cnn")
    result = run("--runs", runs)
    assert result.exit_code == 2
    assert "several heads under" in result.stderr
    assert "choose one with --head" in result.stderr


def break_graphs(monkeypatch: pytest.MonkeyPatch, *, precision: str, by: float) -> None:
    """Make one graph's logits wrong, as a faulty exporter would."""
    real = pipeline.export_onnx

    def broken(fused: Any, path: Path, *, opset: int) -> None:
        if precision in path.name:
            node = fused.get_submodule("head.logits")
            node.bias.data += torch.linspace(0, by, node.bias.numel())
        real(fused, path, opset=opset)

    monkeypatch.setattr(pipeline, "export_onnx", broken)


def test_parity_failure_leaves_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_graphs(monkeypatch, precision="fp32", by=3.0)
    result = run("--runs", runs)
    assert result.exit_code == 2
    assert "model.fp32.onnx (fp32) does not agree with the segmenter" in result.stderr
    assert "exceeds the gate" in result.stderr
    assert sorted(path.name for path in (runs / "linear").iterdir()) == [
        "head.safetensors",
        "run.json",
    ]


def test_parity_failure_keeps_the_old_bundle(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--runs", runs, "-q").exit_code == 0
    before = Bundle.open(runs / "linear" / "model.autosam").manifest_sha256
    break_graphs(monkeypatch, precision="fp32", by=3.0)
    assert run("--runs", runs, "-q").exit_code == 2
    assert Bundle.open(runs / "linear" / "model.autosam").manifest_sha256 == before


def test_auto_precision_says_what_it_left_out(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_graphs(monkeypatch, precision="fp16", by=3.0)
    result = run("--runs", runs, "--precision", "auto")
    assert result.exit_code == 0, result.output
    assert "fp16 was left out" in result.output.replace("\n", " ")
    assert Bundle.open(runs / "linear" / "model.autosam").precisions("onnx") == ("fp32",)
    assert run("--runs", runs, "--fp16", "-q").exit_code == 2


def test_verify_notices_other_results(exported: Exported, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported("linear"), tmp_path / "m.autosam"))
    path = bundle / "golden" / "case_1.logits.npy"
    logits = np.load(path)
    np.save(path, logits + 1)
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    from autosam_deploy.files import sha256_file

    manifest["golden"][1]["logits"]["sha256"] = sha256_file(path)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    result = run("verify", bundle)
    assert result.exit_code == 2
    assert "FAILED" in result.stdout
    assert "does not give its golden results here" in result.stderr


def test_inspect(exported: Exported, runs: Path) -> None:
    result = run("inspect", runs / "linear" / "head.safetensors", "--json")
    assert json.loads(result.stdout)["layout"] == "autosam-head"
    result = run("inspect", exported("linear"), "--json")
    assert json.loads(result.stdout)["head"] == "linear"
    result = run("inspect", exported("linear") / "model.fp16.onnx", "--json")
    facts = json.loads(result.stdout)
    assert facts["inputs"] == ["slices FLOAT (B, 1, H, W)"]
    assert facts["outputs"] == ["labels UINT8 (B, H, W)", "logits FLOAT (B, 3, H, W)"]
    assert facts["weights"]["FLOAT16"] > facts["weights"]["FLOAT"]
    assert "autosam-head" in run("inspect", runs / "linear" / "head.safetensors").output


def test_inspect_refuses_what_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"hello")
    result = run("inspect", tmp_path / "x.onnx")
    assert result.exit_code == 2
    assert "is no ONNX graph" in result.stderr


def test_killed_export_leaves_the_old_bundle(runs: Path) -> None:
    assert run("--runs", runs, "-q").exit_code == 0
    target = runs / "linear" / "model.autosam"
    before = Bundle.open(target).manifest_sha256
    script = (
        "import sys, time\n"
        "from autosam_deploy.export import pipeline\n"
        "pipeline.float32_reference = lambda *a: time.sleep(60)\n"
        "from autosam_deploy.export.cli import main\n"
        "main(['--runs', sys.argv[1], '-q'])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(runs)])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(target.parent.glob(".tmp-*/weights.*")):
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(target.parent.glob(".tmp-*/weights.*"))
    assert Bundle.open(target).manifest_sha256 == before
