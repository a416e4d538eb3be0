"""ADQ, a batch norm whose output follows the deviation of the skip, and a plain batch norm."""

from typing import cast

import torch
from torch import Tensor, nn

from quantnas.training import collectives


class Adq(nn.Module):
    """BN(branch) * d(std(skip)), a batch norm that keeps the deviation adaptive.

    d(s) = w s + c (ADQ, arXiv 2208.14839), or exp(w ln s + c) with `logarithmic` (AdaDM, on which
    ADQ is built). The batch norm follows the branch instead of preceding it: it then folds exactly
    into the last convolution, which zero padding would prevent in front of the first one.
    branch and skip are (N, C, H, W); std(skip) is taken over each whole sample.
    """

    def __init__(self, channels: int, logarithmic: bool = False) -> None:
        super().__init__()
        self.norm, self.logarithmic = nn.BatchNorm2d(channels), logarithmic
        self.w = nn.Parameter(torch.tensor(1.0 if logarithmic else 1.5))
        self.c = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("mean_std", torch.tensor(1.0))
        self.mean_std: Tensor

    def deviation(self, std: Tensor) -> Tensor:
        """d(s), the factor of the normalised branch, for deviations of any shape."""
        if self.logarithmic:
            return (self.w * std.clamp_min(1e-8).log() + self.c).exp()
        return self.w * std + self.c

    def forward(self, branch: Tensor, skip: Tensor) -> Tensor:
        std = skip.flatten(1).std(1)
        if self.training:
            with torch.no_grad():
                self.mean_std.lerp_(collectives.mean(std.mean()), cast(float, self.norm.momentum))
        normal = (
            self._normal(branch) if self.training and collectives.size() > 1 else self.norm(branch)
        )
        return cast(Tensor, normal) * self.deviation(std)[:, None, None, None]

    def _normal(self, branch: Tensor) -> Tensor:
        """The batch norm over the rows of all processes."""
        norm = self.norm
        assert norm.running_var is not None and norm.running_mean is not None
        mean = collectives.mean(branch.mean((0, 2, 3)))
        centred = branch - mean[:, None, None]
        var = collectives.mean(centred.square().mean((0, 2, 3)))
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            n = collectives.size() * branch.numel() / branch.shape[1]
            norm.running_mean.lerp_(mean, cast(float, norm.momentum))
            norm.running_var.lerp_(var * n / (n - 1), cast(float, norm.momentum))
        scale = norm.weight / (var + norm.eps).sqrt()
        return centred * scale[:, None, None] + norm.bias[:, None, None]

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """The affine form factor * branch + shift of this module; returns both, each (C,).

        It is exact for samples whose std(skip) equals the running mean.
        """
        norm = self.norm
        assert norm.running_var is not None and norm.running_mean is not None
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        deviation = self.deviation(self.mean_std)
        return gain * deviation, (norm.bias - norm.running_mean * gain) * deviation


class PlainNorm(Adq):
    """BN(branch), which ignores the deviation of the skip: the baseline for ADQ."""

    def deviation(self, std: Tensor) -> Tensor:
        return torch.ones_like(std)
