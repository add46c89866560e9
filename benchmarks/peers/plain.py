"""A plain ONNX export of the segmenter, as a user without this project would make and run it.

`python -m autosam_deploy.benchmarks.peers.plain BUNDLE TARGET.onnx` makes one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autosam_deploy.benchmarks.harness.runners import Labels, Loading, Runner, Slices
from autosam_deploy.benchmarks.machine import gpu_query
from autosam_deploy.benchmarks.peers.pytorch import segmenter_of
from autosam_deploy.cores import usable_cores
from autosam_deploy.errors import (
    BackendUnavailableError,
    DeviceUnavailableError,
    MissingExtraError,
)
from autosam_deploy.extras import require

if TYPE_CHECKING:
    from torch import Tensor

    from autosam_deploy.models.segmenter import Segmenter


def load_onnxruntime(loading: Loading) -> Runner:
    """Load a plain export of the segmenter on ONNX Runtime with its default options."""
    import onnxruntime

    if loading.plain is None:
        raise BackendUnavailableError("there is no plain export to load")
    threads = loading.threads or usable_cores()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    device = loading.device
    if device == "auto":
        # Asking torch would add half a gigabyte to the memory of a peer that needs none of it.
        device = "cuda:0" if gpu_query("name") else "cpu"
    providers: list[Any] = ["CPUExecutionProvider"]
    if device != "cpu":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise DeviceUnavailableError("this ONNX Runtime has no CUDA provider", got=device)
        index = int(device.partition(":")[2] or 0)
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
    session = onnxruntime.InferenceSession(str(loading.plain), options, providers=providers)

    def labels(slices: Slices) -> Labels:
        found: Labels = session.run(None, {"slices": slices})[0]
        return found

    info = {
        "backend": loading.backend,
        "device": device,
        "provider": session.get_providers()[0],
        "precision": "fp32",
        "artefact": loading.plain.name,
        "threads": threads,
        "reason": "a peer",
        "versions": {"onnxruntime": onnxruntime.__version__},
        "notes": (),
    }
    return Runner(labels, lambda slices: {"labels": labels(slices)}, info)


def load_openvino(loading: Loading) -> Runner:
    """Load a plain export on OpenVINO's CPU device with its default options but for threads.

    Raises:
        BackendUnavailableError: there is no plain export, or no OpenVINO.
    """
    if loading.plain is None:
        raise BackendUnavailableError("there is no plain export to load")
    try:
        openvino = require("openvino", extra="openvino", feature="peer 'openvino-plain'")
    except MissingExtraError as error:
        raise BackendUnavailableError(str(error)) from error
    threads = loading.threads or usable_cores()
    compiled = openvino.Core().compile_model(
        str(loading.plain), "CPU", {"INFERENCE_NUM_THREADS": threads}
    )
    used = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
    request = compiled.create_infer_request()

    def labels(slices: Slices) -> Labels:
        request.infer({0: slices})
        found: Labels = request.get_output_tensor(0).data.copy()
        return found

    info = {
        "backend": loading.backend,
        "device": "cpu",
        "provider": "CPU",
        "precision": "bf16" if used in ("bf16", "bfloat16") else "fp32",
        "artefact": loading.plain.name,
        "threads": threads,
        "reason": "a peer",
        "versions": {"openvino": openvino.__version__},
        "notes": (f"OpenVINO chose {used}",),
    }
    return Runner(labels, lambda slices: {"labels": labels(slices)}, info)


def export_plain(segmenter: Segmenter, path: Path) -> None:
    """Export the reference segmenter as a user without this project would.

    Args:
        segmenter: the truth, float32.
        path: the .onnx file to write; dynamic B, H, W; one output, uint8 labels.
    """
    import torch
    from torch.export import Dim

    class LabelsOnly(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.segmenter = segmenter

        def forward(self, slices: Tensor) -> Tensor:
            return self.segmenter.labels(slices)

    side = segmenter.spec.encoder.image_size[0]
    program = torch.onnx.export(
        LabelsOnly().eval(),
        (torch.rand(2, 1, side - 3, side - 5),),
        dynamo=True,
        input_names=["slices"],
        output_names=["labels"],
        dynamic_shapes=({0: Dim("B", min=1), 2: Dim("H", min=1), 3: Dim("W", min=1)},),
        verbose=False,
    )
    if program is not None:
        program.save(path)


if __name__ == "__main__":
    # Exporting takes more memory than running, so it is done apart from both.
    export_plain(segmenter_of(Path(sys.argv[1])), Path(sys.argv[2]))
