"""ONNX Runtime's execution providers: which are usable, and sessions that stay on them."""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.errors import BackendError, BackendUnavailableError, DeviceUnavailableError
from autosam_deploy.runtime.backend import Outputs, memory_error
from autosam_deploy.runtime.nvidia.cudart import probe_driver
from autosam_deploy.runtime.nvidia.plugin import RTX, rtx_device
from autosam_deploy.runtime.ort_options import OrtOptions, session_options

#: Command-line word -> ONNX Runtime's name.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rtx": RTX,
}

#: ONNX Runtime's log levels.
_ERROR, _FATAL = 3, 4

#: The work that a GPU is asked for. Shape arithmetic on the CPU is ONNX Runtime's own plan for
#: graphs with dynamic sizes; any of these there means the provider did not take the model.
_HEAVY = frozenset(
    {
        *("Attention", "MultiHeadAttention", "Softmax", "LayerNormalization"),
        *("MatMul", "FusedMatMul", "Gemm", "FusedGemm"),
        *("Conv", "FusedConv", "ConvTranspose", "Resize"),
    }
)


def import_onnxruntime() -> Any:
    """Import ONNX Runtime, quietly and without telemetry.

    Raises:
        BackendUnavailableError: it is not installed, or broken.
    """
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        raise BackendUnavailableError(
            "backend 'onnxruntime' cannot be loaded",
            got=str(error),
            todo="run: pip install onnxruntime-gpu (or onnxruntime on macOS)",
        ) from error
    # Slices of patients and telemetry do not go together.
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(_ERROR)
    return onnxruntime


def cuda_devices() -> int:
    """Count CUDA devices by the driver's own library; 0 without a driver.

    ONNX Runtime lists its CUDA provider whether or not a device, a driver or the CUDA libraries
    are there, so it cannot be asked.
    """
    return probe_driver().devices


def open_session(
    ort: Any,
    path: Path,
    *,
    provider: str,
    index: int,
    threads: int,
    hints: dict[str, str] | None = None,
    options: OrtOptions | None = None,
    optimised: bool = False,
) -> Any:
    """Load a graph on one provider, or fail.

    Args:
        ort: the `onnxruntime` module.
        path: the graph; its external data lies beside it.
        provider: a key of `PROVIDERS`.
        index: CUDA device number.
        threads: of the CPU, for one run.
        hints: further options of the provider (`engine_cache.build_hints`).
        options: of the session; None is the defaults.
        optimised: the graph is as ONNX Runtime would rewrite it already (`prepared`).

    Raises:
        DeviceUnavailableError: a GPU provider cannot be loaded or did not take the model.
        BackendError: the graph cannot be loaded, or an option is out of range.
    """
    chosen = quiet_options(ort, threads=threads, provider=provider, options=options)
    if optimised:
        chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if provider == "cpu":
        return _create(ort, path, chosen, [PROVIDERS["cpu"]])
    # Not `session.disable_cpu_ep_fallback`: it also refuses the shape arithmetic that ONNX Runtime
    # keeps on the CPU by design, which every graph with dynamic sizes has. The placement of the
    # nodes is read back and judged instead (`work_on_cpu`).
    chosen.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # CUDA and cuDNN from pip's nvidia-* wheels are on no search path; this finds them there. Its
    # complaints are printed, and repeated by what follows.
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
    # A provider that cannot be loaded is an ERROR line on the user's screen and a session on the
    # CPU; the line's reason goes into our error instead.
    ort.set_default_logger_severity(_FATAL)
    try:
        if provider == "rtx":
            # A plugin is engaged by its device; what it does not take goes to the CPU.
            chosen.add_provider_for_devices([rtx_device(ort, index)], hints or {})
            session = _create(ort, path, chosen, None)
        else:
            session = _create(ort, path, chosen, _gpu_providers(provider, index, hints or {}))
    except (BackendUnavailableError, DeviceUnavailableError):
        raise
    except BackendError as error:
        raise DeviceUnavailableError(
            f"ONNX Runtime cannot use {PROVIDERS[provider]}", got=str(error)
        ) from error
    finally:
        ort.set_default_logger_severity(_ERROR)
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise DeviceUnavailableError(
            f"ONNX Runtime did not engage {PROVIDERS[provider]}",
            got=_loader_message(ort, provider) or ", ".join(session.get_providers()),
            todo="install the CUDA and cuDNN libraries it needs, or ask for --device cpu",
        )
    if heavy := sorted(work_on_cpu(session).keys() & _HEAVY):
        raise DeviceUnavailableError(
            f"{PROVIDERS[provider]} left work of the model to the CPU",
            got=", ".join(heavy),
            todo="use another --precision, or ask for --device cpu",
        )
    return session


def quiet_options(ort: Any, *, threads: int, provider: str, options: OrtOptions | None) -> Any:
    """Return a session's options (see `session_options`) with nothing on the user's screen."""
    found = session_options(
        ort, threads=threads, provider=provider, options=options or OrtOptions()
    )
    # What a session logs as an error it also raises: our message has it, once.
    found.log_severity_level = _FATAL
    return found


def run_session(session: Any, slices: NDArray[np.float32], names: tuple[str, ...]) -> Outputs:
    """Compute named outputs of slices (B, 1, H, W).

    Raises:
        OutOfMemoryError: the batch does not fit.
        BackendError: ONNX Runtime failed.
    """
    try:
        results = session.run(list(names), {"slices": slices})
    except Exception as error:
        # ONNX Runtime's exceptions share no base class of their own.
        if full := memory_error(slices, error):
            raise full from error
        raise BackendError("ONNX Runtime failed", got=str(error)) from error
    return dict(zip(names, results, strict=True))


def placement(session: Any) -> dict[str, int]:
    """Count the nodes of a GPU session on each provider; empty where `work_on_cpu` is."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts)


def work_on_cpu(session: Any) -> Counter[str]:
    """Count the nodes of a GPU session that run on the CPU, by operator.

    Empty where ONNX Runtime is too old to tell (before `get_provider_graph_assignment_info`).
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return Counter()
    return Counter(
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == PROVIDERS["cpu"]
        for node in part.get_nodes()
    )


def _gpu_providers(
    provider: str, index: int, hints: dict[str, str]
) -> list[tuple[str, dict[str, str]]]:
    device = {"device_id": str(index)}
    cuda = {
        **device,
        # The default, TF32, rounds float32 products to 10 bits of mantissa: no fp32 any more.
        "use_tf32": "0",
        # The default doubles the arena each time; batches near the device's size would not fit.
        "arena_extend_strategy": "kSameAsRequested",
        # The default tries every algorithm for every new slice size.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    providers = [(PROVIDERS["cuda"], cuda)]
    if provider == "tensorrt":
        # What TensorRT does not take stays on the GPU.
        providers.insert(0, (PROVIDERS["tensorrt"], device | hints))
    return providers


#: ONNX Runtime's words for a graph of an opset that it does not know; the path is no part of them.
_TOO_NEW = "official support for domain"


def _create(ort: Any, path: Path, options: Any, providers: list[Any] | None) -> Any:
    try:
        # With ONNX Runtime's own fallback, a failing GPU moves the session to the CPU, at the
        # start or in the middle of a volume, and prints that on stdout.
        return ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:
        # ONNX Runtime's exceptions share no base class of their own.
        what, said = f"ONNX Runtime cannot load '{path.name}'", str(error)
        if _TOO_NEW in said:
            raise BackendError(
                f"{what}: it has no operators of that opset",
                got=f"ONNX Runtime {ort.__version__}",
                expected="1.23 or newer for opset 23",
                todo="upgrade it, or export again with --lowering explicit",
            ) from error
        raise BackendError(what, got=said[:300]) from error


def _loader_message(ort: Any, provider: str) -> str | None:
    """Return why a provider's library cannot be loaded (after ONNX Runtime tried), if so."""
    pattern = {"win32": "{}.dll"}.get(sys.platform, "lib{}.so")
    name = pattern.format(f"onnxruntime_providers_{provider}")
    library = Path(ort.__file__).parent / "capi" / name
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return None
