"""Filling: what a macro-architecture asks for. Supernet, network and cost each bring their own."""

from typing import Protocol

from torch import nn

from .quantizer import ActQuantizer, Sign
from .space import Slot


class Filling(Protocol):
    """What a skeleton is made of; every kind of network brings its own three."""

    def edge(self, slot: Slot, source: ActQuantizer) -> nn.Module:
        """The module of a slot: (N, c_in, H, W) on the grid of `source` -> (N, c_out, H', W')."""

    def tensor(self, signed: Sign = False, step: float | None = None) -> ActQuantizer:
        """The grid on which a tensor is carried between edges, in 8 bits."""

    def residual(self, channels: int) -> nn.Module:
        """(branch, skip) -> the branch as it is added to the skip; all (N, channels, H, W).

        While searching this is a batch norm with adaptive deviation. It is folded into the edge
        that the module holding it as `residual` names as its `branch_end`: the branch is what
        that edge gives.
        """
