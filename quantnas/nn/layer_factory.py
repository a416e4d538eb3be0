"""The layer factory: the interface through which a macro-architecture builds its layers.

Each kind of network (supernet, quantized, float) has a factory of its own.
"""

from typing import Protocol

from torch import Tensor, nn

from quantnas.config.search_space import Slot

from .quantizers import ActQuantizer


class LayerFactory(Protocol):
    """Builder of the four kinds of layers that a macro-architecture consists of."""

    def edge(self, slot: Slot, source: ActQuantizer) -> nn.Module:
        """Build the module of a slot, (N, c_in, H, W) -> (N, c_out, H', W').

        source: the grid on which its input arrives.
        """

    def tensor(self, signed: bool = False, step: float | None = None) -> ActQuantizer:
        """Build the 8-bit grid on which a tensor is carried between edges.

        signed: whether the tensor has negative values. step: a fixed step; None = a learned one.
        """

    def free(self, signed: bool = False) -> ActQuantizer:
        """Build the stand-in for a tensor in float, which every edge that reads it rounds anew."""

    def carried(self, name: str, signed: bool = False, step: float | None = None) -> ActQuantizer:
        """Build the grid of a named tensor, as `tensor`; as `free` where it is carried in float."""

    def residual(self, channels: int) -> nn.Module:
        """Build a module (branch, skip) -> the branch to add to the skip; all (N, channels, H, W).

        During a search it is a batch norm with adaptive deviation, which is later folded into an
        edge: the parent module holds it as `residual` and names, as its `branch_end`, the edge
        whose output is the branch.
        """


class PlainSum(nn.Module):
    """A residual that returns the branch unchanged: without normalisation, or with it folded."""

    def forward(self, branch: Tensor, skip: Tensor) -> Tensor:
        return branch
