"""`config.pbtxt`: what Triton is told of a model.

Source of the fields: Triton's model_config.proto and its user guide ("Model Configuration",
"Batchers"). With `max_batch_size` above zero the leading B of every tensor is left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from autosam_deploy.bundle.manifest import Artefact, Manifest
from autosam_deploy.errors import ExportError, UsageError
from autosam_deploy.export.triton.choose import Device, Platform
from autosam_deploy.export.triton.textproto import Message, Word, render
from autosam_deploy.spec import TensorSpec

#: Without an engine's profile to follow; Triton's ONNX Runtime backend has the same default.
DEFAULT_MAX_BATCH = 4
WARMUP_FOLDER = "warmup"

_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "uint8": "TYPE_UINT8"}
_PLATFORMS: dict[Platform, str] = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
_HEAD = """\
# slices: raw intensities of any scale, float32 (B, 1, H, W). labels: uint8 (B, H, W), the position
# of a class in labels.txt. B is implied by max_batch_size and stands in no dims.
# Only requests of the same H and W are joined to one batch.
"""


@dataclass(frozen=True)
class Warmup:
    """The request that Triton runs before a model is ready.

    file: name in the folder `warmup` of raw float32 (1, H, W), little-endian; None for zeros.
    """

    file: str | None
    height: int
    width: int


@dataclass(frozen=True)
class Serving:
    """How a model is served.

    max_batch: largest B of one execution. preferred: batches that the batcher aims at; with none
    it is off. queue_delay_us: how long (microseconds) a request may wait for others. instances:
    execution contexts on every GPU, or on the CPU.
    """

    name: str
    platform: Platform
    device: Device
    max_batch: int
    preferred: tuple[int, ...]
    queue_delay_us: int
    instances: int
    warmup: Warmup | None


def batch_limits(
    artefact: Artefact, max_batch: int | None, *, command: str
) -> tuple[int, tuple[int, ...]]:
    """Return the largest batch and the batches worth waiting for.

    Args:
        artefact: what is served; an engine's profile bounds both.
        max_batch: as asked for; None takes what the profile allows, or `DEFAULT_MAX_BATCH`.
        command: imperative that ends in the command which builds an engine.

    Raises:
        ExportError: the engine cannot run a single slice, which is what most requests are.
        UsageError: the engine does not hold `max_batch` slices.
    """
    if artefact.engine is None:
        largest = max_batch or DEFAULT_MAX_BATCH
        return largest, (largest,) if largest > 1 else ()
    low, best, high = artefact.engine.profile.get("B", (1, 1, 1))
    if low > 1:
        raise ExportError(
            f"engine '{artefact.file.path}' does not run single slices",
            got=f"a profile from B {low} to {high}",
            expected="one from B 1",
            todo=f"{command} --batch 1:{best}:{high}",
        )
    largest = max_batch or high
    if largest > high:
        raise UsageError(
            f"--max-batch is beyond the profile of engine '{artefact.file.path}'",
            got=str(largest),
            expected=f"at most {high}",
            todo=f"lower it, or {command} --batch 1:{best}:{largest}",
        )
    return largest, tuple(sorted({size for size in (best, largest) if 1 < size <= largest}))


def model_config(manifest: Manifest, artefact: Artefact, serving: Serving) -> str:
    """Return the text of `config.pbtxt`.

    It says nothing that changes from one training of the same model to the next, so that a new
    version can be put beside an older one under the same configuration.
    """
    fixed = _fixed_sizes(artefact)
    classes = json.dumps(class_names(manifest), ensure_ascii=False)
    fields: Message = [
        ("name", serving.name),
        ("backend", serving.platform),
        ("platform", _PLATFORMS[serving.platform]),
        ("max_batch_size", serving.max_batch),
        *(("input", _tensor(tensor, fixed)) for tensor in manifest.inputs),
        *(("output", _tensor(tensor, fixed)) for tensor in manifest.outputs),
        ("version_policy", [("latest", [("num_versions", 1)])]),
        ("instance_group", _instances(serving)),
        *_batching(serving),
        *_warmups(manifest.inputs[0], serving),
        # Clients can ask the server for it; `label_filename` is for whole-image classes: it would
        # name the pixels of a label map.
        ("parameters", _parameter("classes", classes)),
    ]
    return _HEAD + render(fields)


def class_names(manifest: Manifest) -> list[str]:
    """Return the names of classes in the order of their labels.

    Raises:
        ExportError: a name has a line break; it could not stand in a file of one name a line.
    """
    names = [entry.name for entry in manifest.model.classes]
    for name in names:
        if name.splitlines() != [name]:
            raise ExportError(
                "a class name cannot stand in labels.txt",
                got=repr(name),
                expected="one line",
                todo="export again with --classes",
            )
    return names


def _fixed_sizes(artefact: Artefact) -> dict[str, int]:
    """Return axes of which an engine knows one size alone; Triton then refuses others by itself."""
    profile = {} if artefact.engine is None else artefact.engine.profile
    return {axis: low for axis, (low, _, high) in profile.items() if low == high}


def _tensor(tensor: TensorSpec, fixed: dict[str, int]) -> Message:
    dims = [fixed.get(dim, -1) if isinstance(dim, str) else dim for dim in tensor.shape[1:]]
    return [("name", tensor.name), ("data_type", Word(_TYPES[tensor.dtype])), ("dims", dims)]


def _instances(serving: Serving) -> Message:
    return [("count", serving.instances), ("kind", Word(f"KIND_{serving.device.upper()}"))]


def _batching(serving: Serving) -> list[tuple[str, Message]]:
    if not serving.preferred:
        return []
    return [
        (
            "dynamic_batching",
            [
                ("preferred_batch_size", list(serving.preferred)),
                ("max_queue_delay_microseconds", serving.queue_delay_us),
            ],
        )
    ]


def _warmups(tensor: TensorSpec, serving: Serving) -> list[tuple[str, Message]]:
    """One slice, and as many as ever run at once: a model that cannot hold them never gets ready.

    Triton repeats the one slice of the file to fill a batch.
    """
    warmup = serving.warmup
    if warmup is None:
        return []
    data: tuple[str, str | bool] = ("zero_data", True)
    if warmup.file is not None:
        data = ("input_data_file", warmup.file)
    value: Message = [
        ("data_type", Word(_TYPES[tensor.dtype])),
        ("dims", [1, warmup.height, warmup.width]),
        data,
    ]
    inputs: Message = [("key", tensor.name), ("value", value)]
    batches = {"one_slice": 1}
    if serving.max_batch > 1:
        batches["largest_batch"] = serving.max_batch
    return [
        ("model_warmup", [("name", name), ("batch_size", size), ("inputs", inputs)])
        for name, size in batches.items()
    ]


def _parameter(key: str, text: str) -> Message:
    return [("key", key), ("value", [("string_value", text)])]
