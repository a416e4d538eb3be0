"""Alphas: the architecture parameters of one choice, as a table of probabilities."""

import math

import torch
from torch import Tensor, nn


class Alphas(nn.Module):
    """Probabilities p(operation, width) of one choice; zeros = uniform.

    Factorised: p(o, b) = p(o) p(b), two vectors. Joint: one vector over all pairs, as published
    (arXiv 2208.14839); the widths then depend on the operation.
    """

    def __init__(self, ops: int, widths: int, joint: bool = False) -> None:
        super().__init__()
        self.ops, self.widths, self.joint = ops, widths, joint
        if joint:
            self.pair = nn.Parameter(torch.zeros(ops, widths))
        else:
            self.op, self.width = (
                nn.Parameter(torch.zeros(ops)),
                nn.Parameter(torch.zeros(widths)),
            )

    def log_table(self) -> Tensor:
        """(ops, widths), ln p(o, b); stable near one-hot."""
        if self.joint:
            return self.pair.flatten().log_softmax(0).view(self.ops, self.widths)
        return self.op.log_softmax(0)[:, None] + self.width.log_softmax(0)

    def table(self) -> Tensor:
        """(ops, widths), p(o, b), summing to one."""
        return self.log_table().exp()

    def learning(self) -> list[nn.Parameter]:
        """The parameters that have something to choose."""
        return [alpha for alpha in self.parameters() if alpha.numel() > 1]

    def entropy(self) -> Tensor:
        """(), in nats."""
        log_p = self.log_table()
        return -(log_p.exp() * log_p).sum()

    @property
    def most(self) -> float:
        """The largest entropy that there can be, in nats."""
        return math.log(self.ops * self.widths)

    @torch.no_grad()
    def best(self) -> tuple[int, int]:
        """(operation, width) of the largest probability."""
        return divmod(int(self.log_table().argmax()), self.widths)

    @torch.no_grad()
    def collapse(self, op: int, width: int) -> None:
        """Give all probability to one pair, in place."""
        for alpha in self.parameters():
            alpha.fill_(-1e9)
        if self.joint:
            self.pair[op, width] = 0.0
        else:
            self.op[op] = self.width[width] = 0.0
