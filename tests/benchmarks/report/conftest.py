"""A report with everything in it: good and bad rows, peers, targets, a baseline, heat maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from autosam_deploy.benchmarks.harness.heatmap import heat_map
from autosam_deploy.benchmarks.harness.inputs import InputSet
from autosam_deploy.benchmarks.harness.judge import Standard
from autosam_deploy.benchmarks.harness.record import (
    Bandwidth,
    Change,
    Cold,
    Compared,
    EndToEnd,
    GroundTruth,
    Judged,
    Parity,
    Ratio,
    Report,
    Roofline,
    Row,
)
from autosam_deploy.parity import Reference
from autosam_deploy.volumes.phantom import make_phantom


def wrong_parity() -> Parity:
    """A comparison that failed, with its picture."""
    image, labels = make_phantom(3, shape=(5, 64, 64))
    logits = np.stack([(labels.array[2:3] == k) * 5.0 for k in range(4)], 1).astype(np.float32)
    found = labels.array[2:3].copy()
    found[0, 20:30, 20:28] = 3
    reference = Reference(method="float64", max_error=1e-5, rms_error=1e-6, slices=1)
    slices = image.array[2:3, None].astype(np.float32)
    standard = Standard(InputSet("golden", (slices,)), (logits,), "torch fp32", reference)
    colours = ["#000000", "#e69f00", "#56b4e9", "#009e73"]
    return Parity(
        inputs="golden",
        slices=1,
        truth="torch fp32",
        reference="float64",
        reference_error=1e-5,
        gate=2.3e-5,
        required_tolerance=4.1,
        same_dtype=4.0,
        agreement=0.98765,
        ties=0.0012,
        dice=[0.99, 0.91, 1.0, None],
        failures=["values", "labels"],
        detail="|logit difference| 4.1 exceeds the gate 2.3e-05",
        heat_map=heat_map([{"labels": found}], standard, colours),
    )


def rows_of(make_row: Callable[..., Row]) -> list[Row]:
    """Rows of every status."""
    random = np.random.default_rng(0)

    def turns(ms: float) -> Sequence[Sequence[float]]:
        return [list(ms / 1e3 * (1 + random.normal(0, 0.04, 4))) for _ in range(8)]

    good = Parity(
        inputs="volumes",
        slices=9,
        truth="torch fp32",
        reference="float64",
        reference_error=1e-5,
        gate=2.3e-5,
        required_tolerance=1.1e-5,
        agreement=0.999999,
        ties=0.0,
        dice=[1.0, 0.99996],
        ground_truth=GroundTruth(truth_dice=[0.9, 0.8], row_dice=[0.9, 0.79], loss=0.01),
    )
    met = Judged(
        target="ward", what="p50, ms a slice", limit=120.0, found=100.0, met=True, margin=0.17
    )
    missed = met.model_copy(update={"limit": 80.0, "met": False, "margin": -0.25})
    end = EndToEnd(
        volume="phantom & <friends>",
        slices=8,
        repeats=3,
        p50_ms=120.0,
        stages_ms={"load": 8.0, "preprocess": 0.1, "run": 100.0, "write": 12.0},
    )
    ratio = Ratio(anchor="heart/onnxruntime/b1", times=3.4, interval=(3.2, 3.6), turns=8)
    return [
        make_row(
            turns=turns(100),
            status="passed",
            parity=[good],
            end_to_end=end,
            cold=Cold(start_to_labels_s=1.5, load_s=0.4, first_run_s=0.2),
            targets=[met],
            roofline_share=0.62,
            size_mib=340.0,
            provider="CPUExecutionProvider",
            warnings=["times vary by 7%"],
        ),
        make_row(turns=[[0.3, 0.31]], batch=4, status="passed", parity=[good]),
        make_row("torch", turns=turns(180), status="parity", parity=[wrong_parity()]),
        make_row("openvino", turns=turns(80), status="missed", parity=[good], targets=[missed]),
        make_row(
            "tensorrt",
            status="unavailable",
            reason="no <b>GPU</b> | here",
            latency=None,
            memory=None,
        ),
        make_row("broken", status="failed", reason="ended by SIGKILL", latency=None, memory=None),
        make_row("eager", role="peer", turns=turns(340), status="measured", ratio=ratio),
    ]


@pytest.fixture(scope="session")
def full_report(make_row: Callable[..., Row], make_report: Callable[..., Report]) -> Report:
    """See the module."""
    change = Change(
        key="heart/onnxruntime/b1",
        what="p50, ms a slice",
        before=70.0,
        now=100.0,
        change=0.43,
        adjusted=0.40,
        verdict="regression",
    )
    return make_report(
        rows_of(make_row),
        rooflines=[Roofline(device="cpu", dtype="fp32", gflops=[160.0, 158.0], by="torch 2")],
        bandwidths=[Bandwidth(device="cpu", gb_per_s=[20.0, 21.0])],
        baseline=Compared(file="old.json", created="2025", margin=0.1, changes=[change]),
        warnings=["the processor's clock moved from 3000 to 2000 MHz"],
        exit_code=2,
        verdict="parity failed: heart/torch/b1",
    )
