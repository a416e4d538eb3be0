"""The one quantizer behind search noise, fake quantization, PTQ and the exported integers.

A grid is a step and a range of integers [lo, hi]: x is carried as clip(round(x / step), lo, hi).
Weights have one grid per output channel; below 8 bits it is asymmetric, lo = -z and
hi = 2^b - 1 - z with an integer zero point z, so that all 2^b levels are used; at 8 bits it is
[-127, 127]. Activations have one grid per tensor with unsigned storage: lo = 0 after a ReLU,
lo = -2^(b-1) for signed data, lo = -2^b / 16 behind a LeakyReLU of slope 0.05, whose
negative values are small. Zero is always on the grid.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

BITS = (2, 3, 4, 8)
Sign = bool | Literal["leaky"]
"""Whether a tensor has negative values; "leaky": small ones, as a LeakyReLU leaves them."""


def round_ste(x: Tensor) -> Tensor:
    """Round to nearest even; the gradient passes straight through."""
    return x + (x.round() - x).detach()


class _FakeQuantize(torch.autograd.Function):
    """clip(round(x / step), lo, hi) * step with the gradients of LSQ (arXiv 1902.08153)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
        t = x / step
        q = torch.maximum(torch.minimum(t.round(), hi), lo)
        ctx.save_for_backward(t, q, step, lo, hi)
        return q * step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grads
        t, q, step, lo, hi = ctx.saved_tensors
        _, wants_step, wants_lo, wants_hi = ctx.needs_input_grad
        below, above = t < lo - 0.5, t > hi + 0.5
        g_x = g.masked_fill(below | above, 0.0)
        g_step = (g * q - g_x * t).sum_to_size(step.shape) if wants_step else None
        g_lo = (g * below * step).sum_to_size(lo.shape) if wants_lo else None
        g_hi = (g * above * step).sum_to_size(hi.shape) if wants_hi else None
        return g_x, g_step, g_lo, g_hi


def fake_quantize(x: Tensor, step: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """x rounded to its grid; step, lo and hi broadcast against x and receive gradients."""
    return _FakeQuantize.apply(x, step, lo, hi)


def levels(bits: int, signed: Sign) -> tuple[int, int]:
    """(lo, hi) of an activation's grid."""
    below = 2**bits // 16 if signed == "leaky" else 2 ** (bits - 1) if signed else 0
    return -below, 2**bits - 1 - below


class ActQuantizer(nn.Module):
    """Per-tensor grid of an activation, with a step learned in the log domain.

    x (any shape) -> same shape. `step` given = a fixed grid (pixels: 1/255).
    """

    lo: Tensor
    hi: Tensor

    def __init__(self, bits: int, signed: Sign = False, step: float | None = None) -> None:
        super().__init__()
        self.bits, self.signed, self.fixed = bits, signed, step is not None
        log2 = torch.log2(torch.tensor(1 / 64 if step is None else step))
        self.log2_step = nn.Parameter(log2, requires_grad=step is None)
        lo, hi = levels(bits, signed)
        self.register_buffer("lo", torch.tensor(float(lo)), persistent=False)
        self.register_buffer("hi", torch.tensor(float(hi)), persistent=False)

    @property
    def step(self) -> Tensor:
        """(), the distance between two levels."""
        return self.log2_step.exp2()

    @property
    def zero_point(self) -> int:
        """The stored unsigned integer that means 0."""
        return -int(self.lo)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Integers (lo, hi), each ()."""
        return self.lo, self.hi

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self.step, self.lo, self.hi)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set the step that minimises the squared error on x; a fixed grid stays."""
        if not self.fixed:
            self.log2_step.copy_(torch.log2(mse_step(x, self.lo, self.hi)))


class FloatTensor(ActQuantizer):
    """Where a rounded network has a grid, a float one has nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class WeightQuantizer(nn.Module):
    """Per-output-channel grid of a kernel (c_out, ...), with learned steps and zero points."""

    def __init__(self, bits: int, c_out: int) -> None:
        super().__init__()
        self.bits, self.symmetric = bits, bits == 8
        self.log2_step = nn.Parameter(torch.full((c_out, 1, 1, 1), -6.0))
        zero = 127.0 if self.symmetric else 2.0 ** (bits - 1)
        self.zero = nn.Parameter(
            torch.full((c_out, 1, 1, 1), zero), requires_grad=not self.symmetric
        )

    @property
    def step(self) -> Tensor:
        """(c_out, 1, 1, 1)"""
        return self.log2_step.exp2()

    @property
    def top(self) -> float:
        """Of the levels, counted from 0."""
        return 254.0 if self.symmetric else 2.0**self.bits - 1

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Integers (lo, hi), each (c_out, 1, 1, 1): what a stored level minus its zero spans."""
        zero = round_ste(self.zero).clamp(0, self.top)
        return -zero, self.top - zero

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.step, *self.bounds())

    @torch.no_grad()
    def integers(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(q, z), int32: kernel = (q - z) * step, q in [0, 2^b - 1] (8 bits: z = 0, q signed)."""
        lo, hi = self.bounds()
        q = torch.maximum(torch.minimum((weight / self.step).round(), hi), lo).int()
        z = torch.zeros_like(lo).int() if self.symmetric else (-lo).int()
        return q + z, z

    @torch.no_grad()
    def calibrate(self, weight: Tensor) -> None:
        """Set steps and zero points by a search over ranges for the least squared error."""
        step, zero = weight_grid(weight.flatten(1), self.bits)
        self.log2_step.copy_(torch.log2(step).view_as(self.log2_step))
        self.zero.copy_(zero.view_as(self.zero))


def mse_step(
    x: Tensor, lo: Tensor, hi: Tensor, candidates: int = 60, sample: int = 20_000
) -> Tensor:
    """(), the step with the least squared rounding error of x on the integers [lo, hi].

    x may lie on another grid already. No candidate is a simple fraction of its range: otherwise
    many values lie half-way between two levels, where the last bit of a float decides.
    """
    x = x.detach().flatten()
    x = x[:: max(1, x.numel() // sample)]
    zero = x.new_zeros(())
    full = torch.maximum(x.max() / hi.clamp_min(1), x.min() / lo if lo < 0 else zero)
    full = full.clamp_min(1e-6)
    steps = full * torch.linspace(1.0007, 0.05, candidates, device=x.device)[:, None]
    error = (torch.maximum(torch.minimum((x / steps).round(), hi), lo) * steps - x).square().mean(1)
    return steps[error.argmin(), 0]


def weight_grid(
    rows: Tensor, bits: int, candidates: int = 9, sample: int = 256
) -> tuple[Tensor, Tensor]:
    """(step, zero), each (c_out,), of least squared error for the rows (c_out, n) of a kernel.

    Below 8 bits both ends of the range are searched; at 8 bits one symmetric end. The error is
    that of about `sample` weights of a long row, the range that of all.
    """
    rows = rows.detach()
    shrink = torch.linspace(1.0, 0.3, candidates, device=rows.device)
    if bits == 8:
        ends = rows.abs().amax(1).clamp_min(1e-6) * shrink[:, None]
        step, zero = ends / 127, torch.full_like(ends, 127.0)
        top = 254.0
    else:
        top = 2.0**bits - 1
        high, low = rows.amax(1).clamp_min(0), rows.amin(1).clamp_max(0)
        pairs = torch.cartesian_prod(shrink, shrink)
        high, low = high * pairs[:, :1], low * pairs[:, 1:]
        step = ((high - low) / top).clamp_min(1e-6)
        zero = (-low / step).round().clamp(0, top)
    rows = rows[:, :: max(1, rows.shape[1] // sample)]
    s, z = step[..., None], zero[..., None]
    q = torch.maximum(torch.minimum((rows / s).round(), top - z), -z)
    best = (q * s - rows).square().sum(-1).argmin(0, keepdim=True)
    return step.gather(0, best)[0], zero.gather(0, best)[0]


@contextmanager
def calibrating(network: nn.Module, fixed_only: bool = False) -> Iterator[None]:
    """While this is open, every quantizer fits its grid to the first thing that it is given.

    The first: a supernet's 8-bit edges round on the grid of their source once more. With
    `fixed_only`, those that learn by gradient are left alone.
    """
    fitted: set[nn.Module] = set()

    def fit(grid: Any, args: tuple[Tensor]) -> None:
        if grid not in fitted:
            fitted.add(grid)
            grid.calibrate(args[0])

    hooks = [
        m.register_forward_pre_hook(fit)
        for m in network.modules()
        if isinstance(m, ActQuantizer | WeightQuantizer)
        and not (fixed_only and m.log2_step.requires_grad)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
