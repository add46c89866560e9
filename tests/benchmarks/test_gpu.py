from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from autosam_deploy.benchmarks import gpu
from autosam_deploy.benchmarks.random_bundle import write_random_bundle
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.parity import ParityRecord
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.selftest import run_golden
from autosam_deploy.spec import AutosamHead


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "gpu_query", lambda *fields: [])
    done = CliRunner().invoke(gpu.main, ["--out", str(tmp_path / "out")])
    assert done.exit_code == 4
    assert "no NVIDIA GPU on this machine" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "gpu_query", lambda *fields: [["NVIDIA L4"]])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = CliRunner().invoke(gpu.main, [])
    assert done.exit_code == 4
    assert "torch cannot use the GPU that nvidia-smi lists" in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--models", "vit_b,vit_x"], "--models; got vit_x; expected vit_b"),
        (["--batch", "none"], "--batch; got 'none'; expected numbers of 1 or more"),
    ],
)
def test_wrong_arguments(args: list[str], message: str) -> None:
    done = CliRunner().invoke(gpu.main, args)
    assert done.exit_code == 2
    assert message in done.stderr


def test_why_a_graph_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "longer than this command" in str(gpu.export(tmp_path, "vit_h", 4, seconds=900))
    assert gpu.export(tmp_path, "vit_b", 4, seconds=3) == "no time left"

    def slow(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 30)

    monkeypatch.setattr(gpu.subprocess, "run", slow)
    assert gpu.export(tmp_path, "vit_b", 4, seconds=30) == "its export did not end in 30 s"
    failed = subprocess.CompletedProcess([], 2, "", "warning\nerror: no memory\n")
    monkeypatch.setattr(gpu.subprocess, "run", lambda *args, **options: failed)
    assert gpu.export(tmp_path, "vit_b", 4, seconds=30) == "error: no memory"
    monkeypatch.setattr(gpu.shutil, "which", lambda name: None)
    monkeypatch.setattr(gpu.sys, "executable", str(tmp_path / "python"))
    assert gpu.export(tmp_path, "vit_b", 4, seconds=30) == "there is no autosam-export"


def test_module_runs_as_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autosam_deploy.benchmarks.gpu", "--help"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0
    assert "Measure parity, latency and memory on this machine's GPU" in " ".join(
        done.stdout.split()
    )


def test_a_bundle_without_graphs_runs_on_torch(tmp_path: Path, tiny_encoder: EncoderSpec) -> None:
    head = AutosamHead(num_classes=3, embed_dim=32, num_heads=4, mlp_dim=40)
    write_random_bundle(tmp_path / "r.autosam", tiny_encoder, head, seed=3)
    bundle = Bundle.open(tmp_path / "r.autosam")
    assert not bundle.manifest.trained
    assert [one.kind for one in bundle.manifest.artefacts] == ["weights"]
    text = bundle.file(bundle.manifest.parity).read_text("utf-8")
    assert ParityRecord.model_validate_json(text).verdict == "latency-only"
    with Engine.open(bundle, backend="torch", device="cpu", threads=1) as engine:
        (golden,) = run_golden(engine)
    assert golden.max_logit_difference == pytest.approx(0, abs=1e-5)
    assert golden.agreement > 0.999


def test_fused_segmenters_as_peers(tmp_path: Path, tiny_encoder: EncoderSpec) -> None:
    from autosam_deploy.benchmarks.harness.runners import Loading
    from autosam_deploy.benchmarks.peers.fused import load_fused
    from autosam_deploy.benchmarks.peers.pytorch import load_eager
    from autosam_deploy.errors import BackendUnavailableError

    head = AutosamHead(num_classes=3, embed_dim=32, num_heads=4, mlp_dim=40)
    write_random_bundle(tmp_path / "r.autosam", tiny_encoder, head, seed=3)
    path, slices = tmp_path / "r.autosam", np.ones((2, 1, 20, 24), np.float32)
    slices[:, :, 3:9] = 5
    truth = load_eager(Loading(path, "eager", device="cpu", threads=1)).outputs(slices)
    runner = load_fused(Loading(path, "fused-augmented", device="cpu", threads=1))
    assert runner.info["provider"] == "fused augmented"
    assert runner.device_seconds() is None
    np.testing.assert_allclose(runner.outputs(slices)["logits"], truth["logits"], atol=1e-4)
    np.testing.assert_array_equal(runner.labels(slices), truth["labels"])
    with pytest.raises(BackendUnavailableError, match="unknown lowering; got 'nothing'"):
        load_fused(Loading(path, "fused-nothing", device="cpu", threads=1))
