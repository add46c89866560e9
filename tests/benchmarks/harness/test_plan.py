from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autosam_deploy.benchmarks.harness.plan import (
    Options,
    check_options,
    find_bundles,
    plan_groups,
)
from autosam_deploy.benchmarks.harness.run import without_absent
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import UsageError
from autosam_deploy.runtime.table import BACKENDS


def test_every_row_of_the_table_at_every_batch(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle, verify=False)
    groups = plan_groups([bundle], Options(batches=(1, 4), peers=("compile",)))
    assert [group.batch for group in groups] == [1, 4]
    assert [row.backend for row in groups[0].rows] == [*BACKENDS, "compile"]
    # Peers are measured at the first batch size alone.
    assert [row.backend for row in groups[1].rows] == list(BACKENDS)
    assert not any(row.asked for group in groups for row in group.rows)
    assert groups[0].rows[0].key == f"autosam/{next(iter(BACKENDS))}/auto/b1"


def test_a_peer_that_is_a_backend_already_is_no_second_row(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle, verify=False)
    options = Options(backends=("onnxruntime",), peers=("eager", "compile"))
    (group,) = plan_groups([bundle], options)
    assert [row.backend for row in group.rows] == ["onnxruntime", "eager", "compile"]
    (group,) = plan_groups([bundle], replace(options, backends=("onnxruntime", "torch")))
    assert [row.backend for row in group.rows] == ["onnxruntime", "torch", "compile"]


def test_options_go_to_backends_that_have_them(tiny_bundle: Path) -> None:
    """They are part of a row's key: a baseline with others is none for it."""
    bundle = Bundle.open(tiny_bundle, verify=False)
    options = Options(
        backends=("onnxruntime", "openvino"),
        backend_options={"spinning": "off", "arena": "off", "mode": "throughput"},
    )
    (group,) = plan_groups([bundle], options)
    assert [(row.key, row.options) for row in group.rows] == [
        (
            "autosam/onnxruntime/auto/b1/arena=off/spinning=off",
            {"spinning": "off", "arena": "off"},
        ),
        ("autosam/openvino/auto/b1/mode=throughput", {"mode": "throughput"}),
    ]
    assert group.rows[1].row().options == {"mode": "throughput"}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"speed": "9"}, "--option; got speed; expected an option of onnxruntime; --option help"),
        ({"mode": "latency"}, "--option; got mode"),
        ({"arena": "maybe"}, "option 'arena' of backend 'onnxruntime'; got maybe"),
    ],
)
def test_options_that_no_backend_takes(texts: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_options(("onnxruntime",), texts)


def test_half_precision_is_no_reference(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU backend `torch` runs in fp16 where it may choose, and is not the eager peer."""
    from autosam_deploy.benchmarks.harness import plan

    monkeypatch.setattr(plan, "gpu_query", lambda field: "a GPU")
    bundle = Bundle.open(tiny_bundle, verify=False)
    options = Options(backends=("torch",), peers=("eager",))

    def rows(chosen: Options) -> list[str]:
        (group,) = plan_groups([bundle], chosen)
        return [row.backend for row in group.rows]

    assert rows(options) == ["torch", "eager"]
    assert rows(replace(options, device="cpu")) == ["torch"]
    assert rows(replace(options, precisions=("fp32",))) == ["torch"]
    assert rows(replace(options, precisions=("fp16",))) == ["torch", "eager"]


def test_peers_at_every_batch(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle, verify=False)
    options = Options(
        backends=("onnxruntime",), batches=(1, 4), peers=("compile",), peers_always=True
    )
    groups = plan_groups([bundle], options)
    assert [[row.backend for row in group.rows] for group in groups] == [
        ["onnxruntime", "compile"],
        ["onnxruntime", "compile"],
    ]


def test_named_backends_are_asked_for(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle, verify=False)
    options = Options(backends=("torch", "torch"), precisions=("fp32", "fp16"))
    (group,) = plan_groups([bundle], options)
    assert [(row.backend, row.precision, row.asked) for row in group.rows] == [
        ("torch", "fp32", True),
        ("torch", "fp16", True),
    ]


def test_all_precisions_are_those_of_the_bundle(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle, verify=False)
    options = Options(backends=("onnxruntime",), precisions=("all",))
    (group,) = plan_groups([bundle], options)
    assert [row.precision for row in group.rows] == ["fp32", "fp16"]
    # Nobody asked for fp16 by name.
    assert not any(row.asked for row in group.rows)


def test_two_bundles_of_one_name_have_rows_of_their_own(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle, verify=False)
    groups = plan_groups([bundle, replace(bundle, path=Path("b/other.autosam"))], Options())
    keys = [row.key for group in groups for row in group.rows]
    assert len(set(keys)) == len(keys)
    assert groups[1].label == "b/other.autosam"


def test_what_was_absent_once_is_not_tried_again(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle, verify=False)
    one, four = plan_groups([bundle], Options(batches=(1, 4)))
    rows = [plan.row().model_copy(update={"status": "unavailable"}) for plan in one.rows[1:]]
    assert [plan.backend for plan in without_absent(four, rows).rows] == [four.rows[0].backend]
    asked = [row.model_copy(update={"asked": True}) for row in rows]
    assert without_absent(four, asked).rows == four.rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(backends=("tensorflow",)), "--backend; got tensorflow; expected all, or some of"),
        (Options(peers=("keras",)), "--peer; got keras; expected eager, autocast"),
    ],
)
def test_unknown_names(tiny_bundle: Path, options: Options, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_groups([Bundle.open(tiny_bundle, verify=False)], options)


def test_bundles_under_runs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bundle was named and there is none under"):
        find_bundles((), tmp_path / "runs")
    for name in ("b", "a"):
        (tmp_path / "runs" / name / "model.autosam").mkdir(parents=True)
        (tmp_path / "runs" / name / "model.autosam" / "manifest.json").write_text("{}", "utf-8")
    found = find_bundles((), tmp_path / "runs")
    assert [path.parent.name for path in found] == ["a", "b"]
    with pytest.raises(UsageError, match="a bundle is named twice"):
        find_bundles((found[0], found[0].parent / "." / found[0].name), tmp_path)
