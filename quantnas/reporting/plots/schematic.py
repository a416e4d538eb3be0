"""Symbols of a network's picture: its edges, sums and concatenations, and what each reads.

Everything else in the trace (grids, slices, shapes) is part of a wire; activations are labels.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from quantnas.architectures.imported_onnx import ImportedNetwork
from quantnas.nn.convolutions import Conv2d
from quantnas.nn.operations import Chain
from quantnas.nn.tracing import CALL, Tracer
from quantnas.onnx_import.graph_builder import NODE

ACTIVATIONS = {
    "relu": "ReLU", "leaky_relu": "LeakyReLU", "prelu": "PReLU", "sigmoid": "sigmoid",
    "tanh": "tanh", "gelu": "GELU", "silu": "SiLU",
}  # fmt: skip
"""Function, or lower-case name of a module -> label."""
JUNCTIONS = {"add": "+", "iadd": "+", "mul": "*", "cat": "concatenate"}
"""Function of several tensors -> label; the others are labelled with their own name."""
SINGLE = {
    "pixel_shuffle": "pixel shuffle x{}", "pixelshuffle": "pixel shuffle",
    "repeat_interleave": "every pixel {} times", "enlarge": "bilinear x{}",
    "interpolate": "interpolate", "resize_like": "bilinear", "max_pool2d": "max pool",
    "contrast": "contrast of a channel", "luma": "luma",
}  # fmt: skip
"""Function of one tensor that has a box of its own, or lower-case name of a module -> label.

Braces stand for the function's second argument.
"""
SIZES = ("size", "getattr", "shape", "dim")
"""Functions that return sizes of a tensor, and are not drawn."""


@dataclass(frozen=True)
class Symbol:
    """A box or a sign of the picture."""

    key: str
    """Unique name; the slot's name for an edge."""
    label: str
    sources: tuple[str, ...] = ()
    """Keys of the symbols whose outputs it reads."""
    before: str = ""
    """Activation on the inputs."""
    after: str = ""
    """Activation on the output, common to all readers."""
    group: str = ""
    """Repeated part of the network that contains the symbol, such as a cell."""
    is_edge: bool = False

    @property
    def is_sign(self) -> bool:
        """Whether the symbol is the sign of a sum or product."""
        return self.label in ("+", "*")


class _Tracer(Tracer):
    """Tracer that keeps a chosen identity operation as a node."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        empty = isinstance(m, Chain) and not len(m)
        return empty or super().is_leaf_module(m, module_qualified_name)


Read = dict[str, str]
"""Key of a symbol -> the activation that its output has passed."""


def symbols(network: nn.Module, slots: Collection[str]) -> list[Symbol]:
    """Return the symbols of a decided network in execution order, from input to output.

    slots: names of the slots, which are drawn as edges.
    """
    inner = network.inner if isinstance(network, ImportedNetwork) else network
    graph = inner.graph if isinstance(inner, fx.GraphModule) else _Tracer().trace(inner)
    values, found, reads = dict[fx.Node, Read](), dict[str, Symbol](), dict[str, Read]()
    for node in graph.nodes:
        read = _read(node, values)
        module = inner.get_submodule(str(node.target)) if node.op == CALL else None
        name = type(module).__name__.lower() if module else _function(node)
        if name in ACTIVATIONS:
            values[node] = dict.fromkeys(read, ACTIVATIONS[name])
            continue
        symbol = _symbol(node, module, name, read, slots)
        if symbol is None:
            values[node] = {} if name in SIZES else read
            continue
        if symbol.key not in found:  # not the second convolution of an edge
            found[symbol.key], reads[symbol.key] = symbol, read
        values[node] = {symbol.key: ""}
    return list(_grouped(list(_activated(found.values(), reads))))


def _read(node: fx.Node, values: Mapping[fx.Node, Read]) -> Read:
    """Return the symbols that a node computes with, without a tensor that only gives a size."""
    inputs = node.all_input_nodes
    if _function(node) == "resize_like":
        inputs = inputs[:1]
    return {key: act for value in inputs for key, act in values[value].items()}


def _function(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _symbol(
    node: fx.Node, module: nn.Module | None, name: str, read: Read, slots: Collection[str]
) -> Symbol | None:
    """Return the symbol of a node, if it has one."""
    sources, group = tuple(read), _repeated(node)
    slot = _slot(node, module, slots)
    if slot:
        return Symbol(slot, slot, sources, group=group, is_edge=True)
    if node.op == "placeholder":
        return Symbol(node.name, "LR image")
    if node.op == "output":
        return Symbol(node.name, "SR image", sources)
    if isinstance(module, Chain):
        return Symbol(node.name, "identity", sources, group=group)
    if len(sources) > 1:
        return Symbol(node.name, JUNCTIONS.get(name, name), sources, group=group)
    if name in SINGLE and sources:
        return Symbol(node.name, SINGLE[name].format(*node.args[1:2]), sources, group=group)
    return None


def _slot(node: fx.Node, module: nn.Module | None, slots: Collection[str]) -> str:
    """Return the slot that a node belongs to, or an empty string."""
    title: Any = node.target if module is not None else node.meta.get(NODE) or node.name
    name = re.sub(r"\W+", "_", str(title), flags=re.ASCII).strip("_")
    if isinstance(module, Conv2d):
        name = module.name if module.name in slots else module.name.rpartition(".")[0]
    return name if name in slots else ""


def _repeated(node: fx.Node) -> str:
    """Return the path of the outermost entry of a module list that contains a node."""
    paths = node.meta.get("nn_module_stack", {})
    return next((path for path in paths if re.fullmatch(r"\w+\.\d+", path)), "")


def _activated(found: Iterable[Symbol], reads: Mapping[str, Read]) -> Iterator[Symbol]:
    """Yield symbols with their output activation or, if readers differ, with input activations."""
    behind: dict[str, set[str]] = {}
    for read in reads.values():
        for key, activation in read.items():
            behind.setdefault(key, set()).add(activation)
    common = {key: acts.pop() for key, acts in behind.items() if len(acts) == 1}
    for symbol in found:
        before = {act for key, act in reads[symbol.key].items() if key not in common}
        after = common.get(symbol.key, "")
        yield replace(symbol, before=" ".join(sorted(before - {""})), after=after)


def _grouped(symbols: Sequence[Symbol]) -> Iterator[Symbol]:
    """Name groups by the common prefix of their edges, "cell0" of "cell0_body0" and "cell0_fuse".

    Groups of a single edge, and those without a common prefix, are dissolved.
    """
    titles = dict[str, str]()
    for group in {symbol.group for symbol in symbols} - {""}:
        edges = [symbol.key for symbol in symbols if symbol.group == group and symbol.is_edge]
        prefixes = {key.partition("_")[0] for key in edges if "_" in key}
        titles[group] = prefixes.pop() if len(prefixes) == 1 < len(edges) else ""
    for symbol in symbols:
        title = titles.get(symbol.group, "")
        label = symbol.label.removeprefix(f"{title}_") if title else symbol.label
        yield replace(symbol, group=title, label=label)
