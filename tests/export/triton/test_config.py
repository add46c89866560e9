"""The configuration, read back with Triton's own message definitions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import ExportError, UsageError
from autosam_deploy.export.triton.choose import Want
from autosam_deploy.export.triton.repository import Options, write_repository


def config(
    bundle: Path, tmp_path: Path, want: Want | None = None, **options: Any
) -> model_config_pb2.ModelConfig:
    written = write_repository(
        Bundle.open(bundle), tmp_path / "repo", want=want, options=Options(**options)
    )
    text = (written.model / "config.pbtxt").read_text("utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_every_field_of_a_graph(bundle: Path, tmp_path: Path) -> None:
    found = config(bundle, tmp_path, name="heart", queue_delay_us=2500, instances=2, max_batch=6)
    height, width = np.load(bundle / "golden" / "case_0.slices.npy").shape[2:]

    def warmup(name: str, size: int) -> model_config_pb2.ModelWarmup:
        value = model_config_pb2.ModelWarmup.Input(
            data_type=model_config_pb2.TYPE_FP32,
            dims=[1, height, width],
            input_data_file="case_0.slices.raw",
        )
        return model_config_pb2.ModelWarmup(name=name, batch_size=size, inputs={"slices": value})

    names = json.dumps(["background", "class_1", "class_2"])
    assert found == model_config_pb2.ModelConfig(
        name="heart",
        backend="onnxruntime",
        platform="onnxruntime_onnx",
        max_batch_size=6,
        input=[
            model_config_pb2.ModelInput(
                name="slices", data_type=model_config_pb2.TYPE_FP32, dims=[1, -1, -1]
            )
        ],
        output=[
            model_config_pb2.ModelOutput(
                name="labels", data_type=model_config_pb2.TYPE_UINT8, dims=[-1, -1]
            ),
            model_config_pb2.ModelOutput(
                name="logits", data_type=model_config_pb2.TYPE_FP32, dims=[3, -1, -1]
            ),
        ],
        version_policy=model_config_pb2.ModelVersionPolicy(latest={"num_versions": 1}),
        instance_group=[
            model_config_pb2.ModelInstanceGroup(
                count=2, kind=model_config_pb2.ModelInstanceGroup.KIND_GPU
            )
        ],
        dynamic_batching=model_config_pb2.ModelDynamicBatching(
            preferred_batch_size=[6], max_queue_delay_microseconds=2500
        ),
        model_warmup=[warmup("one_slice", 1), warmup("largest_batch", 6)],
        parameters={"classes": model_config_pb2.ModelParameter(string_value=names)},
    )


def test_defaults_for_the_cpu_and_single_slices(bundle: Path, tmp_path: Path) -> None:
    found = config(bundle, tmp_path, Want(device="cpu"), max_batch=1, warmup=False)
    assert found.name == "linear"
    assert found.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    assert found.max_batch_size == 1
    assert not found.HasField("dynamic_batching")
    assert not found.model_warmup
    assert not (tmp_path / "repo" / "autosam" / "warmup").exists()


def test_graph_has_a_default_batch(bundle: Path, tmp_path: Path) -> None:
    found = config(bundle, tmp_path)
    assert found.max_batch_size == 4
    assert list(found.dynamic_batching.preferred_batch_size) == [4]
    assert [one.batch_size for one in found.model_warmup] == [1, 4]


@pytest.mark.parametrize(
    ("asked", "largest", "preferred"), [(None, 8, [2, 8]), (3, 3, [2, 3]), (2, 2, [2]), (1, 1, [])]
)
def test_engine_bounds_the_batch(
    bundle: Path,
    tmp_path: Path,
    with_engine: Callable[..., str],
    asked: int | None,
    largest: int,
    preferred: list[int],
) -> None:
    with_engine(bundle)
    found = config(bundle, tmp_path, Want(platform="tensorrt"), max_batch=asked)
    assert (found.backend, found.platform) == ("tensorrt", "tensorrt_plan")
    assert found.max_batch_size == largest
    assert list(found.dynamic_batching.preferred_batch_size) == preferred
    assert list(found.input[0].dims) == [1, -1, -1]


def test_sizes_that_an_engine_fixes_are_in_the_dims(
    bundle: Path, tmp_path: Path, with_engine: Callable[..., str]
) -> None:
    with_engine(bundle, profile={"B": (1, 1, 1), "H": (48, 48, 48), "W": (16, 64, 256)})
    found = config(bundle, tmp_path, Want(platform="tensorrt"))
    assert list(found.input[0].dims) == [1, 48, -1]
    assert [list(one.dims) for one in found.output] == [[48, -1], [3, 48, -1]]


def test_warmup_is_a_golden_slice_within_the_profile(
    bundle: Path, tmp_path: Path, with_engine: Callable[..., str]
) -> None:
    cases = {path: np.load(path) for path in sorted((bundle / "golden").glob("*.slices.npy"))}
    last, slices = list(cases.items())[-1]
    height, width = slices.shape[2:]
    assert next(iter(cases.values())).shape[2:] != (height, width)
    axes = {"H": (height, height, height), "W": (width, width, width)}
    with_engine(bundle, profile={"B": (1, 1, 2), **axes})
    found = config(bundle, tmp_path, Want(platform="tensorrt"))
    value = found.model_warmup[0].inputs["slices"]
    assert (value.input_data_file, list(value.dims)) == (f"{last.stem}.raw", [1, height, width])
    raw = np.fromfile(tmp_path / "repo/linear/warmup" / value.input_data_file, "<f4")
    np.testing.assert_array_equal(raw.reshape(1, height, width), slices[0])


def test_warmup_without_a_golden_slice_that_fits(
    bundle: Path, tmp_path: Path, with_engine: Callable[..., str]
) -> None:
    with_engine(bundle, profile={"B": (1, 1, 2), "H": (900, 901, 902), "W": (900, 903, 904)})
    want = Want(platform="tensorrt")
    written = write_repository(Bundle.open(bundle), tmp_path / "repo", want=want)
    assert any("runs zeros of 901x903" in note for note in written.notes)
    text = (written.model / "config.pbtxt").read_text("utf-8")
    value = text_format.Parse(text, model_config_pb2.ModelConfig()).model_warmup[0].inputs["slices"]
    assert value.WhichOneof("input_data_type") == "zero_data"
    assert list(value.dims) == [1, 901, 903]


def test_engine_that_needs_several_slices_is_refused(
    bundle: Path, tmp_path: Path, with_engine: Callable[..., str]
) -> None:
    with_engine(bundle, profile={"B": (2, 4, 8), "H": (16, 96, 256), "W": (16, 96, 256)})
    with pytest.raises(
        ExportError,
        match=r"does not run single slices; got a profile from B 2 to 8; .* --batch 1:4:8$",
    ):
        config(bundle, tmp_path, Want(platform="tensorrt"))


def test_batch_beyond_the_profile_is_refused(
    bundle: Path, tmp_path: Path, with_engine: Callable[..., str]
) -> None:
    with_engine(bundle)
    with pytest.raises(
        UsageError, match=r"--max-batch is beyond .*; got 9; expected at most 8; .* --batch 1:2:9$"
    ):
        config(bundle, tmp_path, Want(platform="tensorrt"), max_batch=9)
    assert not (tmp_path / "repo").exists()


def test_class_names_travel(
    bundle: Path, tmp_path: Path, edit_manifest: Callable[..., None]
) -> None:
    names = ["background", 'left "ventricle", \\ ♥', "Vorhof"]

    def change(content: dict[str, Any]) -> None:
        for entry, name in zip(content["model"]["classes"], names, strict=True):
            entry["name"] = name

    edit_manifest(bundle, change)
    found = config(bundle, tmp_path)
    assert json.loads(found.parameters["classes"].string_value) == names
    labels = (tmp_path / "repo/linear/labels.txt").read_text("utf-8")
    assert labels.splitlines() == names


@pytest.mark.parametrize("name", ["two\nlines", "end\n", "\n", "page\x0c2"])
def test_class_name_of_several_lines_is_refused(
    bundle: Path, tmp_path: Path, edit_manifest: Callable[..., None], name: str
) -> None:
    edit_manifest(bundle, lambda content: content["model"]["classes"][1].update(name=name))
    with pytest.raises(ExportError, match=r"a class name cannot stand in labels\.txt; got '"):
        config(bundle, tmp_path)
