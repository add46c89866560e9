from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from rich.console import Console

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendUnavailableError, BundleError, ExportError
from autosam_deploy.export.checks.bisection import Bisection, Tap, bisect_bundle
from autosam_deploy.export.checks.show import conclusion, show_bisection, shown
from autosam_deploy.export.checks.taps.ort import OrtTaps
from autosam_deploy.export.checks.taps.runner import TapRunner
from autosam_deploy.export.checks.taps.table import RUNNERS
from autosam_deploy.export.steps import Steps
from autosam_deploy.files import sha256_file, write_json
from autosam_deploy.runtime.backend import BackendInfo
from autosam_deploy.spec import HEAD_KINDS, HeadKind

Exported = Callable[[HeadKind], Path]
Change = Callable[[NDArray[Any]], None]
ORDER = (
    *("input", "encoder.patches", "encoder.blocks.0", "encoder.blocks.1", "encoder.blocks.2"),
    *("encoder.neck", "head", "output"),
)


def bisect(bundle: Bundle, **options: Any) -> Bisection:
    return bisect_bundle(bundle, **{"device": "cpu", "threads": 1, **options})


@pytest.fixture
def broken(exported: Exported, tmp_path: Path) -> Callable[..., Bundle]:
    """Factory: a bundle one of whose graphs has one tensor changed, with hashes that hold."""

    def build(tensor: str, change: Change, *, precision: str = "fp32") -> Bundle:
        folder = Path(shutil.copytree(exported("linear"), tmp_path / "m.autosam"))
        path = folder / f"model.{precision}.onnx"
        model = onnx.load(path)
        (found,) = [one for one in model.graph.initializer if one.name == tensor]
        array = numpy_helper.to_array(found).copy()
        change(array)
        found.CopyFrom(numpy_helper.from_array(array, tensor))
        onnx.save(model, path)
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        (entry,) = [a for a in manifest["artefacts"] if a["file"]["path"] == path.name]
        entry["file"] |= {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        write_json(folder / "manifest.json", manifest)
        return Bundle.open(folder)

    return build


def a_fifth_more(array: NDArray[Any]) -> None:
    array *= array.dtype.type(1.2)


def one_weight_a_fifth_more(array: NDArray[Any]) -> None:
    array.flat[np.abs(array).argmax()] *= array.dtype.type(1.2)


def one_nan(array: NDArray[Any]) -> None:
    array.flat[0] = np.nan


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_sound_bundles_agree_everywhere(exported: Exported, kind: HeadKind, precision: str) -> None:
    result = bisect(Bundle.open(exported(kind)), precision=precision)
    assert result.passed
    assert result.first_bad is None
    assert tuple(tap.name for tap in result.taps) == ORDER
    assert (result.info.precision, result.artefact) == (precision, f"model.{precision}.onnx")
    assert result.notes == ()
    for tap in result.taps:
        assert tap.max_abs is not None
        assert tap.rel_l2 is not None
        assert tap.cosine is not None
        # Compared, not skipped: no runtime gives PyTorch's very bits throughout.
        assert 0 < tap.max_abs <= tap.tolerance
        assert 0 < tap.rel_l2 <= tap.rel_tolerance
        assert tap.cosine > 0.9999


@pytest.mark.parametrize(
    ("tensor", "change", "precision", "block"),
    [
        ("encoder.blocks.2.expand.weight", a_fifth_more, "fp32", "encoder.blocks.2"),
        ("encoder.blocks.2.expand.weight", one_weight_a_fifth_more, "fp32", "encoder.blocks.2"),
        ("encoder.blocks.2.expand.weight", a_fifth_more, "fp16", "encoder.blocks.2"),
        ("encoder.blocks.1.attention.table_w", a_fifth_more, "fp32", "encoder.blocks.1"),
        ("encoder.blocks.0.norm1.weight", one_weight_a_fifth_more, "fp16", "encoder.blocks.0"),
        ("encoder.patches.position", a_fifth_more, "fp16", "encoder.patches"),
        ("encoder.neck.norm2.weight", a_fifth_more, "fp16", "encoder.neck"),
        ("head.logits.bias", a_fifth_more, "fp32", "head"),
    ],
)
def test_the_block_at_fault_is_named(
    broken: Callable[..., Bundle], tensor: str, change: Change, precision: str, block: str
) -> None:
    result = bisect(broken(tensor, change, precision=precision), precision=precision)
    assert result.first_bad == block
    before = ORDER.index(block)
    assert all(tap.passed for tap in result.taps[:before])
    assert result.taps[before].finite
    assert result.taps[before].excess > 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_nan_is_named_where_it_starts(broken: Callable[..., Bundle], precision: str) -> None:
    bundle = broken("encoder.blocks.1.projection.bias", one_nan, precision=precision)
    result = bisect(bundle, precision=precision)
    assert result.first_bad == "encoder.blocks.1"
    bad = result.taps[ORDER.index("encoder.blocks.1")]
    assert (bad.finite, bad.max_abs, bad.rel_l2, bad.cosine) == (False, None, None, None)
    assert bad.excess == float("inf")
    assert "'encoder.blocks.1', behind 'encoder.blocks.0', which agrees: its values are" in (
        conclusion(result, golden_passed=False)
    )
    text = json.dumps(result.as_dict(), allow_nan=False)
    assert json.loads(text)["first_bad"] == "encoder.blocks.1"


def test_the_other_graph_is_left_alone(broken: Callable[..., Bundle]) -> None:
    bundle = broken("encoder.blocks.2.expand.weight", a_fifth_more, precision="fp16")
    assert bisect(bundle).passed
    assert not bisect(bundle, precision="fp16").passed


def test_result_as_json(exported: Exported) -> None:
    result = bisect(Bundle.open(exported("linear"))).as_dict()
    assert result["passed"] is True
    assert result["engine"]["backend"] == "onnxruntime"
    assert [tap["name"] for tap in result["taps"]] == list(ORDER)
    assert set(result["taps"][0]) == {
        *("name", "shape", "max_abs", "rel_l2", "cosine", "tolerance", "rel_tolerance"),
        *("finite", "passed"),
    }
    json.dumps(result, allow_nan=False)


def test_bundles_without_weights_are_refused(exported: Exported) -> None:
    bundle = Bundle.open(exported("linear"))
    graphs = tuple(a for a in bundle.manifest.artefacts if a.kind == "onnx")
    slim = Bundle(bundle.path, bundle.manifest.model_copy(update={"artefacts": graphs}), "")
    with pytest.raises(BundleError, match=r"without weights \(--slim\).*export it again without"):
        bisect(slim)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_backends_without_a_graph_are_refused(exported: Exported, backend: str) -> None:
    with pytest.raises(BackendUnavailableError, match=f"got '{backend}'; expected auto . onnxrun"):
        bisect(Bundle.open(exported("linear")), backend=backend)


def test_golden_files_that_are_not_the_weights_are_noted(exported: Exported) -> None:
    bundle = Bundle.open(exported("linear"))
    golden = bundle.manifest.golden
    other = Bundle.open(exported("cnn"))
    assert bisect(bundle).notes == ()
    # Golden logits of another head: the graph agrees with its weights all the same.
    mixed = golden[0].model_copy(update={"logits": other.manifest.golden[0].logits})
    manifest = bundle.manifest.model_copy(update={"golden": (mixed,)})

    class Mixed(Bundle):
        def file(self, ref: Any) -> Path:
            return (other if ref == mixed.logits else bundle).path / ref.path

    result = bisect(Mixed(bundle.path, manifest, ""))
    assert result.passed
    assert "do not give its golden logits in PyTorch here (off by" in result.notes[0]


class Stubborn(OrtTaps):
    """Stands for a runner of another backend."""

    name = "stubborn"
    wrong = ""

    def _run(
        self, slices: NDArray[np.float32], names: tuple[str, ...]
    ) -> Mapping[str, NDArray[Any]]:
        found = dict(super()._run(slices, names))
        if self.wrong:
            found[self.wrong] = found[self.wrong][:, 1:]
        return found


def test_another_backend_is_one_row(exported: Exported) -> None:
    rows: dict[str, Any] = {**RUNNERS, "stubborn": Stubborn}
    assert bisect(Bundle.open(exported("linear")), backend="stubborn", runners=rows).passed


def test_values_of_another_shape_are_an_error(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stubborn, "wrong", "encoder.neck")
    with pytest.raises(ExportError, match=r"'encoder.neck' of the graph is not what the module"):
        bisect(Bundle.open(exported("linear")), backend="stubborn", runners={"stubborn": Stubborn})


def test_a_runner_closes_when_it_fails(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Failing(TapRunner):
        name = "failing"

        def _choose(self) -> Artefact:
            return self.bundle.manifest.artefacts[1]

        def _open(self, graph: Path) -> BackendInfo:
            assert graph.is_file()
            return bisect(self.bundle).info

        def _run(self, slices: Any, names: Any) -> Any:
            raise ExportError("no luck")

        def _close(self) -> None:
            closed.append(self.info)

    bundle = Bundle.open(exported("linear"))
    assert bundle.manifest.artefacts[1].kind == "onnx"
    with pytest.raises(ExportError, match="no luck"):
        bisect(bundle, backend="failing", runners={"failing": Failing})
    assert closed == [None]


def tap(name: str, *, passed: bool = True, off: float = 0.5) -> Tap:
    return Tap(
        name=name,
        shape=(1, 2),
        max_abs=off,
        rel_l2=off,
        cosine=1.0,
        tolerance=1.0,
        rel_tolerance=1.0,
        finite=True,
        passed=passed,
    )


def bisection(*taps: Tap, notes: tuple[str, ...] = ()) -> Bisection:
    info = BackendInfo(
        backend="onnxruntime",
        device="cpu",
        provider="CPUExecutionProvider",
        precision="fp32",
        artefact="model.fp32.onnx",
        threads=1,
        reason="asked for",
    )
    return Bisection(info, "model.fp32.onnx", taps, notes)


def printed(result: Bisection, *, golden_passed: bool = False) -> str:
    console = Console(file=io.StringIO(), width=110)
    show_bisection(console, result, golden_passed=golden_passed)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_table_fits_on_80_columns() -> None:
    off = replace(tap("encoder.blocks.31"), max_abs=None, rel_l2=None, finite=False, passed=False)
    console = Console(file=io.StringIO(), width=80)
    show_bisection(console, bisection(off), golden_passed=False)
    assert isinstance(console.file, io.StringIO)
    (row,) = [line for line in console.file.getvalue().splitlines() if line.startswith("│")]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == [
        *("encoder.blocks.31", "nan/inf", "1.0e+00", "-", "1.0e+00", "1.0000", "FAILED")
    ]


def test_deep_encoders_are_thinned_around_the_fault() -> None:
    names = ["input", *(f"encoder.blocks.{index}" for index in range(32)), "output"]
    sound = tuple(tap(name) for name in names)
    rows = shown(sound)
    assert len(rows) == 17
    assert (rows[0].name, rows[-1].name) == ("input", "output")
    for bad in range(len(names)):
        taps = tuple(tap(n, passed=i < bad, off=3.0) for i, n in enumerate(names))
        chosen = [one.name for one in shown(taps)]
        assert {*names[max(0, bad - 1) : bad + 2]} <= {*chosen}
        assert chosen == [name for name in names if name in chosen]
        assert len(chosen) <= 20
    assert shown(sound[:17]) == sound[:17]
    assert "17 more boundaries are left out" in printed(bisection(*sound))


def test_table_tells_the_fault_from_what_follows() -> None:
    taps = (tap("input"), tap("head", passed=False, off=4), tap("output", passed=False, off=9))
    lines = printed(bisection(*taps, notes=("mind the gap",))).splitlines()
    assert [line.split("│")[-2].strip() for line in lines if line.startswith("│")] == [
        "passed",
        "FAILED",
        "off",
    ]
    assert "note: mind the gap" in lines
    assert lines[-1] == (
        "the first block that disagrees is 'head', behind 'input', which agrees: "
        "it is off by 4 times what is allowed"
    )


@pytest.mark.parametrize(
    ("passed", "golden_passed", "sentence"),
    [
        (True, True, "every block agrees with PyTorch"),
        (True, False, "goes wrong where it fuses across blocks, or the golden files differ"),
        (False, True, "is 'input', at the very start: it is off by 2 times .* pass all the same"),
        (False, False, "is 'input', at the very start: it is off by 2 times what is allowed$"),
    ],
)
def test_conclusions(passed: bool, golden_passed: bool, sentence: str) -> None:
    result = bisection(tap("input", passed=passed, off=0.5 if passed else 2))
    assert re.search(sentence, conclusion(result, golden_passed=golden_passed))


def test_progress_is_shown(exported: Exported) -> None:
    console = Console(file=io.StringIO(), width=100)
    steps = Steps(console)
    bisect(Bundle.open(exported("linear")), steps=steps)
    assert list(steps.seconds) == [
        "open on onnxruntime",
        "every block in PyTorch, and its own error",
        "every block on onnxruntime",
    ]
