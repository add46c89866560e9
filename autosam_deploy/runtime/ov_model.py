"""OpenVINO's side of backend `openvino`: read a graph, cut it by precision, compile, run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from autosam_deploy.errors import BackendError, BackendUnavailableError, MissingExtraError
from autosam_deploy.extras import require

#: OpenVINO's names of precisions and modes, as hints and as what is read back.
HINTS = {"fp32": "f32", "bf16": "bf16"}
MODES = {"latency": "LATENCY", "throughput": "THROUGHPUT"}
REALISED = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}

_MATRIX = 2
#: What OpenVINO's CPU plugin calls products with constant matrices.
_PRODUCTS = frozenset({"FullyConnected", "MatMul"})

#: Work that belongs into the low-precision part of a cut graph, and nowhere else.
_HEAVY = frozenset({"Convolution", "ConvolutionBackpropData", "MatMul"})


@dataclass(frozen=True)
class Settings:
    """How a graph is compiled.

    threads: CPU threads of all runs together. cache: folder for compiled models, None for none.
    mode: a key of `MODES`. streams: runs side by side; None is OpenVINO's own number.
    """

    threads: int
    cache: Path | None = None
    mode: str = "latency"
    streams: int | None = 1


def import_openvino() -> ModuleType:
    """Import OpenVINO.

    Raises:
        BackendUnavailableError: it is not installed, or broken.
    """
    try:
        require("openvino.frontend", extra="openvino", feature="backend 'openvino'")
        return require("openvino", extra="openvino", feature="backend 'openvino'")
    except MissingExtraError as error:
        raise BackendUnavailableError(str(error)) from error


def read_graph(ov: ModuleType, path: Path) -> Any:
    """Read an ONNX graph and the weights beside it.

    Raises:
        BackendError: it cannot be read.
    """
    try:
        # Not `Core.read_model`: it offers a broken file to the readers of all other formats, whose
        # complaints land on the user's screen.
        frontend = ov.frontend.FrontEndManager().load_by_framework("onnx")
        return frontend.convert(frontend.load(str(path)))
    except Exception as error:
        # OpenVINO's exceptions share no base class of their own.
        raise BackendError(
            f"OpenVINO cannot read '{path.name}'", got=_reason(error), todo="export again"
        ) from error


class Chain:
    """A graph compiled in one part or in several that run one after the other."""

    def __init__(self, ov: ModuleType, model: Any, precision: str, settings: Settings) -> None:
        """Compile for the CPU.

        Args:
            ov: the `openvino` module.
            model: from `read_graph`.
            precision: a key of `HINTS`. In bf16 whatever comes before the first and after the last
                heavy operation stays in float32.
            settings: threads and cache.

        Raises:
            BackendError: the graph cannot be compiled, or not in this precision.
        """
        core = ov.Core()
        parts = [(model, precision)] if precision == "fp32" else cut_graph(ov, model, precision)
        try:
            self._compiled = [
                core.compile_model(part, "CPU", _properties(name, settings)) for part, name in parts
            ]
        except Exception as error:
            raise BackendError("OpenVINO cannot compile the graph", got=_reason(error)) from error
        for compiled, (part, name) in zip(self._compiled, parts, strict=True):
            if (found := _realised(compiled)) != name:
                raise BackendError("OpenVINO did not take the precision", got=found, expected=name)
            _check_integers(part, compiled)
        #: Of the part that holds the encoder, as OpenVINO states it.
        self.precision = _realised(max(self._compiled, key=_size))
        self.threads = int(self._compiled[0].get_property("INFERENCE_NUM_THREADS"))
        #: How many runs go on side by side, each with a share of the threads.
        self.streams = min(int(one.get_property("NUM_STREAMS")) for one in self._compiled)
        self.devices = ", ".join(self._compiled[0].get_property("EXECUTION_DEVICES"))
        self.cached = all(_from_cache(compiled) for compiled in self._compiled)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run every part; threads may do so at the same time.

        Args:
            inputs: the graph's inputs by name, contiguous.

        Returns:
            Every output by name: memory of OpenVINO, to be copied.

        Raises:
            MemoryError: a part gave nothing.
        """
        tensors = dict(inputs)
        for compiled in self._compiled:
            wanted = {port.any_name: tensors[port.any_name] for port in compiled.inputs}
            # Where memory runs out, OpenVINO 2026.4 may return without an error, and a request
            # that ran before then gives what it gave before. A new one gives empty arrays.
            request = compiled.create_infer_request()
            found = request.infer(wanted, share_inputs=True, share_outputs=True)
            for port in compiled.outputs:
                if found[port].size == 0:
                    raise MemoryError(f"OpenVINO returned an empty '{port.any_name}'")
                tensors[port.any_name] = found[port]
        return tensors

    def precisions(self) -> list[set[tuple[str, str]]]:
        """Return for every part which kinds of layers run in which precision, once it has run."""
        return [set(_layers(compiled)) for compiled in self._compiled]

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return not self._compiled

    def close(self) -> None:
        """Free everything."""
        self._compiled.clear()


def cut_graph(ov: ModuleType, model: Any, precision: str) -> list[tuple[Any, str]]:
    """Cut a graph into normalisation, encoder and head, and last resize with argmax.

    OpenVINO has one precision for a compiled model and rounds its inputs first. Intensities of
    31000 to 31100 are two values in bf16: the slice would be lost before it is normalised. So what
    comes before the first convolution, and what follows the input of the last resize, are models
    of their own, in float32.

    Args:
        ov: the `openvino` module.
        model: from `read_graph`; it is left as it is.
        precision: of the part between the cuts.

    Returns:
        (model, precision) in the order in which they run.

    Raises:
        BackendError: the graph has no convolution, or its first one takes raw slices.
    """
    ops = model.get_ordered_ops()
    first = next((op for op in ops if op.get_type_name() == "Convolution"), None)
    if first is None or first.input_value(0).get_node().get_type_name() == "Parameter":
        raise BackendError(
            f"the graph cannot run in {precision}",
            got="no normalisation before a first convolution",
            expected="a graph that autosam-export wrote",
            todo="use --precision fp32",
        )
    front, rest = _cut(ov, model, first.get_friendly_name(), tensor="autosam_image")
    parts = [(front, "fp32"), (rest, precision)]
    resizes = [op for op in rest.get_ordered_ops() if op.get_type_name() == "Interpolate"]
    if resizes:
        middle, tail = _cut(ov, rest, resizes[-1].get_friendly_name(), tensor="autosam_logits")
        # Else the tail would be the encoder a second time, in float32.
        if not any(op.get_type_name() in _HEAVY for op in tail.get_ops()):
            parts[1:] = [(middle, precision), (tail, "fp32")]
    return parts


def _cut(ov: ModuleType, model: Any, node: str, *, tensor: str) -> tuple[Any, Any]:
    """Return the model up to the first input of a node, and the rest with that as an input."""
    first, rest = model.clone(), model.clone()
    source = _source(first, node)
    source.set_names({tensor})
    used = _reached([source])
    front = ov.Model(
        [source], [p for p in first.get_parameters() if p.get_friendly_name() in used], tensor
    )
    source = _source(rest, node)
    parameter = ov.op.Parameter(source.get_element_type(), source.get_partial_shape())
    parameter.set_friendly_name(tensor)
    parameter.output(0).set_names({tensor})
    for target in source.get_target_inputs():
        target.replace_source_output(parameter.output(0))
    results = rest.get_results()
    used = _reached([value for result in results for value in result.input_values()])
    parameters = [p for p in rest.get_parameters() if p.get_friendly_name() in used]
    return front, ov.Model(results, [*parameters, parameter], f"after_{tensor}")


def _source(model: Any, node: str) -> Any:
    (found,) = [op for op in model.get_ops() if op.get_friendly_name() == node]
    return found.input_value(0)


def _reached(values: list[Any]) -> set[str]:
    """Return the names of all operations that values depend on."""
    seen: set[str] = set()
    todo = [value.get_node() for value in values]
    while todo:
        op = todo.pop()
        if op.get_friendly_name() not in seen:
            seen.add(op.get_friendly_name())
            todo += [value.get_node() for value in op.input_values()]
    return seen


def _properties(precision: str, settings: Settings) -> dict[str, Any]:
    properties: dict[str, Any] = {
        # OpenVINO's own choice is bf16 on every CPU that has it.
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "PERFORMANCE_HINT": MODES[settings.mode],
        "INFERENCE_NUM_THREADS": settings.threads,
        # Pinned, the threads of every process on a machine would share its first cores.
        "ENABLE_CPU_PINNING": False,
    }
    if settings.streams is not None:
        properties["NUM_STREAMS"] = settings.streams
    if settings.cache is not None:
        properties["CACHE_DIR"] = str(settings.cache)
    return properties


def _realised(compiled: Any) -> str:
    name = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return REALISED.get(name, str(name))


def _check_integers(model: Any, compiled: Any) -> None:
    """Refuse a model whose quantized layers OpenVINO computes in floats after all."""
    wanted = sum(
        op.get_type_name() == "Constant"
        and op.get_element_type().get_type_name() == "i8"
        and len(op.get_shape()) == _MATRIX
        for op in model.get_ops()
    )
    found = sum(
        kind in _PRODUCTS and precision in ("u8", "i8") for kind, precision in _layers(compiled)
    )
    if found < wanted:
        raise BackendError(
            "OpenVINO does not run all quantized layers in integers",
            got=f"{found} of {wanted}",
            todo="use --precision fp32, or --backend onnxruntime",
        )


def _layers(compiled: Any) -> list[tuple[str, str]]:
    """Return kind and precision of every layer that OpenVINO made."""
    found = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    return [
        (str(info["layerType"].astype(str)), str(info["runtimePrecision"].astype(str)))
        for info in found
    ]


def _size(compiled: Any) -> int:
    return len(compiled.get_runtime_model().get_ops())


def _from_cache(compiled: Any) -> bool:
    # A property that only models compiled with a cache have.
    with contextlib.suppress(RuntimeError):
        return bool(compiled.get_property("LOADED_FROM_CACHE"))
    return False


def _reason(error: Exception) -> str:
    """Return the end of OpenVINO's message, which begins with lines of its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith("Exception from"))[-300:]
