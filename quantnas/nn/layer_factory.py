"""What a macro-architecture asks for its parts; each kind of network has its own factory."""

from typing import Protocol

from torch import Tensor, nn

from quantnas.config.search_space import Slot

from .quantizers import ActQuantizer


class LayerFactory(Protocol):
    """What a skeleton is made of; every kind of network brings its own four."""

    def edge(self, slot: Slot, source: ActQuantizer) -> nn.Module:
        """The module of a slot: (N, c_in, H, W) on the grid of `source` -> (N, c_out, H', W')."""

    def tensor(self, signed: bool = False, step: float | None = None) -> ActQuantizer:
        """The grid on which a tensor is carried between edges, in 8 bits."""

    def free(self, signed: bool = False) -> ActQuantizer:
        """A tensor that is carried in float: every edge that reads it rounds it by itself."""

    def residual(self, channels: int) -> nn.Module:
        """(branch, skip) -> the branch as it is added to the skip; all (N, channels, H, W).

        While searching this is a batch norm with adaptive deviation. It is folded into the edge
        that the module holding it as `residual` names as its `branch_end`: the branch is what
        that edge gives.
        """


class PlainSum(nn.Module):
    """The branch as it is: residuals without normalisation, or with it folded."""

    def forward(self, branch: Tensor, skip: Tensor) -> Tensor:
        return branch
