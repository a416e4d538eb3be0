"""Quantizers of weights and activations, for search, training, calibration and export alike.

A grid is a step and a range of integers [lo, hi]: x is stored as clip(round(x / step), lo, hi).
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
"""Supported bit widths."""
OCTAVES = 8
"""Largest ratio between the steps of two channels of a tensor, as a power of two."""
COVERING = 8
"""Bit width from which a grid covers the whole reach of its tensor: with so many levels, cutting
rare large values costs more than the finer steps gain."""


def round_ste(x: Tensor) -> Tensor:
    """Round to nearest even; the gradient passes straight through."""
    return x + (x.round() - x).detach()


class _FakeQuantize(torch.autograd.Function):
    """Rounding, clip(round(x / step), lo, hi) * step, with LSQ's gradients (arXiv 1902.08153)."""

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
    """`_FakeQuantize` for one zero point, in half the time: lo = -zero, hi = top - zero.

    The step is a scalar, or (C, 1, 1) with one step per channel.
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
    """Dot product, a scalar, of two tensors of the same shape."""
    return torch.dot(a.reshape(-1), b.reshape(-1))


def fake_quantize(x: Tensor, step: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """Round x to a grid; step, lo and hi broadcast against x and receive gradients."""
    return _FakeQuantize.apply(x, step, lo, hi)


class ActQuantizer(nn.Module):
    """Grid of an activation tensor of any shape; the logarithm of its step is learned.

    Signed data have a zero point, which is learned too. With `step` the grid is fixed (1/255 for
    pixels). With `channels`, x is (N, channels, H, W), and each channel's step is the common step
    times 2^octave; the octaves are learned, and the convolution that reads the tensor multiplies
    them into its kernel.
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
        """Weight of each channel's error, (channels,), as `spread` was given it; None before."""
        self.ceiling: float | None = None
        """Largest value that the highest level may stand for: that of a Clip before the grid."""
        self.reach: tuple[Tensor, Tensor] | None = None
        """Lowest and highest value that the tensor has on photographs, each (channels, 1, 1) or (),
        which an 8-bit grid covers; None: the calibration set alone decides (`quantization.ranges`).
        """
        self.margin = 0
        """Least number of levels below 0 that `calibrate` leaves on a signed grid, for values that
        the calibration set lacks by chance."""

    @property
    def factors(self) -> Tensor | None:
        """2^octave per channel, (channels, 1, 1); None without octaves."""
        return None if self.octaves is None else self.octaves.exp2()[:, None, None]

    @property
    def step(self) -> Tensor:
        """Distance between two levels, a scalar."""
        step = self.log2_step.exp2()
        return step if self.ceiling is None else step.clamp_max(self.ceiling / self.top)

    @property
    def zero_point(self) -> int:
        """The unsigned integer that stands for 0."""
        return int(-self.bounds()[0])

    @torch.no_grad()
    def spread(self, x: Tensor, gains: Tensor) -> None:
        """Set the octaves for the least noise after the convolution that reads x (N, C, H, W).

        gains (C,): squared norms of the weights that read each channel. With factors f, the noise
        grows with the range of x / f, taken as a norm of order 6, and with sum_c gains_c f_c^2;
        f_c = (range_c^6 / gains_c)^(1/8) minimises their product. A grid that covers a reach has
        the range of the largest value, a norm of infinite order, and f_c = range_c.
        """
        if self.octaves is not None:
            if self._covers:
                low, high = self.ends(x)
                ranges = torch.maximum(-low, high).flatten()
                f = ranges.clamp_min(1e-12).log2()
            else:
                most = x.abs().amax((0, 2, 3)).clamp_min(1e-12)  # so that no power is infinite
                ranges = most * (x / most[:, None, None]).pow(6).mean((0, 2, 3)).pow(1 / 6)
                f = (6 * ranges.clamp_min(1e-12).log2() - gains.clamp_min(1e-12).log2()) / 8
            octaves = (f - f.max()).clamp_min(-OCTAVES)
            self.octaves.copy_(torch.where(ranges > 0, octaves, 0))
            self.gains = gains

    @property
    def _covers(self) -> bool:
        """Whether the grid covers its reach."""
        return self.reach is not None and self.bits >= COVERING

    def ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of x and of the reach, each () or, with octaves, (C, 1, 1)."""
        over = tuple(range(x.dim())) if self.octaves is None else (0, 2, 3)
        low, high = x.amin(over), x.amax(over)
        if self.octaves is not None:
            low, high = low[:, None, None], high[:, None, None]
        if self.reach is None:
            return low, high
        return torch.minimum(low, self.reach[0]), torch.maximum(high, self.reach[1])

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The range of integers (lo, hi), two scalars."""
        zero = round_ste(self.zero).clamp(0, self.top)
        return -zero, self.top - zero

    def forward(self, x: Tensor) -> Tensor:
        f = self.factors
        step = self.step if f is None else self.step * f
        return _FakeQuantizeTensor.apply(x, step, -self.bounds()[0], self.top)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set step and zero point for the least squared error on x; a fixed grid is not changed.

        A grid of 8 bits covers x and its reach instead, where that is known.
        """
        if self.fixed:
            return
        f, weights = self.factors, None
        if self._covers:
            low, high = self.ends(x) if f is None else (end / f for end in self.ends(x))
            step, zero = covering_grid(low.min(), high.max(), self.top, self.signed, self.margin)
        else:
            if f is not None:
                x = x / f
                weights = None if self.gains is None else self.gains[:, None, None] * f.square()
            step, zero = activation_grid(x, self.bits, self.signed, weights, self.margin)
        if self.ceiling is not None:  # a little below, so that the gradient passes
            step = step.clamp_max((1 - 1e-6) * self.ceiling / self.top)
        self.log2_step.copy_(torch.log2(step))
        self.zero.copy_(zero)


class FloatTensor(ActQuantizer):
    """Stand-in for an activation's grid in a float network: it returns its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class WeightQuantizer(nn.Module):
    """Grid of a kernel (c_out, ...) with a learned step and zero point per output channel."""

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
        """Distance between two levels, (c_out, 1, 1, 1)."""
        return self.log2_step.exp2()

    @property
    def top(self) -> float:
        """Highest level, where the lowest is 0."""
        return 254.0 if self.symmetric else 2.0**self.bits - 1

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The range of integers (lo, hi), each (c_out, 1, 1, 1): a level minus its zero point."""
        zero = round_ste(self.zero).clamp(0, self.top)
        return -zero, self.top - zero

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.step, *self.bounds())

    @torch.no_grad()
    def integers(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Integers q and zero points z, int32, of a kernel: weight = (q - z) * step.

        q is in [0, 2^bits - 1]; with 8 bits z is 0 and q is in [-127, 127].
        """
        lo, hi = self.bounds()
        q = torch.maximum(torch.minimum((weight / self.step).round(), hi), lo).int()
        z = torch.zeros_like(lo).int() if self.symmetric else (-lo).int()
        return q + z, z

    @torch.no_grad()
    def calibrate(self, weight: Tensor) -> None:
        """Set steps and zero points for the least squared error, by a search over ranges."""
        step, zero = weight_grid(weight.flatten(1), self.bits)
        self.log2_step.copy_(torch.log2(step).view_as(self.log2_step))
        self.zero.copy_(zero.view_as(self.zero))


def activation_grid(
    x: Tensor, bits: int, signed: bool, weights: Tensor | None = None, margin: int = 0
) -> tuple[Tensor, Tensor]:
    """Step and zero point, two scalars, of the grid with the least squared rounding error of x.

    Of a large x about 20,000 values count. weights: weight of each error, broadcast against x. The
    search shrinks the upper end of the range; for signed data also the lower end, in four stages.
    No candidate is a simple fraction of the range, because x may lie on another grid already: many
    values would then lie half-way between two levels, where the last bit of a float decides.
    margin: least number of levels below 0 on a grid for signed data.
    """
    stride = max(1, x.numel() // 20_000) | 1  # odd, so that it does not favour some columns
    weights = (x.new_ones(()) if weights is None else weights).expand_as(x).flatten()[::stride]
    x = x.detach().flatten()[::stride]
    top = 2**bits - 1
    shrink = torch.linspace(1.0007, 0.05, 60, device=x.device)
    high, low = x.max().clamp_min(0) * shrink, torch.zeros_like(shrink)
    if signed:
        high, low = high[::2], x.min().clamp_max(0) * shrink.new_tensor([1.0003, 0.7, 0.45, 0.25])
        high, low = torch.cartesian_prod(high, low).unbind(1)
        low = torch.minimum(low, -high * (margin / (top - margin)))
    steps = ((high - low) / top).clamp_min(1e-6 / top)
    zeros = (-low / steps).round().clamp(0, top)
    s, z = steps[:, None], zeros[:, None]
    error = torch.maximum(torch.minimum((x / s).round(), top - z), -z) * s - x
    best = (error.square() * weights).mean(1).argmin()
    return steps[best], zeros[best]


def covering_grid(
    low: Tensor, high: Tensor, top: int, signed: bool, margin: int = 0
) -> tuple[Tensor, Tensor]:
    """Step and zero point, two scalars, of the grid from `low` to `high` with levels 0 to `top`.

    margin: least number of levels below 0 on a grid for signed data. The step is no simple fraction
    of the range, for the reason that `activation_grid` gives.
    """
    high, low = 1.0007 * high.clamp_min(0), 1.0009 * low.clamp_max(0) * signed
    if signed:
        low = torch.minimum(low, -high * (margin / (top - margin)))
    step = ((high - low) / top).clamp_min(1e-6 / top)
    return step, (-low / step).round().clamp(0, top)


def weight_grid(rows: Tensor, bits: int, candidates: int = 9) -> tuple[Tensor, Tensor]:
    """Steps and zero points, each (c_out,), of least squared error for kernel rows (c_out, n).

    Below 8 bits the search shrinks both ends of the range; at 8 bits the range is symmetric. In
    long rows the error is measured on about 256 weights, the range on all of them.
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
    """Make every quantizer of a network fit its grid to its first input in the `with` block.

    Only the first input counts, because 8-bit edges of a supernet use the grid of their source a
    second time. fixed_only: fit only grids that are not learned by gradient. weights: whether to
    fit the grids of kernels too.
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
