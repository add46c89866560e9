"""The peers of a comparison, each loaded in a process of its own.

A peer is a way to run one and the same segmenter on raw slices: plain PyTorch, a plain ONNX export
of it, our bundle. Run as a module this file is the worker: it loads one peer, then answers every
line on stdin with the seconds that one run took, so that a parent can take turns between peers.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from autosam_deploy.models.segmenter import Segmenter

Slices = NDArray[np.float32]
Labels = NDArray[np.uint8]
Peer = Callable[[Slices], Labels]


def load_torch(bundle: Path, threads: int) -> Peer:
    """Load the segmenter in plain eager PyTorch, weights from the bundle."""
    from autosam_deploy.runtime.engine import Engine

    return Engine.open(bundle, backend="torch", device="cpu", threads=threads, verify=False).labels


def load_ours(bundle: Path, threads: int) -> Peer:
    """Load the bundle's float32 graph through the Engine on ONNX Runtime."""
    from autosam_deploy.runtime.engine import Engine

    engine = Engine.open(
        bundle, backend="onnxruntime", device="cpu", precision="fp32", threads=threads, verify=False
    )
    return engine.labels


def load_plain(graph: Path, threads: int) -> Peer:
    """Load a plain export of the segmenter on ONNX Runtime with its default options."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def run(slices: Slices) -> Labels:
        labels: Labels = session.run(None, {"slices": slices})[0]
        return labels

    return run


PEERS: dict[str, Callable[[Path, int], Peer]] = {
    "torch": load_torch,
    "onnx-plain": load_plain,
    "autosam-deploy": load_ours,
}


def segmenter_of(bundle: Path) -> Segmenter:
    """Load the reference segmenter from a bundle's weights."""
    from safetensors.torch import load_file

    from autosam_deploy.bundle.reader import Bundle
    from autosam_deploy.models.segmenter import segmenter_from_state

    opened = Bundle.open(bundle, verify=False)
    return segmenter_from_state(
        opened.manifest.model, load_file(opened.path / "weights.safetensors")
    )


def export_plain(segmenter: Segmenter, path: Path) -> None:
    """Export the reference segmenter as a user without this project would.

    Args:
        segmenter: the truth, float32.
        path: the .onnx file to write; dynamic B, H, W; one output, uint8 labels.
    """
    import torch
    from torch.export import Dim

    class Labels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.segmenter = segmenter

        def forward(self, slices: torch.Tensor) -> torch.Tensor:
            return self.segmenter.labels(slices)

    side = segmenter.spec.encoder.image_size[0]
    program = torch.onnx.export(
        Labels().eval(),
        (torch.rand(2, 1, side - 3, side - 5),),
        dynamo=True,
        input_names=["slices"],
        output_names=["labels"],
        dynamic_shapes=({0: Dim("B", min=1), 2: Dim("H", min=1), 3: Dim("W", min=1)},),
        verbose=False,
    )
    if program is not None:
        program.save(path)


def peak_rss() -> int:
    """Return this process' largest resident set so far in bytes."""
    factor = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor


def _answer(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def serve(peer: str, source: Path, slices_file: Path, threads: int) -> None:
    """Load a peer and time one run per line read from stdin.

    Writes one JSON line after loading ({"load_s"}) and one a run ({"seconds", "peak_rss"}).
    The labels of the last run are saved beside `slices_file` for the parent to compare.
    """
    slices = np.load(slices_file)
    start = time.perf_counter()
    run = PEERS[peer](source, threads)
    _answer({"load_s": time.perf_counter() - start, "peak_rss": peak_rss()})
    for _ in sys.stdin:
        start = time.perf_counter()
        labels = run(slices)
        seconds = time.perf_counter() - start
        np.save(slices_file.with_name(f"labels-{peer}.npy"), labels)
        _answer({"seconds": seconds, "peak_rss": peak_rss()})


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
