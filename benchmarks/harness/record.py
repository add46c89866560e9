"""What a benchmark writes down: the report's JSON, strict and versioned.

Units stand in the names: ms are milliseconds a slice (a run's time over its batch), mib are 2^20
bytes, shares lie in 0..1. What was not measured is null, and `warnings` beside it says why.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autosam_deploy.strict import Strict

Role = Literal["bundle", "peer"]
#: passed: parity and every target. missed: a target. unavailable: backend, device or precision is
#: not there. failed: the row could not be measured. measured: a peer, which is not judged.
Status = Literal["passed", "parity", "missed", "unavailable", "failed", "measured", "running"]
#: `golden`: the bundle's own golden tensors contradict its weights. `constant`: one label or one
#: logit whatever goes in. `stale`: an answer that belongs to another input. `classes`: the right
#: logits in another order. The others are those of `autosam_deploy.parity`, in the order of checks.
Failure = Literal[
    "empty",
    "names",
    "shapes",
    "dtypes",
    "finite",
    "stale",
    "constant",
    "golden",
    "classes",
    "values",
    "labels",
]


Verdict = Literal["same", "regression", "improvement", "unclear"]


class Gpu(Strict):
    """One GPU as its driver describes it."""

    name: str
    driver: str
    memory_mib: int
    clock_mhz: int | None = None
    power_limit_w: float | None = None


class Machine(Strict):
    """What a number depends on. load_before: processes that wanted to run, by the system's mean."""

    processor: str
    features: list[str]
    cores: int
    usable_cores: int
    memory_gib: float
    system: str
    versions: dict[str, str]
    threads: int
    load_before: float | None = None
    clock_mhz: float | None = None
    governor: str | None = None
    gpus: list[Gpu] = Field(default_factory=list)


class Roofline(Strict):
    """The machine's own speed, measured in the run: before the rows and after them."""

    device: str
    dtype: str
    gflops: list[float]
    by: str

    @property
    def best(self) -> float:
        """The highest rate seen, in GFLOP/s."""
        return max(self.gflops)


class Bandwidth(Strict):
    """Bytes a second that a copy moves, reading and writing counted."""

    device: str
    gb_per_s: list[float]


class GroundTruth(Strict):
    """Mean Dice over the foreground classes against labels drawn by people; loss = truth - row."""

    truth_dice: list[float | None]
    row_dice: list[float | None]
    loss: float | None


class HeatMap(Strict):
    """Where labels differ on the worst slice: a PNG in base64, and how many pixels of how many."""

    title: str
    png: str
    differing: int
    pixels: int


class Parity(Strict):
    """One artefact against the truth on one set of inputs.

    truth: "torch fp32" (the bundle's weights) or "golden" (stored tensors). gate: the largest
    difference of logits that passes. required_tolerance: the smallest absolute tolerance that would
    pass. same_dtype: largest difference from plain PyTorch in the artefact's own dtype. agreement,
    dice: outside near-ties; ties: share of all pixels.
    """

    inputs: str
    slices: int = Field(ge=0)
    truth: str
    reference: str
    reference_error: float
    gate: float
    required_tolerance: float | None = None
    same_dtype: float | None = None
    agreement: float | None = None
    ties: float | None = None
    dice: list[float | None] = Field(default_factory=list)
    failures: list[Failure] = Field(default_factory=list)
    detail: str = ""
    ground_truth: GroundTruth | None = None
    heat_map: HeatMap | None = None


class Latency(Strict):
    """Seconds of slices -> labels as a caller sees them, on the host's clock.

    interval_ms: 95 % bootstrap interval of the median. device_ms: median on the device's own clock,
    where the runtime has one. samples_ms: at most 512 of them, in order of time. rounds_ms: medians
    of the turns, by number of the turn.
    """

    runs: int
    seconds: float
    warm_up_runs: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    max_ms: float
    cv: float
    interval_ms: tuple[float, float] = Field(strict=False)
    slices_per_second: float
    device_ms: float | None = None
    samples_ms: list[float]
    rounds_ms: dict[str, float]


class EndToEnd(Strict):
    """A volume's file -> a label file. stages_ms: medians of load, preprocess, run and write."""

    volume: str
    slices: int
    repeats: int
    p50_ms: float
    stages_ms: dict[str, float]


class Cold(Strict):
    """A fresh process: until its first labels, of which loading the model, and that first run."""

    start_to_labels_s: float
    load_s: float
    first_run_s: float


class Memory(Strict):
    """Of the row's process. peak_mib: largest resident set of loading and running.

    device_mib: growth of the device's used memory from before the process until after warm-up.
    activation_mib: what the manifest says of the engine.
    """

    loaded_mib: float
    peak_mib: float
    device_mib: float | None = None
    activation_mib: float | None = None


class Ratio(Strict):
    """This row's time over the anchor's, turn by turn: median and 95 % bootstrap interval."""

    anchor: str
    times: float
    interval: tuple[float, float] = Field(strict=False)
    turns: int
    memory_times: float | None = None


class Judged(Strict):
    """One target against one row. margin: how far inside (+) or outside (-), relative to limit."""

    target: str
    what: str
    limit: float
    found: float | None
    met: bool
    margin: float | None
    detail: str = ""


class Row(Strict):
    """One way to run one bundle at one batch size."""

    key: str
    bundle: str
    role: Role
    backend: str
    what: str = ""
    precision_asked: str
    batch: int
    asked: bool
    options: dict[str, str] = Field(default_factory=dict)
    status: Status = "running"
    reason: str = ""
    device: str = ""
    provider: str = ""
    precision: str = ""
    artefact: str = ""
    threads: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    size_mib: float | None = None
    parity: list[Parity] = Field(default_factory=list)
    latency: Latency | None = None
    end_to_end: EndToEnd | None = None
    cold: Cold | None = None
    memory: Memory | None = None
    roofline_share: float | None = None
    ratio: Ratio | None = None
    targets: list[Judged] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


class BundleRecord(Strict):
    """A bundle that was measured.

    gflop: 10^9 operations of one slice as the reference computes, two a multiply-add; least_gflop:
    without those whose results are known beforehand (see `flops`).
    """

    name: str
    path: str
    manifest_sha256: str
    encoder: str
    image_size: list[int]
    head: str
    classes: list[str]
    colours: list[str]
    trained: bool
    intended_use: str
    gflop: float
    least_gflop: float
    weights_mib: float


class Change(Strict):
    """One number now and in the baseline. adjusted: by how the machine's own speed changed."""

    key: str
    what: str
    before: float
    now: float
    change: float
    adjusted: float | None
    verdict: Verdict
    detail: str = ""


class Compared(Strict):
    """This run against a baseline; refused says why absolute numbers were not compared."""

    file: str
    created: str
    margin: float
    refused: str | None = None
    changes: list[Change] = Field(default_factory=list)


class Settings(Strict):
    """How a run was asked to measure. seconds, budget_s: least and most time of a row's runs."""

    repeats: int
    seconds: float
    budget_s: float
    size: list[int]
    seed: int
    volumes: str | None = None
    labels: str | None = None
    peers: bool = False
    target: str | None = None


class Report(Strict):
    """A whole run."""

    report_version: Literal[1]
    created: str
    command: str
    seconds: float
    settings: Settings
    machine: Machine
    bundles: list[BundleRecord]
    rooflines: list[Roofline] = Field(default_factory=list)
    bandwidths: list[Bandwidth] = Field(default_factory=list)
    rows: list[Row]
    baseline: Compared | None = None
    warnings: list[str] = Field(default_factory=list)
    exit_code: int
    verdict: str
