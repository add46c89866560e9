"""What the machine itself can do, measured in the run: products of matrices, and copies.

    python -m autosam_deploy.benchmarks.harness.roofline job.json

A model that takes its operations over this rate is as fast as its products alone allow.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from autosam_deploy.benchmarks.harness.child import open_channel, say
from autosam_deploy.benchmarks.harness.worker import describe

#: Side of the square matrices: large enough for the peak, small enough for a second.
_SIDES = {"cpu": 1536, "cuda": 8192}
_COPY_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}
_LEAST_RUNS = 3
#: What every ONNX Runtime since 1.14 reads.
_IR_VERSION = 8


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Measure a device.

    Args:
        job: device ("cpu", "cuda:0"), threads, seconds for each dtype, dtypes.

    Returns:
        rates: dtype -> GFLOP/s and what measured it; gb_per_s; skipped: dtype -> why.
    """
    device, seconds, threads = job["device"], job["seconds"], job["threads"]
    floats = [dtype for dtype in job["dtypes"] if dtype != "int8"]
    rates: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    if "int8" in job["dtypes"]:
        # PyTorch has no products of bytes that are worth measuring.
        rate, by = _onnxruntime_rate(seconds, threads, integers=True)
        if rate:
            rates["int8"] = _faster((rate, by))
        else:
            skipped["int8"] = "needs onnx"
    try:
        import torch
    except ImportError as error:
        if device != "cpu":
            raise
        skipped |= {dtype: f"needs torch ({error})" for dtype in floats if dtype != "fp32"}
        numpy = (_numpy_rate(seconds), f"numpy {np.__version__}")
        rates["fp32"] = _faster(numpy, _onnxruntime_rate(seconds, threads))
        return {"rates": rates, "gb_per_s": _numpy_copy(seconds), "skipped": skipped}
    torch.set_num_threads(threads)
    for dtype in floats:
        try:
            found = [(_torch_rate(device, dtype, seconds), f"torch {torch.__version__}")]
            if (device, dtype) == ("cpu", "fp32"):
                # PyTorch's library leaves half of AVX-512 unused on processors of another maker.
                found.append(_onnxruntime_rate(seconds, threads))
            rates[dtype] = _faster(*found)
        except RuntimeError as error:
            skipped[dtype] = str(error).splitlines()[0]
    copied = _numpy_copy(seconds) if device == "cpu" else _torch_copy(device, seconds)
    return {"rates": rates, "gb_per_s": copied, "skipped": skipped}


def _faster(*found: tuple[float, str]) -> dict[str, Any]:
    """Return the highest rate: what one library does not reach, the machine still may."""
    rate, by = max(found)
    return {"gflops": rate, "by": by}


def _best(run: Callable[[], object], seconds: float) -> float:
    """Return the shortest time of a run among those that fit, after one that is not counted.

    The shortest: what a machine can do is not less because something disturbed it.
    """
    run()
    best, start, runs = float("inf"), time.perf_counter(), 0
    while runs < _LEAST_RUNS or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - before)
        runs += 1
        if time.perf_counter() - start > 10 * seconds:
            break
    return best


def _numpy_rate(seconds: float) -> float:
    side = _SIDES["cpu"]
    a = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
    out = np.empty_like(a)
    return 2 * side**3 / _best(lambda: np.matmul(a, a, out=out), seconds) / 1e9


def _onnxruntime_rate(seconds: float, threads: int, *, integers: bool = False) -> tuple[float, str]:
    """Return the rate of ONNX Runtime's own product; 0 where there is no onnx to write one."""
    import onnxruntime

    by = f"onnxruntime {onnxruntime.__version__}"
    try:
        from onnx import TensorProto, helper
    except ImportError:
        return 0.0, by
    side = _SIDES["cpu"]
    random = np.random.default_rng(0)
    if integers:
        name, types = "MatMulInteger", (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32)
        a = random.integers(0, 128, (side, side), np.uint8)
    else:
        name, types = "MatMul", (TensorProto.FLOAT,) * 3
        a = random.standard_normal((side, side), dtype=np.float32)
    source = helper.make_tensor_value_info("x", types[0], [side, side])
    result = helper.make_tensor_value_info("y", types[2], [side, side])
    # A constant factor is packed once, as a model's weights are.
    constant = helper.make_tensor("w", types[1], [side, side], a.tobytes(), raw=True)
    node = helper.make_node(name, ["x", "w"], ["y"])
    graph = helper.make_graph([node], "product", [source], [result], [constant])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=_IR_VERSION
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return 2 * side**3 / _best(lambda: session.run(None, {"x": a}), seconds) / 1e9, by


def _numpy_copy(seconds: float) -> float:
    source = np.ones(_COPY_BYTES["cpu"] // 8)
    target = np.empty_like(source)
    return 2 * source.nbytes / _best(lambda: np.copyto(target, source), seconds) / 1e9


def _torch_rate(device: str, dtype: str, seconds: float) -> float:
    import torch

    kind = device.partition(":")[0]
    side = _SIDES[kind]
    found = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    a = torch.randn(side, side, device=device).to(found)
    out = torch.empty_like(a)

    def run() -> None:
        torch.matmul(a, a, out=out)
        if kind == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        return 2 * side**3 / _best(run, seconds) / 1e9


def _torch_copy(device: str, seconds: float) -> float:
    import torch

    source = torch.ones(_COPY_BYTES["cuda"] // 4, device=device)
    target = torch.empty_like(source)

    def run() -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    return 2 * source.nbytes / _best(run, seconds) / 1e9


def main() -> None:
    """Do the job that the command line names and answer once."""
    channel = open_channel()
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    try:
        say(channel, measure(job))
    except Exception as error:  # noqa: BLE001 - a report without a roofline says why
        say(channel, describe(error, loading=True))


if __name__ == "__main__":
    main()
