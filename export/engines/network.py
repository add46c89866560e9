"""A typed ONNX graph as TensorRT reads it, and what must be true of it before it is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.errors import ExportError

#: Layers that arrange data without computing; their dtype is their neighbours'.
_ARRANGING = frozenset(
    {
        *("CONSTANT", "CAST", "SHUFFLE", "SLICE", "CONCATENATION", "IDENTITY", "SHAPE", "GATHER"),
        *("SQUEEZE", "UNSQUEEZE", "SELECT", "PADDING", "FILL", "ASSERTION"),
    }
)
#: Where a model's arithmetic is.
_HEAVY = frozenset({"MATRIX_MULTIPLY", "CONVOLUTION", "DECONVOLUTION", "ATTENTION_OUTPUT"})
#: Layers that can hold a score for every pair of tokens; images of that size are none.
_SCORING = frozenset({"MATRIX_MULTIPLY", "SOFTMAX"})


@dataclass(frozen=True)
class NetworkFacts:
    """What a network says of itself.

    layers: all. computing: layers with floating-point results that are more than arrangement.
    low: those of them in low precision. attentions: attention layers, each one kernel (TensorRT
    does not take such a layer apart unless told so, and the ONNX parser does not tell it).
    heavy_fp32: names of matrix products and convolutions in float32. norms_low: names of
    normalisations in low precision. square: names of layers whose result holds a score for every
    pair of tokens.
    """

    layers: int
    computing: int
    low: int
    attentions: int
    heavy_fp32: tuple[str, ...]
    norms_low: tuple[str, ...]
    square: tuple[str, ...]

    @property
    def low_share(self) -> float:
        """Share (0..1) of computing layers in low precision."""
        return self.low / self.computing if self.computing else 0.0


def parse_graph(module: Any, *, builder: Any, logger: Any, path: Path) -> tuple[Any, Any]:
    """Read a graph into a strongly typed network.

    Args:
        module: the family's library.
        builder: its builder.
        logger: from `make_logger`.
        path: the graph, external data beside it.

    Returns:
        Network and parser; the network lives no longer than the parser.

    Raises:
        ExportError: naming the first node that the library cannot take.
    """
    flags = module.NetworkDefinitionCreationFlag
    # TensorRT 11 and RTX know no other kind of network; 10.x has to be told.
    typed = getattr(flags, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    if typed is not None and not network.get_flag(typed):
        raise ExportError("the builder did not make a strongly typed network", todo="upgrade it")
    mark = logger.mark()
    parser = module.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        raise ExportError(
            f"{module.__name__} cannot read '{path.name}'",
            got=_first_error(parser) or logger.errors(mark)[:300],
            todo="export again, or upgrade the library",
        )
    return network, parser


def _first_error(parser: Any) -> str:
    """Return node, operator and reason of the parser's first error, "" without one."""
    if not parser.num_errors:
        return ""
    error = parser.get_error(0)
    return f"node '{error.node_name()}' ({error.node_operator()}): {error.desc()}"


def inspect_network(network: Any, *, scores: frozenset[tuple[int, int]]) -> NetworkFacts:
    """Read types and shapes of every layer.

    Args:
        network: strongly typed, so each layer's dtype is final.
        scores: (heads, tokens) that attend together (`fused.encoders.score_shapes`): a result (B,
            heads, tokens, tokens) holds scores.
    """
    squares = {(heads, tokens, tokens) for heads, tokens in scores}
    low = computing = attentions = 0
    heavy, norms, square = [], [], []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = layer.type.name
        attentions += kind == "ATTENTION_OUTPUT"
        if not layer.num_outputs:
            continue
        result = layer.get_output(0)
        dtype = result.dtype.name
        shape = tuple(result.shape)
        # The head's products may be as wide as they are long, with classes in the place of heads.
        if kind in _SCORING and shape[1:] in squares:
            square.append(layer.name)
        if dtype not in ("FLOAT", "HALF", "BF16") or kind in _ARRANGING:
            continue
        computing += 1
        low += dtype != "FLOAT"
        if kind in _HEAVY and dtype == "FLOAT":
            heavy.append(layer.name)
        if kind == "NORMALIZATION" and dtype != "FLOAT":
            norms.append(layer.name)
    return NetworkFacts(
        layers=network.num_layers,
        computing=computing,
        low=low,
        attentions=attentions,
        heavy_fp32=tuple(heavy),
        norms_low=tuple(norms),
        square=tuple(square),
    )


def check_network(facts: NetworkFacts, artefact: Artefact, *, attentions: int) -> None:
    """Refuse a network that is not what the graph's typing promised.

    Args:
        facts: of the network.
        artefact: the graph; fp32 graphs promise nothing beyond their contract.
        attentions: of the encoder, each in a block of its own.

    Raises:
        ExportError: low precision got lost, an island is not float32, attention is not fused.
    """
    if artefact.precision == "fp32":
        return
    what = f"the network of '{artefact.file.path}'"
    if facts.norms_low:
        raise ExportError(f"{what} normalises in low precision", got=", ".join(facts.norms_low[:3]))
    # A logits island holds one product; one that calibration moved to float32 may hold several.
    reasons = [island.reason for island in artefact.typing.islands] if artefact.typing else []
    if "range" not in reasons and len(facts.heavy_fp32) > reasons.count("logits"):
        raise ExportError(
            f"{what} computes products in float32",
            got=", ".join(facts.heavy_fp32[:3]),
            expected=f"all but {reasons.count('logits')} in {artefact.precision}",
        )
    if facts.attentions < attentions or facts.square:
        raise ExportError(
            f"attention in {what} is not one layer a block",
            got=f"{facts.attentions} attention layers for {attentions} blocks; "
            f"{len(facts.square)} tensors of scores",
            todo="export again: --fp16 writes the graph that engines are built from",
        )
