"""The multiply-accumulates of the layers of an imported network that stay in float."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

NORMS = (F.batch_norm, F.instance_norm, F.layer_norm, F.group_norm)

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a node -> shape of the tensor that it computes."""


def float_cost(node: fx.Node, module: Any, shapes: Sequence[Shapes]) -> Any:
    """Operation, shape, and multiply-accumulates at every size of a float layer; None otherwise."""
    made = [math.prod(each[node.name]) for each in shapes]
    read = [each.get(n.name, ()) for n in node.all_input_nodes[:1] for each in shapes]
    if isinstance(module, nn.Linear):
        each = module.in_features
        return "linear", (module.out_features, each, 1, 1), [n * each for n in made]
    if isinstance(module, nn.Conv1d):
        c_out, c_in, side = module.weight.shape
        return "conv1d", (c_out, c_in, side, 1), [n * c_in * side for n in made]
    if isinstance(module, nn.ConvTranspose2d):
        c_in, more, *sides = module.weight.shape
        shape = (more * module.groups, c_in // module.groups, *sides)
        return "upconv", shape, [math.prod(s) * more * math.prod(sides) for s in read]
    if node.target is torch.matmul:
        inner = [s[-1] for s in read]
        same = len({*inner}) == 1
        macs = [n * k for n, k in zip(made, inner, strict=True)]
        return "product", (1, inner[0] if same else 1, 1, 1), macs
    if node.target is torch.einsum and len(node.all_input_nodes) <= 2:
        macs = [_einsum_cost(str(node.args[0]), node, each) for each in shapes]
        inner = [n // max(1, m) for n, m in zip(macs, made, strict=True)]
        return "product", (1, inner[0] if len({*inner}) == 1 else 1, 1, 1), macs
    if node.target in NORMS:
        deep: Any = node.args[1] if node.target is F.layer_norm else shapes[0][node.name][1:2]
        return "normalisation", (math.prod(deep), 1, 1, 1), made
    return None


def _einsum_cost(equation: str, node: fx.Node, shapes: Shapes) -> int:
    """Multiply-accumulates of an Einsum: the product of the sides of all its letters."""
    sides: dict[str, int] = {}
    for letters, read in zip(equation.split("->")[0].split(","), node.args[1:], strict=True):
        assert isinstance(read, fx.Node)
        shape = shapes[read.name]
        before, _, behind = letters.partition("...")
        last = len(shape) - len(behind)
        pairs = [*zip(before, shape, strict=False), *zip(behind, shape[last:], strict=True)]
        more = enumerate(reversed(shape[len(before) : last]), 1) if "..." in letters else ()
        for letter, side in [*pairs, *((f"...{k}", side) for k, side in more)]:
            sides[letter] = max(side, sides.get(letter, 1))
    return math.prod(sides.values())
