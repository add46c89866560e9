"""The peers of a comparison: other ways to run the same segmenter on raw slices.

Every loader is called in a process of its own and returns a `Runner`. Peers say what a bundle is
worth: they are measured in the same run and are not judged.
"""

from __future__ import annotations

from dataclasses import dataclass

_HERE = "autosam_deploy.benchmarks.peers"


@dataclass(frozen=True)
class Peer:
    """A row of `PEERS`: what it is, for reports, and the function that loads it.

    same_as: backend that in float32 runs the very same; where it is a row already it is the peer
    too.
    """

    what: str
    loader: str
    needs_plain: bool = False
    same_as: str | None = None


#: What a user without this project would run; `--peers` takes all of them.
PEERS: dict[str, Peer] = {
    "eager": Peer(
        "the segmenter in eager PyTorch, float32, as upstream",
        f"{_HERE}.pytorch:load_eager",
        same_as="torch",
    ),
    "autocast": Peer(
        "the same under autocast (bf16 on CPUs, fp16 on GPUs)", f"{_HERE}.pytorch:load_autocast"
    ),
    "compile": Peer("the same through torch.compile, float32", f"{_HERE}.pytorch:load_compiled"),
    "onnx-plain": Peer(
        "torch.onnx.export of the segmenter, ONNX Runtime with its defaults",
        f"{_HERE}.plain:load_onnxruntime",
        needs_plain=True,
    ),
}

#: More of the same, by name: `--peer`.
MORE: dict[str, Peer] = {
    "openvino-plain": Peer(
        "the plain export on OpenVINO with its defaults (bf16 on CPUs that have it)",
        f"{_HERE}.plain:load_openvino",
        needs_plain=True,
    ),
    "eager-tf32": Peer(
        "eager PyTorch, float32 with products in TF32 (GPUs)", f"{_HERE}.pytorch:load_tf32"
    ),
    "compile-autocast": Peer(
        "torch.compile under autocast", f"{_HERE}.pytorch:load_compiled_autocast"
    ),
}

#: The fused segmenter without a runtime around it, in PyTorch, once for every way to write its
#: attention.
FUSED: dict[str, Peer] = {
    f"fused-{lowering}": Peer(
        f"the fused segmenter in PyTorch, fp16 on GPUs, attention written as '{lowering}'",
        f"{_HERE}.fused:load_fused",
    )
    for lowering in ("explicit", "masked", "augmented")
}

#: The same with one kernel more from row to row, and then as the backend runs it.
KERNELS: dict[str, Peer] = {
    "kernels-attention": Peer(
        "fused, fp16, with the attention kernel", f"{_HERE}.fused:load_kernels"
    ),
    "kernels-norm": Peer("... and the layer-norm kernel", f"{_HERE}.fused:load_kernels"),
    "kernels-input": Peer("... and the kernel of the input", f"{_HERE}.fused:load_kernels"),
    "kernels-labels": Peer("... and the kernel of the labels", f"{_HERE}.fused:load_kernels"),
    "kernels-graphs": Peer(
        "all kernels, CUDA graphs and copies beside the work, as backend 'torch' has them",
        f"{_HERE}.fused:load_kernels",
    ),
}
ALL_PEERS = {**PEERS, **MORE, **FUSED, **KERNELS}
