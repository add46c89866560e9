"""`autosam-bench` from its arguments to its exit code, on a tiny bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from autosam_deploy.benchmarks.cli import main
from autosam_deploy.benchmarks.harness.baseline import read_report
from autosam_deploy.benchmarks.harness.journal import read_journal
from autosam_deploy.benchmarks.harness.record import Report
from autosam_deploy.spec import HeadKind
from autosam_deploy.volumes.phantom import make_phantom
from autosam_deploy.volumes.volume import Volume
from autosam_deploy.volumes.write import write_volume

QUICK = (
    *("--backend", "onnxruntime", "--threads", "1", "--repeats", "2", "--seconds", "0.02"),
    *("--budget", "0.5", "--size", "40", "--device", "cpu", "--roofline", "0.02"),
)


def bench(*args: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in args])


@pytest.fixture(scope="session")
def bundle(exported: Callable[[HeadKind], Path]) -> Path:
    return exported("autosam")


@pytest.fixture(scope="session")
def whole(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """One whole run: volumes with labels, two batch sizes, a peer, targets, all forms."""
    folder = tmp_path_factory.mktemp("bench")
    image, labels = make_phantom(0, shape=(5, 28, 30))
    write_volume(folder / "images" / "heart.nii.gz", image)
    drawn = Volume(np.minimum(labels.array, 2).astype(np.uint8), labels.geometry, "heart")
    write_volume(folder / "labels" / "heart.nii.gz", drawn)
    (folder / "mine.toml").write_text(
        '[[target]]\nname = "ward"\np50_ms = 60000\npeak_mib = 20000\nmin_agreement = 0.9\n'
        'batch = 1\n[[target.relative]]\npeer = "eager"\nat_most = 1000\n',
        "utf-8",
    )
    result = bench(
        bundle,
        *QUICK,
        *("--batch", "1,3", "--peer", "eager", "--target", folder / "mine.toml"),
        *("--volumes", folder / "images", "--labels", folder / "labels"),
        *("--json", folder / "r.json", "--html", folder / "r.html", "--markdown", folder / "r.md"),
    )
    return result, folder


def test_a_whole_run(whole: tuple[Result, Path]) -> None:
    result, folder = whole
    assert result.exit_code == 0, result.output
    report = read_report(folder / "r.json")
    assert [row.key for row in report.rows] == [
        "autosam/onnxruntime/auto/b1",
        "autosam/peer:eager/b1",
        "autosam/onnxruntime/auto/b3",
    ]
    first, eager, third = report.rows
    assert [row.status for row in report.rows] == ["passed", "measured", "passed"]
    assert [one.inputs for one in first.parity] == ["golden", "noise", "volumes"]
    assert [one.inputs for one in eager.parity] == ["timed"]
    truth = first.parity[2].ground_truth
    assert truth is not None
    assert truth.loss == pytest.approx(0, abs=1e-6)
    assert truth.truth_dice == truth.row_dice
    assert all(one.met for one in first.targets)
    assert [one.what for one in first.targets] == [
        "p50, ms a slice",
        "peak memory, MiB",
        "label agreement",
        "latency, times peer 'eager'",
    ]
    assert third.targets == []
    assert eager.ratio is not None
    assert eager.ratio.anchor == first.key
    assert first.end_to_end is not None
    assert (first.end_to_end.volume, first.end_to_end.slices) == ("heart.nii.gz", 5)
    assert {line.dtype for line in report.rooflines} >= {"fp32"}
    assert all(len(line.gflops) == 2 for line in report.rooflines)
    assert first.roofline_share is not None
    assert report.settings.volumes == str(folder / "images")
    assert report.exit_code == 0


def test_what_is_left_behind(whole: tuple[Result, Path]) -> None:
    result, folder = whole
    for name in ("r.json", "r.html", "r.md"):
        assert (folder / name).is_file()
    # The journal has done its work when the report is there.
    assert not (folder / "r.jsonl").exists()
    assert "wrote " in result.stderr
    assert "2 of 2 measured rows passed" in result.stdout


def test_report_command_makes_the_same_forms(whole: tuple[Result, Path], tmp_path: Path) -> None:
    _, folder = whole
    done = bench("report", folder / "r.json", "--html", tmp_path / "a.html", "--markdown",
                 tmp_path / "a.md")  # fmt: skip
    assert done.exit_code == 0, done.output
    for name in ("html", "md"):
        assert (tmp_path / f"a.{name}").read_bytes() == (folder / f"r.{name}").read_bytes()
    assert "2 of 2 measured rows passed" in done.stdout


def test_baseline_target_and_tampered_golden_labels(
    whole: tuple[Result, Path], bundle: Path, tmp_path: Path
) -> None:
    """One run that goes wrong in three ways; parity comes first, and all are named."""
    _, folder = whole
    altered = tmp_path / bundle.name
    shutil.copytree(bundle, altered)
    path = altered / "golden" / "case_0.labels.npy"
    np.save(path, np.load(path) ^ np.uint8(1))
    manifest = json.loads((altered / "manifest.json").read_text("utf-8"))
    from autosam_deploy.files import sha256_file

    manifest["golden"][0]["labels"]["sha256"] = sha256_file(path)
    (altered / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    before = read_report(folder / "r.json")
    fast = before.model_dump(mode="json")
    for row in fast["rows"]:
        row["latency"]["p50_ms"] /= 1e4
        row["latency"]["interval_ms"] = [value / 1e4 for value in row["latency"]["interval_ms"]]
    (tmp_path / "fast.json").write_text(json.dumps(fast), "utf-8")
    (tmp_path / "hard.toml").write_text('[[target]]\nname = "hard"\npeak_mib = 1\n', "utf-8")
    done = bench(
        altered,
        *QUICK,
        *("--baseline", tmp_path / "fast.json", "--target", tmp_path / "hard.toml", "-q"),
        *("--roofline", "0"),
        *("--json", tmp_path / "r.json", "--journal", tmp_path / "rows.jsonl"),
    )
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"error: {read_report(tmp_path / 'r.json').verdict}"]
    report = read_report(tmp_path / "r.json")
    assert report.rows[0].parity[0].failures == ["golden"]
    detail = report.rows[0].parity[0].detail
    assert detail.startswith("golden labels of case 0 are not those of its golden logits: ")
    assert report.verdict.startswith("parity failed: autosam/onnxruntime/auto/b1")
    assert "slower or larger than the baseline: autosam/onnxruntime/auto/b1" in report.verdict
    assert [one.met for one in report.rows[0].targets] == [False]
    # A journal that was asked for stays.
    assert read_journal(tmp_path / "rows.jsonl").rows[0].latency is not None


def other_machine(folder: Path, target: Path) -> Path:
    value = json.loads((folder / "r.json").read_text("utf-8"))
    value["machine"]["processor"] = "another"
    target.write_text(json.dumps(value), "utf-8")
    return target


def test_bad_input_ends_before_anything_is_measured(
    whole: tuple[Result, Path], bundle: Path, tmp_path: Path
) -> None:
    _, folder = whole
    (tmp_path / "bad.toml").write_text('[[target]]\nname = "x"\nspeed = 3\n', "utf-8")
    other = other_machine(folder, tmp_path / "other.json")
    cases: list[tuple[tuple[Any, ...], str]] = [
        (("nothing.autosam",), "no bundle at 'nothing.autosam'"),
        ((bundle, "--backend", "caffe"), "--backend; got caffe; expected all, or some of"),
        ((bundle, "--precision", "int4"), "--precision; got int4; expected auto, all or some of"),
        ((bundle, "--batch", "1,x"), "--batch; got '1,x'; expected numbers of 1 or more"),
        ((bundle, "--batch", "0"), "--batch; got '0'"),
        ((bundle, "--labels", folder / "labels"), "--labels without --volumes"),
        ((bundle, "--seconds", "9", "--budget", "1"), "--budget; got 1; expected --seconds, 9"),
        ((bundle, "--peer", "keras"), "--peer; got keras; expected eager"),
        ((bundle, "--target", tmp_path / "bad.toml"), "'target.0.speed'; got 3; expected Extra"),
        ((bundle, "--target", "moon"), "--target; got 'moon'"),
        ((bundle, "--baseline", tmp_path / "no.json"), "cannot be read"),
        ((bundle, "--baseline", other), "is from another machine, and times of two machines"),
        ((bundle, "--html", tmp_path), "is a folder; expected a file for the report"),
        ((bundle, bundle), "a bundle is named twice"),
        ((bundle, "--backend", ","), "--backend; got ','; expected names by comma"),
    ]
    for args, message in cases:
        done = bench(*args, *(("--threads", "1") if "--threads" not in args else ()))
        assert done.exit_code == 2, (args, done.output)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, (args, done.output)
        assert message in errors[0], errors[0]
        assert "truth in plain PyTorch" not in done.stderr


def test_labels_of_other_classes_are_refused(
    whole: tuple[Result, Path], bundle: Path, tmp_path: Path
) -> None:
    _, folder = whole
    image, labels = make_phantom(0, shape=(5, 28, 30))
    write_volume(tmp_path / "heart.nii.gz", labels)
    done = bench(bundle, *QUICK, "--volumes", folder / "images", "--labels", tmp_path,
                 "--journal", tmp_path / "j.jsonl")  # fmt: skip
    assert done.exit_code == 2
    assert "have other classes than the bundle; got value 3; expected 0..2" in done.stderr
    assert image.name == "heart_000"


def test_an_altered_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    altered = tmp_path / "a.autosam"
    shutil.copytree(bundle, altered)
    path = altered / "golden" / "case_0.labels.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    done = bench(altered, *QUICK)
    assert done.exit_code == 2
    assert "golden/case_0.labels.npy' of" in done.stderr
    assert "was altered" in done.stderr


def test_no_arguments_means_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = bench()
    assert done.exit_code == 2
    assert "no bundle was named and there is none under 'runs'; make one with" in done.stderr
    done = bench("--batch", "x")
    assert "--batch; got 'x'" in done.stderr


def test_commands_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    for name in ("run", "report", "label-efficiency", "training-cost"):
        assert f"  {name}" in text
    assert "Exit codes:" in CliRunner().invoke(main, ["run", "--help"]).output
    done = bench("report", "none.json")
    assert done.exit_code == 2
    assert "report 'none.json' cannot be read" in done.stderr


def test_a_run_that_is_stopped_says_what_is_there(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_journal: Path
) -> None:
    from autosam_deploy.benchmarks.harness.run import Benchmark

    def run(self: Benchmark, paths: Any, *, command: str, journal: Path) -> Report:
        shutil.copy(full_journal, journal)
        raise KeyboardInterrupt

    monkeypatch.setattr(Benchmark, "run", run)
    journal = tmp_path / "rows.jsonl"
    done = bench(bundle, *QUICK, "--journal", journal)
    assert done.exit_code == 1
    assert f"stopped; finished rows: autosam-bench report {journal}" in done.stderr
    shown = bench("report", journal)
    assert shown.exit_code == 0
    assert "unfinished: 1 rows are there" in shown.stdout


@pytest.fixture
def full_journal(
    tmp_path: Path, make_row: Callable[..., Any], make_report: Callable[..., Report]
) -> Path:
    from autosam_deploy.benchmarks.harness.journal import Header, Journal

    report = make_report([])
    header = Header(**{name: getattr(report, name) for name in Header.model_fields})
    Journal(tmp_path / "kept.jsonl", header).write(make_row(status="passed"))
    return tmp_path / "kept.jsonl"
