"""Alphas: the architecture parameters of one choice, read as a table of probabilities."""

import math

import torch
from torch import Tensor, nn


class Alphas(nn.Module):
    """Learned probabilities p(o, b) of the operations o and bit widths b of one choice.

    Factorised: p(o, b) = p(o) p(b), two vectors. Joint: one table over all pairs, as published
    (arXiv 2208.14839); the bit widths then depend on the operation. All parameters start as zeros,
    which is the uniform distribution.
    """

    def __init__(self, ops: int, widths: int, joint: bool = False) -> None:
        super().__init__()
        self.ops, self.bit_widths, self.joint = ops, widths, joint
        if joint:
            self.pair = nn.Parameter(torch.zeros(ops, widths))
        else:
            self.op, self.width = (
                nn.Parameter(torch.zeros(ops)),
                nn.Parameter(torch.zeros(widths)),
            )

    def log_table(self) -> Tensor:
        """ln p(o, b) as a table (ops, widths), numerically stable near one-hot."""
        if self.joint:
            return self.pair.flatten().log_softmax(0).view(self.ops, self.bit_widths)
        return self.op.log_softmax(0)[:, None] + self.width.log_softmax(0)

    def table(self) -> Tensor:
        """p(o, b) as a table (ops, widths) whose sum is one."""
        return self.log_table().exp()

    def learning(self) -> list[nn.Parameter]:
        """The parameters with more than one entry, the only ones that have something to learn."""
        return [alpha for alpha in self.parameters() if alpha.numel() > 1]

    def entropy(self) -> Tensor:
        """The entropy () of p(o, b), in nats."""
        log_p = self.log_table()
        return -(log_p.exp() * log_p).sum()

    @property
    def most(self) -> float:
        """The entropy of the uniform distribution, which is the largest possible one, in nats."""
        return math.log(self.ops * self.bit_widths)

    @torch.no_grad()
    def best(self) -> tuple[int, int]:
        """The indices (operation, bit width) of the most probable pair."""
        return divmod(int(self.log_table().argmax()), self.bit_widths)

    @torch.no_grad()
    def collapse(self, op: int, width: int) -> None:
        """Give all probability to one pair of operation and bit width, in place."""
        for alpha in self.parameters():
            alpha.fill_(-1e9)
        if self.joint:
            self.pair[op, width] = 0.0
        else:
            self.op[op] = self.width[width] = 0.0
