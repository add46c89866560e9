from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BundleError, OutputError, UsageError
from autosam_deploy.export.triton.choose import Want
from autosam_deploy.export.triton.repository import Options, Written, write_repository


def write(bundle: Path, output: Path, want: Want | None = None, **options: Any) -> Written:
    options = {"name": "heart", **options}
    opened = Bundle.open(bundle, verify=False)
    return write_repository(opened, output, want=want, options=Options(**options))


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def no_leftovers(tmp_path: Path) -> bool:
    return not [*tmp_path.rglob(".tmp-*"), *tmp_path.rglob(".old-*")]


def golden_labels(bundle: Path, graph: Path) -> None:
    """Run every golden case through a graph with plain ONNX Runtime, as Triton's backend does."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    cases = Bundle.open(bundle).manifest.golden
    assert cases
    for case in cases:
        slices = np.load(bundle / case.slices.path)
        (labels,) = session.run(["labels"], {"slices": slices})
        np.testing.assert_array_equal(labels, np.load(bundle / case.labels.path))


def test_layout_and_golden_labels(bundle: Path, tmp_path: Path) -> None:
    written = write(bundle, tmp_path / "new" / "repo", Want(precision="fp32"))
    assert written.model == tmp_path / "new" / "repo" / "heart"
    assert written.version == 1
    assert set(tree(tmp_path / "new" / "repo")) == {
        "heart/config.pbtxt",
        "heart/labels.txt",
        "heart/warmup/case_0.slices.raw",
        "heart/1/model.onnx",
        "heart/1/autosam.json",
    }
    assert (written.model / "labels.txt").read_text("utf-8") == "background\nclass_1\nclass_2\n"
    golden_labels(bundle, written.model / "1" / "model.onnx")
    assert no_leftovers(tmp_path)


def test_external_data_keeps_the_name_that_the_graph_knows(
    bundle: Path, tmp_path: Path, external: Callable[..., None]
) -> None:
    external(bundle)
    written = write(bundle, tmp_path / "repo", Want(precision="fp32"))
    version = written.model / "1"
    names = {path.name for path in version.iterdir()}
    assert names == {"model.onnx", "model.fp32.onnx.data", "autosam.json"}
    sizes = [(version / name).stat().st_size for name in ("model.onnx", "model.fp32.onnx.data")]
    assert sizes[1] > 10_000
    golden_labels(bundle, version / "model.onnx")


def test_engine_is_never_altered(
    bundle: Path, tmp_path: Path, with_engine: Callable[..., str]
) -> None:
    path = with_engine(bundle)
    written = write(bundle, tmp_path / "repo", Want(platform="tensorrt"))
    assert (written.model / "1" / "model.plan").read_bytes() == (bundle / path).read_bytes()
    source = json.loads((written.model / "1" / "autosam.json").read_text("utf-8"))
    assert source["engine"]["version"] == "10.13.3.9"
    assert not (written.model / "1" / "model.onnx").exists()


def test_a_version_says_where_it_comes_from(bundle: Path, tmp_path: Path) -> None:
    written = write(bundle, tmp_path / "repo")
    opened = Bundle.open(bundle)
    source = json.loads((written.model / "1" / "autosam.json").read_text("utf-8"))
    assert source["manifest_sha256"] == opened.manifest_sha256
    assert source["artefact"]["sha256"] == opened.find("onnx", "fp16").file.sha256  # type: ignore[union-attr]
    assert source["trained"] is False
    assert source["intended_use"] == opened.manifest.intended_use
    assert written.notes == ("random weights: good for latency, not for labels",)


def test_next_version_leaves_the_others_alone(bundle: Path, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    write(bundle, repo)
    first = tree(repo)
    assert write(bundle, repo, Want(precision="fp32")).version == 2
    second = tree(repo)
    assert first.items() <= second.items()
    assert set(second) - set(first) == {"heart/2/model.onnx", "heart/2/autosam.json"}
    # The server reads the folders below as versions 7 and none.
    (repo / "heart" / "7-old").mkdir()
    (repo / "heart" / "notes").mkdir()
    assert write(bundle, repo).version == 8
    assert no_leftovers(tmp_path)


def test_other_models_are_left_alone(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "repo" / "lung" / "1").mkdir(parents=True)
    (tmp_path / "repo" / "lung" / "1" / "model.onnx").write_bytes(b"x")
    write(bundle, tmp_path / "repo")
    assert tree(tmp_path / "repo" / "lung") == {"1/model.onnx": b"x"}


def test_overwriting_replaces_one_version(bundle: Path, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    write(bundle, repo)
    write(bundle, repo)
    before = tree(repo)
    written = write(bundle, repo, Want(precision="fp32"), overwrite_version=1)
    after = tree(repo)
    assert written.version == 1
    assert after["heart/1/model.onnx"] == (bundle / "model.fp32.onnx").read_bytes()
    assert {name for name in before if before[name] != after[name]} == {
        "heart/1/model.onnx",
        "heart/1/autosam.json",
    }
    assert no_leftovers(tmp_path)
    with pytest.raises(UsageError, match=r"no version 3 to overwrite; got versions: 1, 2; drop"):
        write(bundle, repo, overwrite_version=3)
    with pytest.raises(UsageError, match=r"no version 1 to overwrite; got versions: none"):
        write(bundle, repo, name="lung", overwrite_version=1)


def test_another_configuration_is_refused_kept_or_replaced(bundle: Path, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    model = write(bundle, repo).model
    tuned = (model / "config.pbtxt").read_text("utf-8").replace("count: 1", "count: 3")
    (model / "config.pbtxt").write_text(tuned, "utf-8")
    before = tree(repo)
    message = r"heart' is configured otherwise; got other or no config\.pbtxt; expected what"
    with pytest.raises(OutputError, match=message):
        write(bundle, repo)
    assert tree(repo) == before
    kept = write(bundle, repo, existing_config="keep")
    assert kept.version == 2
    assert "files that all versions share were kept: config.pbtxt" in kept.notes
    assert (model / "config.pbtxt").read_text("utf-8") == tuned
    replaced = write(bundle, repo, existing_config="replace", instances=5)
    assert replaced.version == 3
    assert "files that all versions share were replaced: config.pbtxt" in replaced.notes
    assert "count: 5" in (model / "config.pbtxt").read_text("utf-8")
    assert write(bundle, repo, instances=5).version == 4


def test_missing_labels_and_warmup_are_noticed(bundle: Path, tmp_path: Path) -> None:
    model = write(bundle, tmp_path / "repo").model
    (model / "labels.txt").unlink()
    (model / "warmup" / "case_0.slices.raw").unlink()
    with pytest.raises(OutputError, match=r"other or no labels\.txt, warmup/case_0\.slices\.raw;"):
        write(bundle, tmp_path / "repo")
    write(bundle, tmp_path / "repo", existing_config="replace")
    assert write(bundle, tmp_path / "repo").version == 3


@pytest.mark.parametrize("existing", ["file", "strange folder", "link to nowhere"])
def test_what_is_no_model_is_in_the_way(bundle: Path, tmp_path: Path, existing: str) -> None:
    place_of_model = tmp_path / "repo" / "heart"
    place_of_model.parent.mkdir()
    if existing == "file":
        place_of_model.write_text("x")
    elif existing == "strange folder":
        (place_of_model / "photos").mkdir(parents=True)
    else:
        place_of_model.symlink_to("nowhere")
    with pytest.raises(OutputError, match=r"heart' is in the way; got .*; choose another --name"):
        write(bundle, tmp_path / "repo")
    assert no_leftovers(tmp_path)


def test_an_empty_folder_is_taken(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "repo" / "heart").mkdir(parents=True)
    assert write(bundle, tmp_path / "repo").version == 1
    assert (tmp_path / "repo" / "heart" / "config.pbtxt").is_file()


def test_repository_behind_a_link(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "disk" / "models").mkdir(parents=True)
    (tmp_path / "repo").symlink_to(tmp_path / "disk" / "models")
    write(bundle, tmp_path / "repo")
    assert (tmp_path / "disk" / "models" / "heart" / "1" / "model.onnx").is_file()


@pytest.mark.parametrize("altered", ["model.fp16.onnx", "golden/case_0.slices.npy"])
def test_altered_members_are_not_served(bundle: Path, tmp_path: Path, altered: str) -> None:
    write(bundle, tmp_path / "repo")
    before = tree(tmp_path / "repo")
    content = bytearray((bundle / altered).read_bytes())
    content[-1] ^= 1
    (bundle / altered).write_bytes(content)
    with pytest.raises(BundleError, match=f"'{altered}' of .* was altered"):
        write(bundle, tmp_path / "repo", existing_config="replace", instances=2)
    with pytest.raises(BundleError, match="was altered"):
        write(bundle, tmp_path / "repo", name="lung")
    assert tree(tmp_path / "repo") == before
    assert no_leftovers(tmp_path)


def test_a_repository_that_cannot_be_made(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"cannot write beside '.*'; got Not a directory"):
        write(bundle, tmp_path / "file" / "below" / "repo")
    with pytest.raises(UsageError, match=r"is a file; expected a folder"):
        write(bundle, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"
    assert no_leftovers(tmp_path)


def test_output_inside_the_bundle_or_a_model_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lies in the bundle; choose an --output outside"):
        write(bundle, bundle / "triton")
    write(bundle, tmp_path / "repo")
    with pytest.raises(
        UsageError, match=r"is a model, not a model repository; .*--output '.*repo'"
    ):
        write(bundle, tmp_path / "repo" / "heart")


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a\\b", "a b", "Herz♥", "x" * 101])
def test_bad_names(bundle: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"--name; got '.*'; expected up to 100 letters"):
        write(bundle, tmp_path / "repo", name=name)


def test_name_of_the_bundle_must_do_or_be_replaced(
    bundle: Path, tmp_path: Path, edit_manifest: Callable[..., None]
) -> None:
    assert write(bundle, tmp_path / "repo", name=None).model.name == "linear"
    edit_manifest(bundle, lambda content: content.update(name="my heart"))
    with pytest.raises(UsageError, match=r"name of the model; got 'my heart'; .* with --name"):
        write(bundle, tmp_path / "repo", name=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch": 0}, "--max-batch; got 0; expected 1 or more"),
        ({"instances": 0}, "--instances; got 0; expected 1 or more"),
        ({"queue_delay_us": -1}, "--queue-delay-us; got -1; expected 0 or more"),
        ({"overwrite_version": 0}, "--overwrite-version; got 0; expected 1 or more"),
        ({"max_batch": 1 << 31}, r"--max-batch; got 2147483648; expected 1 or more, below 2\^31"),
    ],
)
def test_bad_numbers(bundle: Path, tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write(bundle, tmp_path / "repo", **options)
    assert not (tmp_path / "repo").exists()
