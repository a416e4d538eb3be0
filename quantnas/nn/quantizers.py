"""The one quantizer behind search noise, fake quantization, PTQ and the exported integers.

A grid is a step and a range of integers [lo, hi]: x is carried as clip(round(x / step), lo, hi).
Weights have one grid per output channel; below 8 bits it is asymmetric, lo = -z and
hi = 2^b - 1 - z with an integer zero point z, so that all 2^b levels are used; at 8 bits it is
[-127, 127]. Activations have one grid per tensor with unsigned storage: lo = 0 after a ReLU,
else an integer zero point that fits the data. Zero is always on the grid.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

BITS = (2, 3, 4, 8)
OCTAVES = 8
"""Most between the steps of two channels of one tensor."""


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


class _FakeQuantizeTensor(torch.autograd.Function):
    """The same for one zero point and one step, or one for every channel, (C, 1, 1): lo = -zero,
    hi = top - zero, in half the time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, zero: Tensor, top: int) -> Tensor:
        lo = -zero.item()
        t = x / step
        q = t.round().clamp_(lo, lo + top)
        ctx.save_for_backward(t, q, step)
        ctx.ends = lo - 0.5, lo + top + 0.5
        return q * step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        g = grads[0].contiguous()
        t, q, step = ctx.saved_tensors
        _, wants_step, wants_zero, _ = ctx.needs_input_grad
        g_x = torch.ops.aten.hardtanh_backward(g, t, *ctx.ends)
        g_step = g_zero = None
        if wants_step and step.dim() == 0:
            g_step = _dot(g, q) - _dot(g_x, t)
        elif wants_step:
            g_step = (g * q).addcmul_(g_x, t, value=-1).sum_to_size(step.shape)
        if wants_zero:
            g_zero = ((g_x - g).sum_to_size(step.shape) * step).sum()
        return g_x, g_step, g_zero, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """() of two tensors of one shape."""
    return torch.dot(a.reshape(-1), b.reshape(-1))


def fake_quantize(x: Tensor, step: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """x rounded to its grid; step, lo and hi broadcast against x and receive gradients."""
    return _FakeQuantize.apply(x, step, lo, hi)


class ActQuantizer(nn.Module):
    """Per-tensor grid of an activation; the step is learned in the log domain.

    x (any shape) -> same shape. Signed data have a zero point, which is learned too. `step` given
    = a fixed grid (pixels: 1/255). With `channels`, x is (N, channels, H, W), and the step of a
    channel is the common one times 2^octave, which a convolution behind multiplies into its kernel;
    the octaves are learned too.
    """

    def __init__(
        self,
        bits: int,
        signed: bool = False,
        step: float | None = None,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        self.bits, self.signed, self.fixed = bits, signed, step is not None
        self.top = 2**bits - 1
        log2 = torch.log2(torch.tensor(1 / 64 if step is None else step))
        self.log2_step = nn.Parameter(log2, requires_grad=not self.fixed)
        zero = torch.tensor(2.0 ** (bits - 1) if signed else 0.0)
        self.zero = nn.Parameter(zero, requires_grad=signed and not self.fixed)
        self.octaves = None if channels is None else nn.Parameter(torch.zeros(channels))
        self.gains: Tensor | None = None
        """(channels,), of what reads them, where `spread` was told: how much their errors count."""

    @property
    def factors(self) -> Tensor | None:
        """(channels, 1, 1), 2^octave."""
        return None if self.octaves is None else self.octaves.exp2()[:, None, None]

    @property
    def step(self) -> Tensor:
        """(), the distance between two levels."""
        return self.log2_step.exp2()

    @property
    def zero_point(self) -> int:
        """The stored unsigned integer that means 0."""
        return int(-self.bounds()[0])

    @torch.no_grad()
    def spread(self, x: Tensor, gains: Tensor) -> None:
        """Set the octaves for the least noise behind a convolution; x (N, channels, H, W).

        gains (channels,): squared norms of the weights that read a channel. For factors f the
        noise grows with the range of x / f, as a norm of order 6, and with sum_c gains_c f_c^2;
        f_c = (range_c^6 / gains_c)^(1/8) makes their product least.
        """
        if self.octaves is not None:
            ranges = x.abs().pow(6).mean((0, 2, 3)).pow(1 / 6)
            f = (ranges.clamp_min(1e-12) ** 6 / gains.clamp_min(1e-12)).pow(1 / 8).log2()
            octaves = (f - f.max()).clamp_min(-OCTAVES)
            self.octaves.copy_(torch.where(ranges > 0, octaves, 0))
            self.gains = gains

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Integers (lo, hi), each ()."""
        zero = round_ste(self.zero).clamp(0, self.top)
        return -zero, self.top - zero

    def forward(self, x: Tensor) -> Tensor:
        f = self.factors
        step = self.step if f is None else self.step * f
        return _FakeQuantizeTensor.apply(x, step, -self.bounds()[0], self.top)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set step and zero point for the least squared error on x; a fixed grid stays."""
        if not self.fixed:
            f, weights = self.factors, None
            if f is not None:
                x = x / f
                weights = None if self.gains is None else self.gains[:, None, None] * f.square()
            step, zero = activation_grid(x, self.bits, self.signed, weights)
            self.log2_step.copy_(torch.log2(step))
            self.zero.copy_(zero)


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


def activation_grid(
    x: Tensor, bits: int, signed: bool, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(step, zero), each (), with the least squared rounding error of x, or of 20,000 parts of it.

    weights: of the errors, broadcast against x. Signed data: both ends of the range shrink, the
    lower one in four stages. x may lie on another grid already. No candidate is a simple fraction
    of its range: otherwise many values lie half-way between two levels, where the last bit of a
    float decides.
    """
    stride = max(1, x.numel() // 20_000) | 1  # odd: places of all kinds
    weights = (x.new_ones(()) if weights is None else weights).expand_as(x).flatten()[::stride]
    x = x.detach().flatten()[::stride]
    top = 2**bits - 1
    shrink = torch.linspace(1.0007, 0.05, 60, device=x.device)
    high, low = x.max().clamp_min(0) * shrink, torch.zeros_like(shrink)
    if signed:
        high, low = high[::2], x.min().clamp_max(0) * shrink.new_tensor([1.0003, 0.7, 0.45, 0.25])
        high, low = torch.cartesian_prod(high, low).unbind(1)
    steps = ((high - low) / top).clamp_min(1e-6 / top)
    zeros = (-low / steps).round().clamp(0, top)
    s, z = steps[:, None], zeros[:, None]
    error = torch.maximum(torch.minimum((x / s).round(), top - z), -z) * s - x
    best = (error.square() * weights).mean(1).argmin()
    return steps[best], zeros[best]


def weight_grid(rows: Tensor, bits: int, candidates: int = 9) -> tuple[Tensor, Tensor]:
    """(step, zero), each (c_out,), of least squared error for the rows (c_out, n) of a kernel.

    Below 8 bits both ends of the range are searched; at 8 bits one symmetric end. The error is
    that of about 256 weights of a long row, the range that of all.
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
    rows = rows[:, :: max(1, rows.shape[1] // 256)]
    s, z = step[..., None], zero[..., None]
    q = torch.maximum(torch.minimum((rows / s).round(), top - z), -z)
    best = (q * s - rows).square().sum(-1).argmin(0, keepdim=True)
    return step.gather(0, best)[0], zero.gather(0, best)[0]


@contextmanager
def calibrating(net: nn.Module, fixed_only: bool = False, weights: bool = True) -> Iterator[None]:
    """While this is open, every quantizer fits its grid to the first thing that it is given.

    The first: a supernet's 8-bit edges round on the grid of their source once more. With
    `fixed_only`, those that learn by gradient are left alone; without `weights`, those of kernels.
    """
    fitted: set[nn.Module] = set()

    def fit(grid: Any, args: tuple[Tensor]) -> None:
        if grid not in fitted:
            fitted.add(grid)
            grid.calibrate(args[0])

    kinds = (ActQuantizer, WeightQuantizer) if weights else ActQuantizer
    hooks = [
        m.register_forward_pre_hook(fit)
        for m in net.modules()
        if isinstance(m, kinds) and not (fixed_only and m.log2_step.requires_grad)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
