from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from rich.progress import Progress

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import ExportError, ParityError, UsageError
from autosam_deploy.export.checks.golden import verify_bundle
from autosam_deploy.export.cli import main
from autosam_deploy.export.int8 import judge as judging
from autosam_deploy.export.int8.add import add_int8
from autosam_deploy.export.int8.graph import LAYERS, quantize
from autosam_deploy.export.int8.judge import Judgement, judge
from autosam_deploy.export.int8.request import Int8Request
from autosam_deploy.export.int8.slices import JudgedCase, Material, read_material
from autosam_deploy.parity import Quantized
from autosam_deploy.runtime.selftest import read_parity
from autosam_deploy.spec import HeadKind
from autosam_deploy.volumes.phantom import make_phantom
from autosam_deploy.volumes.write import write_volume

pytest.importorskip("onnxruntime.quantization")


@pytest.fixture
def bundle(exported: Callable[[HeadKind], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("autosam"), tmp_path / "a.autosam"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `images` and `labels` with four small phantoms."""
    folder = tmp_path_factory.mktemp("volumes")
    for seed in range(4):
        image, truth = make_phantom(seed, shape=(4, 40, 48))
        write_volume(folder / "images" / f"case_{seed}.nii.gz", image)
        write_volume(
            folder / "labels" / f"case_{seed}.nii.gz", replace(truth, array=truth.array % 3)
        )
    return folder


@pytest.fixture
def trained(bundle: Path) -> Path:
    """The same bundle, said to be trained."""
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "trained": True}), "utf-8")
    return bundle


def request(data: Path, **options: object) -> Int8Request:
    made = Int8Request(images=data / "images", calibration=3, judged=4, threads=1)
    return replace(made, **options)  # type: ignore[arg-type]


def test_no_volume_sets_ranges_and_judges(bundle: Path, data: Path) -> None:
    model = Bundle.open(bundle).manifest.model
    found = read_material(data / "images", data / "labels", model, calibration=3, judged=5)
    assert [one.shape for one in found.calibration] == [(1, 1, 40, 48)] * 3
    assert [case.name for case in found.judged] == ["case_1", "case_3"]
    assert [len(case.slices) for case in found.judged] == [3, 2]
    assert all(c.labels is not None and len(c.labels) == len(c.slices) for c in found.judged)
    assert found.judged_slices == 5
    judged = [one for case in found.judged for one in case.slices]
    assert not any((one == other).all() for one in judged for other in found.calibration)


def test_only_the_encoders_linear_layers_are_quantized(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    opened = Bundle.open(bundle)
    artefact = opened.find("onnx", "fp32")
    assert artefact is not None
    model = opened.manifest.model
    material = read_material(data / "images", None, model, calibration=2, judged=2)
    target = tmp_path / "int8.onnx"
    count = quantize(opened.file(artefact.file), target, material.calibration)
    assert count == len(LAYERS) * model.encoder.depth
    graph = onnx.load(target).graph
    integers = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.INT8}
    weights = {name.removesuffix("_quantized") for name in integers if name.endswith("_quantized")}
    assert weights == {
        f"encoder.blocks.{block}.{layer}.weight"
        for block in range(model.encoder.depth)
        for layer in LAYERS
    }


def test_added_graph_is_judged_recorded_and_replaced(bundle: Path, data: Path) -> None:
    with Progress(disable=True) as progress:
        first = add_int8(bundle, request(data, labels=data / "labels"), progress=progress)
        opened = Bundle.open(bundle, verify=True)
        assert opened.find("onnx", "int8") == first.artefact
        record = read_parity(opened)
        assert record.quantized == first.judgement.quantized
        assert first.judgement.quantized.truth == "labels"
        assert first.judgement.quantized.slices == 4
        comparison = record.comparison_of("int8")
        assert comparison is not None
        assert comparison.passed
        assert comparison.reference.method == "quantized"
        assert comparison.reference.max_error >= first.judgement.largest > 0
        second = add_int8(bundle, request(data), progress=progress)
    opened = Bundle.open(bundle, verify=True)
    assert opened.find("onnx", "int8") == second.artefact
    assert second.artefact.file.path != first.artefact.file.path
    assert not (bundle / first.artefact.file.path).exists()
    assert [c.precision for c in read_parity(opened).comparisons].count("int8") == 1
    assert second.judgement.quantized.truth == "fp32 graph"
    assert verify_bundle(bundle, backend="onnxruntime", device="cpu", precision="int8").passed
    found = verify_bundle(bundle, backend="onnxruntime", device="cpu")
    assert found.info.precision == "fp32"


def test_a_graph_that_costs_too_much_leaves_no_trace(
    trained: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = trained
    monkeypatch.setattr(judging, "MIN_AGREEMENT", 1.1)
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*")}
    done = CliRunner().invoke(
        main, ["int8", str(bundle), "--calibration", str(data / "images"), "--slices", "2"]
    )
    assert done.exit_code == 2
    assert "error: int8 costs this model too much; got " in done.stderr
    assert "of labels are equal, gate 110.0%" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*")} == before


def judged(labels: bool, equal: list[int]) -> Judgement:
    """Two cases of one slice of 4 pixels, of which the int8 graph changes the first `equal`."""
    before = [np.array([[[0, 1], [1, 1]]], np.uint8)] * 2
    truth = np.array([[[0, 1], [1, 0]]], np.uint8)
    cases = tuple(
        JudgedCase(f"c{index}", np.zeros((1, 1, 2, 2), np.float32), truth if labels else None)
        for index in range(2)
    )
    after = [array.copy() for array in before]
    for array, count in zip(after, equal, strict=True):
        array.reshape(-1)[1 : 1 + count] = 0
    plain, integers = iter(before), iter(after)
    logits = np.zeros((1, 2, 2, 2), np.float32)
    return judge(
        lambda x: {"labels": next(plain), "logits": logits},
        lambda x: {"labels": next(integers), "logits": logits + 0.5},
        Material((cases[0].slices,), cases),
        classes=2,
        step=lambda: None,
    )


def test_judgement_by_hand() -> None:
    same = judged(labels=True, equal=[0, 0])
    assert same.quantized.agreement == 1
    assert same.quantized.dice_loss == 0
    assert (same.largest, same.rms) == (0.5, 0.5)
    assert same.problems == []
    # Of 8 pixels one changes. Dice of class 1 in that case: 2 * 2 / 5 before, 2 * 1 / 4 after.
    one = judged(labels=True, equal=[1, 0])
    assert one.quantized.agreement == 7 / 8
    assert one.quantized.dice_loss == pytest.approx((0.8 - 0.5) / 2)
    assert one.problems == [
        "87.500% of labels are equal, gate 99.5%",
        "Dice loss 0.1500 by people's labels, gate 0.005",
    ]
    # Without labels: 1 before, 2 * 2 / 5 after.
    other = judged(labels=False, equal=[1, 0])
    assert other.quantized.dice_loss == pytest.approx((1 - 0.8) / 2)
    assert "by the float32 graph's labels" in other.problems[1]


@pytest.mark.parametrize(
    ("agreement", "loss", "count"),
    [(0.995, 0.005, 0), (0.9949, 0.0, 1), (1.0, 0.0051, 1), (1.0, float("nan"), 1)],
)
def test_gates(agreement: float, loss: float, count: int) -> None:
    one = Quantized.model_construct(agreement=agreement, dice_loss=loss, truth="labels")
    assert len(Judgement(one, 0.0, 0.0).problems) == count


def test_export_takes_int8_along(tmp_path: Path, data: Path) -> None:
    target = tmp_path / "b.autosam"
    done = CliRunner().invoke(
        main,
        [
            *("--untrained", "--encoder", "vit_tiny", "--head", "linear", "--num-classes", "3"),
            *("--image-size", "112", "-o", str(target), "--slim", "--int8", "--json"),
            *("--calibration", str(data / "images"), "--calibration-labels", str(data / "labels")),
        ],
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["int8"]
    assert found["graph"] == "model.int8.onnx"
    assert found["quantized"]["truth"] == "labels"
    assert Bundle.open(target).precisions("onnx") == ("fp32", "int8")


def test_bad_requests(bundle: Path, data: Path, tmp_path: Path) -> None:
    model = Bundle.open(bundle).manifest.model

    def read(images: Path, labels: Path | None = None) -> Material:
        return read_material(images, labels, model, calibration=2, judged=2)

    image, truth = make_phantom(1, shape=(4, 40, 48))
    flat = replace(image, array=np.zeros_like(image.array))
    for name in ("a", "b"):
        write_volume(tmp_path / "flat" / f"{name}.nii.gz", flat)
    with pytest.raises(UsageError, match="got flat slices only"):
        read(tmp_path / "flat")
    write_volume(tmp_path / "one" / "a.nii.gz", image)
    with pytest.raises(UsageError, match="others that judge; got 1 volume in"):
        read(tmp_path / "one")
    with pytest.raises(UsageError, match="lacks labels; got none for case_1"):
        read(data / "images", tmp_path / "one")
    write_volume(tmp_path / "many" / "case_1.nii.gz", replace(truth, array=truth.array * 0 + 9))
    shutil.copy(tmp_path / "many" / "case_1.nii.gz", tmp_path / "many" / "case_3.nii.gz")
    with pytest.raises(UsageError, match=r"got value 9; expected 0\.\.2"):
        read(data / "images", tmp_path / "many")
    write_volume(tmp_path / "short" / "case_1.nii.gz", make_phantom(1, shape=(3, 40, 48))[1])
    shutil.copy(tmp_path / "short" / "case_1.nii.gz", tmp_path / "short" / "case_3.nii.gz")
    with pytest.raises(UsageError, match="labels of 'case_1' do not lie on its voxels"):
        read(data / "images", tmp_path / "short")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["int8", "none.autosam", "--calibration", "."], "no bundle at 'none.autosam'"),
        (["int8", "{bundle}"], "--calibration is missing"),
        (["int8", "{bundle}", "--calibration", "nowhere"], "--calibration: no 'nowhere'"),
        (["--int8", "--untrained", "--encoder", "vit_tiny"], "--calibration is missing"),
        (["--precision", "int8"], "int8 is asked for by --int8 --calibration FOLDER"),
    ],
)
def test_wrong_arguments(bundle: Path, args: list[str], message: str) -> None:
    done = CliRunner().invoke(main, [one.format(bundle=bundle) for one in args])
    assert done.exit_code == 2
    assert message in done.stderr


def test_graphs_that_cannot_be_quantized(bundle: Path, data: Path, tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["slices"], ["labels"])],
        "g",
        [value("slices", onnx.TensorProto.FLOAT, [1])],
        [value("labels", onnx.TensorProto.FLOAT, [1])],
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "no.onnx")
    with pytest.raises(ExportError, match=r"'no\.onnx' has no linear layers of an encoder"):
        quantize(tmp_path / "no.onnx", tmp_path / "o.onnx", [])
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    manifest["artefacts"] = [a for a in manifest["artefacts"] if a["precision"] != "fp32"]
    (bundle / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with (
        Progress(disable=True) as progress,
        pytest.raises(ExportError, match="no fp32 graph to quantize; got fp16"),
    ):
        add_int8(bundle, request(data), progress=progress)


def test_judged_slices_prove_the_gate_elsewhere(
    bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host whose int8 results are off by more than twice what was judged fails verification."""
    with Progress(disable=True) as progress:
        add_int8(bundle, request(data), progress=progress)
    from autosam_deploy.runtime import ort

    true_run = ort.run_session

    def off(session: object, slices: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        found = dict(true_run(session, slices, names))
        found["logits"] = found["logits"] + 100
        return found

    monkeypatch.setattr(ort, "run_session", off)
    found = verify_bundle(bundle, backend="onnxruntime", device="cpu", precision="int8")
    assert not found.passed


def test_refusal_names_numbers(trained: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "MIN_AGREEMENT", 2.0)
    with (
        Progress(disable=True) as progress,
        pytest.raises(ParityError, match=r"\(4 slices of 2 volumes\).*the bundle is as it was"),
    ):
        add_int8(trained, request(data), progress=progress)


def test_random_weights_are_not_held_to_the_gates(bundle: Path, data: Path) -> None:
    args = ["int8", str(bundle), "--calibration", str(data / "images"), "--slices", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "MIN_AGREEMENT", 1.1)
        done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.stderr
    assert "random weights: for latency work, gates do not count" in done.stdout
