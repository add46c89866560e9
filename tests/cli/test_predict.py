from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner, Result

from autosam_deploy.cli.predict import main
from autosam_deploy.spec import HeadKind
from autosam_deploy.volumes.read import read_labels, read_volume
from autosam_deploy.volumes.volume import same_space

Exported = Callable[[HeadKind], Path]


@pytest.fixture
def bundle(exported: Exported) -> Path:
    return exported("linear")


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_folder(bundle: Path, volumes: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out", tmp_path / "run.json"
    result = run(bundle, "-i", volumes, "-o", out, "--preview", "--report", report)
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(f"heart_00{n}.{s}" for n in (1, 2, 3) for s in ("nii.gz", "png"))
    for path in volumes.iterdir():
        labels = read_labels(out / path.name)
        assert same_space(labels.geometry, read_volume(path).geometry)
        assert labels.array.max() < 3
    found = json.loads(report.read_text("utf-8"))
    assert [case["status"] for case in found["cases"]] == ["labelled"] * 3
    case = found["cases"][0]
    assert (case["axis"], case["slices"], case["shape"]) == ("k", 4, [4, 30, 26])
    assert set(case["seconds"]) == {"load", "run", "write"}
    labels = read_labels(out / "heart_001.nii.gz").array
    assert case["voxels"] == {f"class_{n}": int((labels == n).sum()) for n in (1, 2)}
    assert case["ml"]["class_1"] == pytest.approx(
        case["voxels"]["class_1"] * 1.4 * 1.4 * 8 / 1000, rel=1e-3
    )
    assert found["engine"]["backend"] == "onnxruntime"
    assert len(found["manifest_sha256"]) == 64


@pytest.mark.parametrize("suffix", ["nii.gz", "nii", "nrrd", "mha"])
def test_one_file(bundle: Path, volumes: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"labels.{suffix}"
    result = run(bundle, "-i", volumes / "heart_001.nii.gz", "-o", target, "-q")
    assert result.exit_code == 0, result.output
    assert result.output == ""
    source = read_volume(volumes / "heart_001.nii.gz")
    assert same_space(read_labels(target).geometry, source.geometry)


def test_letters_of_a_suffix(bundle: Path, volumes: Path, tmp_path: Path) -> None:
    (volumes / "heart_001.nii.gz").rename(tmp_path / "UPPER.NII.GZ")
    result = run(bundle, "-i", tmp_path / "UPPER.NII.GZ", "-o", tmp_path / "out", "-q")
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["UPPER.nii.gz"]


def test_dicom_keeps_its_geometry(bundle: Path, tmp_path: Path, shared_series: Path) -> None:
    result = run(bundle, "-i", shared_series, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    found = read_labels(tmp_path / "out" / f"{shared_series.name}.nrrd")
    assert same_space(found.geometry, read_volume(shared_series).geometry)


@pytest.fixture
def shared_series(tmp_path: Path) -> Path:
    """An oblique DICOM series whose geometry float32 cannot hold."""
    folder = tmp_path / "series"
    folder.mkdir()
    cosine, sine = np.cos(0.2), np.sin(0.2)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index in range(3):
        y, z = -83.173485645312 - sine * 6.5 * index, -11.422342713395 + cosine * 6.5 * index
        image = SimpleITK.GetImageFromArray(np.full((1, 20, 18), index * 50 + 1, np.int16))
        image.SetSpacing((0.6875, 0.6875, 1.0))
        for tag, value in {
            "0008|0060": "MR",
            "0020|000e": "1.2.3.4",
            "0020|000d": "1.2.3",
            "0008|0018": f"1.2.3.4.{index}",
            "0020|0032": f"-97.178176103646\\{y:.10f}\\{z:.10f}",
            "0020|0037": f"1\\0\\0\\0\\{cosine:.12f}\\{sine:.12f}",
        }.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{index}.dcm"))
        writer.Execute(image)
    return folder


def test_one_bad_file_does_not_stop_the_others(bundle: Path, volumes: Path, tmp_path: Path) -> None:
    (volumes / "broken.nii.gz").write_bytes(b"not a volume")
    result = run(bundle, "-i", volumes, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    cases = {case["name"]: case for case in json.loads(result.stdout)["cases"]}
    assert cases["broken"]["status"] == "failed"
    assert "cannot be read" in cases["broken"]["error"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"heart_00{n}.nii.gz" for n in (1, 2, 3)
    ]
    assert "error: volume" in result.stderr


def test_single_bad_file_is_exit_code_2(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"x")
    result = run(bundle, "-i", tmp_path / "broken.nii.gz", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_continue_skips_finished_cases(bundle: Path, volumes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(bundle, "-i", volumes, "-o", out, "-q").exit_code == 0
    (out / "heart_002.nii.gz").unlink()
    kept = (out / "heart_001.nii.gz").stat().st_mtime_ns
    result = run(bundle, "-i", volumes, "-o", out, "--continue", "--json")
    assert result.exit_code == 0
    statuses = [case["status"] for case in json.loads(result.stdout)["cases"]]
    assert statuses == ["skipped", "labelled", "skipped"]
    assert (out / "heart_001.nii.gz").stat().st_mtime_ns == kept


def test_existing_labels_are_not_replaced_unasked(
    bundle: Path, volumes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(bundle, "-i", volumes, "-o", out, "-q").exit_code == 0
    result = run(bundle, "-i", volumes, "-o", out)
    assert result.exit_code == 2
    assert "exists; use --continue to keep it or --overwrite" in result.stderr
    assert run(bundle, "-i", volumes, "-o", out, "--overwrite", "-q").exit_code == 0


def test_volume_is_never_replaced_by_its_labels(bundle: Path, volumes: Path) -> None:
    before = (volumes / "heart_001.nii.gz").read_bytes()
    result = run(bundle, "-i", volumes, "-o", volumes, "--overwrite")
    assert result.exit_code == 2
    assert "labels would replace their volume" in result.stderr
    assert (volumes / "heart_001.nii.gz").read_bytes() == before


def test_axis_and_batch(bundle: Path, volumes: Path, tmp_path: Path) -> None:
    source = volumes / "heart_001.nii.gz"
    for batch in ("1", "7"):
        args = ("--axis", "i", "--batch", batch, "-q")
        assert run(bundle, "-i", source, "-o", tmp_path / f"{batch}.nrrd", *args).exit_code == 0
    first, second = (read_labels(tmp_path / f"{batch}.nrrd").array for batch in ("1", "7"))
    assert (first == second).all()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-i", "nowhere", "-o", "out"), "no volume at 'nowhere'"),
        (("-i", ".", "-o", "out", "--batch", "0"), "--batch; got '0'; expected 1 or more, or auto"),
        (("-i", ".", "-o", "out", "--batch", "x"), "--batch; got 'x'"),
        (("-i", "IN", "-o", "out.nii.gz"), "many volumes, one label file; got 3 cases"),
        (("-i", "IN/heart_001.nii.gz", "-o", "x.mhd"), "'x.mhd' has no known format"),
        (("-i", "IN", "-o", "out", "--device", "cuda:7"), "'cuda:7' is not there"),
        (("-i", "IN", "-o", "out", "--device", "tpu"), "unknown device; got 'tpu'"),
        (("-i", "IN", "-o", "out", "--backend", "magic"), "unknown backend; got 'magic'"),
        (("-i", "IN", "-o", "out", "--precision", "bf16"), "no bf16 graph"),
        (
            ("-i", "IN", "-o", "out", "--option", "arena"),
            "--option; got 'arena'; expected NAME=VAL",
        ),
        (
            ("-i", "IN", "-o", "out", "--option", "arena=x"),
            "'onnxruntime'; got x; expected on | off",
        ),
        (("-i", "IN", "-o", "out", "--option", "streams=2"), "arena (on | off: keep the memory of"),
        (
            ("-i", "IN", "-o", "o", "--option", "arena=on", "--option", "arena=off"),
            "--option 'arena' is given twice; got on and off",
        ),
        (
            ("-i", "IN", "-o", "o", "--backend", "torch", "--option", "arena=on"),
            "unknown option of backend 'torch'; got 'arena'; expected ",
        ),
    ],
)
def test_wrong_arguments_are_one_line(
    bundle: Path,
    volumes: Path,
    tmp_path: Path,
    args: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(bundle, *(arg.replace("IN", str(volumes)) for arg in args))
    assert result.exit_code == 2
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert "Traceback" not in result.output


def test_debug_shows_the_traceback(bundle: Path, tmp_path: Path) -> None:
    result = run(bundle, "-i", tmp_path / "nowhere", "-o", tmp_path / "out", "--debug")
    assert type(result.exception).__name__ == "VolumeError"


def test_bundle_is_found_under_runs(
    bundle: Path, volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = ("-i", volumes / "heart_001.nii.gz", "-o", tmp_path / "x.nrrd", "--overwrite")
    result = run(*source)
    assert result.exit_code == 2
    assert "no bundle under 'runs'; name one, or make one with autosam-export" in result.stderr
    for head in ("linear", "cnn"):
        (tmp_path / "runs" / head).mkdir(parents=True)
        (tmp_path / "runs" / head / "model.autosam").symlink_to(bundle)
        result = run(*source)
        if head == "linear":
            assert result.exit_code == 0, result.output
    assert result.exit_code == 2
    assert "several bundles under 'runs'" in result.stderr


def test_no_bundle(tmp_path: Path, volumes: Path) -> None:
    result = run(tmp_path / "x.autosam", "-i", volumes, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "no bundle at" in result.stderr


@pytest.mark.parametrize(
    "array",
    [
        np.full((2, 20, 30), 7, np.int16),
        np.zeros((1, 20, 30), np.uint8),
        np.random.default_rng(0).integers(0, 65535, (2, 20, 30)).astype(np.uint16),
        np.random.default_rng(0).normal(0, 1e5, (2, 20, 30)),
        np.random.default_rng(0).integers(0, 900, (1, 2000, 2000)).astype(np.int16),
    ],
    ids=["flat", "one-slice", "uint16", "float64", "2000x2000"],
)
def test_unusual_volumes(bundle: Path, tmp_path: Path, array: np.ndarray) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / "x.nrrd"))
    result = run(bundle, "-i", tmp_path / "x.nrrd", "-o", tmp_path / "y.nrrd", "--axis", "k", "-q")
    assert result.exit_code == 0, result.output
    assert read_labels(tmp_path / "y.nrrd").array.shape == array.shape


def test_options_of_the_backend_are_used_and_recorded(
    bundle: Path, volumes: Path, tmp_path: Path
) -> None:
    report = tmp_path / "run.json"
    words = ("--option", "arena=off", "--option", f"prepared={tmp_path / 'prepared'}")
    source = volumes / "heart_001.nii.gz"
    result = run(bundle, "-i", source, "-o", tmp_path / "out", "--report", report, *words)
    assert result.exit_code == 0, result.output
    engine = json.loads(report.read_text("utf-8"))["engine"]
    assert engine["options"] == {"arena": "off", "prepared": str(tmp_path / "prepared")}
    assert engine["notes"][0].startswith("prepared graph ")


def test_options_are_listed_without_anything_else() -> None:
    result = run("--option", "help")
    assert result.exit_code == 0, result.output
    for backend in ("onnxruntime:", "openvino:", "tensorrt:", "torch:"):
        assert backend in result.stdout
    assert re.search(r"spinning= +threads wait in a loop", result.stdout)
    assert "latency | throughput" in " ".join(result.stdout.split())
    # A handle of a stream can be given by a program alone.
    assert "stream=" not in result.stdout


def test_flat_slices_of_a_real_model(bundle: Path, tmp_path: Path) -> None:
    array = np.zeros((6, 20, 30), np.int16)
    array[2:4] = np.random.default_rng(0).integers(1, 900, (2, 20, 30))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / "x.nrrd"))
    args = ("-i", tmp_path / "x.nrrd", "--axis", "k", "--json")
    skipped = run(bundle, *args, "-o", tmp_path / "y.nrrd", "--skip-flat")
    every = run(bundle, *args, "-o", tmp_path / "z.nrrd")
    found = [json.loads(one.stdout)["cases"][0] for one in (skipped, every)]
    assert [(one["flat_slices"], one["slices"]) for one in found] == [(4, 6), (None, 6)]
    labels = [read_labels(tmp_path / f"{name}.nrrd").array for name in "yz"]
    assert (labels[0][2:4] == labels[1][2:4]).all()
    assert labels[0][[0, 1, 4, 5]].max() == 0
