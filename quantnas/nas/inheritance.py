"""Copying the weights of a supernet into the network that was decided in it."""

from typing import cast

import torch
from torch import nn

from quantnas.architectures.network import scale_outputs
from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.nn.quantizers import ActQuantizer

from .adaptive_norm import Adq
from .search_conv import SearchConv2d
from .supernet import MixedOp


@torch.no_grad()
def inherit_supernet(network: nn.Module, searched: nn.Module) -> None:
    """Copy the chosen candidates' weights and grids into a network, with ADQ folded, in place.

    searched: the supernet, collapsed. In evaluation mode the network then computes the same as the
    supernet, but that the deviation of each image is replaced by its running mean.
    """
    grids = {n: m for n, m in searched.named_modules() if isinstance(m, ActQuantizer)}
    for path, module in network.named_modules():
        if isinstance(module, ActQuantizer) and path in grids:
            module.load_state_dict(grids[path].state_dict())
    for path, mixed in searched.named_modules():
        if isinstance(mixed, MixedOp):
            _copy_choice(mixed, network.get_submodule(path))
    for path, adq in searched.named_modules():
        if isinstance(adq, Adq):
            owner = network.get_submodule(path.rpartition(".")[0])
            factor, shift = adq.folded()
            last = _convs(owner.get_submodule(cast(str, owner.branch_end)))[-1]
            scale_outputs(last, factor)
            last.bias.add_(shift)  # type: ignore[union-attr]


def _convs(op: nn.Module) -> list[Conv2d]:
    return [m for m in op.modules() if isinstance(m, Conv2d)]


def _search_convs(op: nn.Module) -> list[SearchConv2d]:
    return [m for m in op.modules() if isinstance(m, SearchConv2d)]


def _copy_choice(mixed: MixedOp, op: nn.Module) -> None:
    """Copy the most probable candidate of an edge, multiplied by the edge's gain."""
    at_op, at_width = mixed.alphas.best()
    slot = mixed.slot
    width, targets = slot.bit_widths[at_width], _convs(op)
    chosen = mixed.ops[slot.ops[at_op]]
    for source, target in zip(_search_convs(chosen), targets, strict=True):
        target.weight.copy_(source.unit_weight())
        target.bias.copy_(source.bias)  # type: ignore[union-attr, arg-type]
        if isinstance(target, QuantConv2d):
            weights = source.weight_quantizers[slot.weight_bits.index(width.weights)]
            target.weight_quantizer.load_state_dict(weights.state_dict())
            if target.input_quantizer is not None:
                grids = (source.grids or mixed.inputs).quantizers
                grid = grids[slot.act_bits.index(width.activations)]
                target.input_quantizer.load_state_dict(grid.state_dict(), strict=False)
    if targets:
        scale_outputs(targets[-1], mixed.gain()[:: targets[-1].up ** 2])
