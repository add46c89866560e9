"""Taps: the boundaries between the blocks of a fused module, by name, in PyTorch and in its graph.

A boundary is what one module hands to the next: the encoder's input, the tokens behind the patch
embedding, the residual stream behind every block, the embedding, the head's low-resolution logits
and the logits. Its name is the module's path ("encoder.blocks.3"), and the value of the exported
graph that holds it has the same name, so any tool that can add an output to an ONNX graph can look
there. A graph's own outputs keep their names: "output" is called "logits" where that is an output.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_BOUNDARY = re.compile(r"input|encoder\.patches|encoder\.blocks\.\d+|encoder\.neck|head|output")

#: Where PyTorch's exporter leaves the module path of a node: a list of ever deeper paths as Python
#: writes it, ending in the node's own name.
_SCOPES = "pkg.torch.onnx.name_scopes"


def boundaries(module: nn.Module) -> tuple[str, ...]:
    """Return the names of a fused module's boundaries, in the order in which they are computed."""
    return tuple(name for name, _ in module.named_modules() if _BOUNDARY.fullmatch(name))


@contextmanager
def recorded(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary that every run inside the block fills: boundary name -> tensor.

    Copies of the module that are made inside the block fill it as well (`rounding.run_typed` runs
    such a copy). A boundary that is computed again replaces what was there.

    Args:
        module: a fused segmenter or embedder, in any dtype.
    """
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        # A plain function: a deep copy of the module shares it, a bound method would be copied.
        def keep(_module: nn.Module, _inputs: Any, result: Tensor) -> None:
            found[name] = result

        return keep

    handles = [
        module.get_submodule(name).register_forward_hook(hook(name)) for name in boundaries(module)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def name_taps(graph: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    """Give the values of a freshly traced graph that are boundaries their names.

    A module's result is the last of its floating-point values that is used outside of it.

    Args:
        graph: `onnx_ir.Graph` whose nodes still carry the exporter's metadata.
        names: module paths, see `boundaries`.

    Returns:
        The names that are in the graph now. A name is missing where the exporter kept no module
        paths, or where the value is one of the graph's outputs, which keep their names.
    """
    outputs = {id(value) for value in graph.outputs}
    taken = _value_names(graph)
    scopes = {id(node): _scopes(node) for node in graph}
    given = []
    for name in names:
        value = None
        for node in graph:
            if name not in scopes[id(node)]:
                continue
            for result in node.outputs:
                used = (use.node for use in result.uses())
                leaves = id(result) in outputs or any(name not in scopes[id(n)] for n in used)
                if leaves and (result.dtype is None or result.dtype.is_floating_point()):
                    value = result
        if value is not None and id(value) not in outputs and name not in taken:
            value.name = name
            given.append(name)
    return tuple(given)


def _value_names(graph: Any) -> set[str]:
    values = [*graph.inputs, *graph.initializers.values()]
    values += [result for node in graph for result in node.outputs]
    return {value.name for value in values}


def _scopes(node: Any) -> frozenset[str]:
    """Return the paths of the modules that a node was traced in; empty where they are not known."""
    try:
        paths = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return frozenset()
    return frozenset(paths[:-1]) if isinstance(paths, list) else frozenset()
