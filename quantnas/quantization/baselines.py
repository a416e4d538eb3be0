"""Published methods of post-training quantization, with this project's layers and grids (METHODS).

rtn: grids of least squared error, every weight rounded to nearest. minmax: rounding to nearest on
grids from the smallest to the largest value. gptq (arXiv 2210.17323), gpfq (arXiv 2201.11113) and
qronos (arXiv 2505.11695): the solvers of Brevitas. adaround (arXiv 2004.10568): learned rounding.
The last four start from the grids of rtn, go through the layers from front to back, and end with
bias correction; transposed convolutions stay as rtn rounds them.

Brevitas chooses the level of each weight only. Its own layers and grids are left out, so that
every method rounds to the same grids and its result freezes and exports like any other network.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantnas.architectures import network
from quantnas.architectures.network import convolutions, hooked, inherit, visited
from quantnas.errors import UsageError
from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.nn.quantizers import ActQuantizer, weight_grid

Visit = Callable[[QuantConv2d, Tensor, Tensor], None]
"""Sets a convolution's weight from its inputs in the rounded and in the float network, each
(N, c_in, H, W)."""
Layers = Iterator[tuple[int, int]]
"""Progress: (layers done, all layers)."""

BATCH = 8
"""Images whose windows are in memory at once."""
STEPS = 300
"""Steps of Adam for each layer of `adaround`."""
REGULARISER = 1.0
"""Weight of the term that drives each rounding to 0 or 1, relative to the error of rounding to
nearest."""


@torch.no_grad()
def apply(method: str, net: nn.Module, teacher: nn.Module, low: Tensor) -> Layers:
    """Set weights, biases and grids of a rounded network, in place; the weights lie on the grids.

    teacher: the float network of the same genotype, whose weights are taken; low: calibration
    images (N, 3, H, W) in [0, 1]. Yields (done, all) of the layers, or (1, 1) for a method that
    sets the network as a whole. Raises UsageError for an unknown method.
    """
    if method not in METHODS:
        raise UsageError(
            f"There is no method '{method}'.", f"The methods are: {', '.join(METHODS)}."
        )
    inherit(net, teacher)
    yield from METHODS[method](net, teacher, low)
    for conv in convolutions(net).values():
        assert isinstance(conv, QuantConv2d)
        conv.weight.copy_(conv.rounded_weight())


def rtn(net: nn.Module, teacher: nn.Module, low: Tensor) -> Layers:
    """Round to nearest on grids of least squared error."""
    network.initialise(net, low)
    yield 1, 1


def minmax(net: nn.Module, teacher: nn.Module, low: Tensor) -> Layers:
    """Round to nearest on grids that clip no value and whose channels have no octaves.

    Grids of weights are set first, then those of activations from front to back.
    """
    grids = [m for m in net.modules() if isinstance(m, ActQuantizer) and not m.fixed]
    for conv in convolutions(net).values():
        assert isinstance(conv, QuantConv2d)
        grid = conv.weight_quantizer
        step, zero = weight_grid(conv.weight.flatten(1), grid.bits, candidates=1)
        grid.log2_step.copy_(step.log2().view_as(grid.log2_step))
        grid.zero.copy_(zero.view_as(grid.zero))
    hooks = [grid.register_forward_pre_hook(_span) for grid in grids]
    net.eval()(low)
    for hook in hooks:
        hook.remove()
    yield 1, 1


def _span(grid: ActQuantizer, args: tuple[Tensor]) -> None:
    """Hook that fits a grid to the range of its input."""
    low, high = grid.ends(*args)
    low, high = low.min().clamp_max(0), high.max().clamp_min(0)
    step = ((high - low) / grid.top).clamp_min(1e-8)
    grid.log2_step.copy_(step.log2())
    grid.zero.copy_((-low / step).round())
    if grid.octaves is not None:
        grid.octaves.zero_()


def _layer_by_layer(visit: Visit, net: nn.Module, teacher: nn.Module, low: Tensor) -> Layers:
    """Set the grids of rtn, then visit the convolutions in order and correct their biases.

    One pass is enough: a layer is set just before it runs, on the outputs of the layers set
    before. Biases become those of `post_training.correct_biases`.
    """
    network.initialise(net, low)
    float_traces = _trace(teacher, low)

    def hook(conv: QuantConv2d, args: tuple[Tensor]) -> None:
        (x,), (float_x, mean) = args, float_traces.pop(conv.name)
        if conv.up == 1 and not conv.shares:  # a shared kernel is set where it is used first
            _set(conv, visit, x, float_x)
        assert conv.bias is not None
        missing = mean - conv.forward(x).mean((0, 2, 3))
        conv.bias.add_(missing.view(len(conv.bias), -1).mean(1))

    yield from visited(net, low, hook)


def _set(conv: QuantConv2d, visit: Visit, x: Tensor, float_x: Tensor) -> None:
    """Call `visit` in the units of the weight's grid: the weight times the factors of its input."""
    grid, factors = conv.input_quantizer, conv.factors()
    if grid is not None:
        x = grid(x)
    if grid is not None and grid.factors is not None:
        x, float_x = x / grid.factors, float_x / grid.factors
    if factors is not None:
        conv.weight.mul_(factors)
    visit(conv, x, float_x)
    if factors is not None:
        conv.weight.div_(factors)


def _trace(net: nn.Module, low: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Map layer names to the convolution's input (N, c_in, H, W) and its mean output (c_out,).

    All are in memory at once: 0.5 GB for 32 patches of 48 x 48 pixels of an RFDN.
    """
    traces: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(conv: Conv2d, args: tuple[Tensor], out: Tensor) -> None:
        traces[conv.name] = args[0], out.mean((0, 2, 3))

    with hooked(net, hook):
        net.eval()(low)
    return traces


def _brevitas(name: str, net: nn.Module, teacher: nn.Module, low: Tensor) -> Layers:
    """Apply one of the solvers of Brevitas 0.13, which takes seconds to import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Brevitas misses kernels for rotations
        from brevitas.graph.gpfq import GPFQ
        from brevitas.graph.gptq import GPTQ
        from brevitas.graph.qronos import Qronos
    solvers = {
        "gptq": partial(GPTQ, num_blocks=100),
        "gpfq": GPFQ,
        "qronos": Qronos,
    }
    visit = partial(_solve, solvers[name], mismatched=name != "gptq")
    return _layer_by_layer(visit, net, teacher, low)


def _solve(
    solver: Callable[..., Any], conv: QuantConv2d, x: Tensor, float_x: Tensor, mismatched: bool
) -> None:
    """Run a solver on one layer; mismatched: whether it reads the float network's input, too."""
    from brevitas.graph.gpxq import LayerHandler
    from brevitas.utils.torch_utils import StopFwdException

    layer = _Layer(conv)
    solve = solver(
        layer,
        conv.name,
        act_order=True,
        len_parallel_layers=1,
        create_weight_orig=True,
        device="same",
    )
    for pair in zip(x.split(BATCH), float_x.split(BATCH), strict=True):
        for batch, rounded in zip(pair[: 1 + mismatched], (True, False), strict=False):
            layer.weight_quant.is_quant_enabled = rounded
            with suppress(StopFwdException):  # raised to end the forward pass of a whole network
                solve.update_batch(layer, (batch,), LayerHandler())
    solve.single_layer_update()


class _Layer(nn.Conv2d):
    """A convolution that shares a weight and has the attributes that Brevitas' solvers read."""

    def __init__(self, conv: QuantConv2d) -> None:
        height, width = conv.kernel_size
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            (height, width),
            (conv.stride[0], conv.stride[1]),
            conv.pads(conv.weight),
            (conv.dilation[0], conv.dilation[1]),
            conv.groups,
            bias=False,
        )
        self.weight, self.grid = conv.weight, conv.weight_quantizer
        self.weight_quant = SimpleNamespace(
            is_quant_enabled=True,
            is_groupwise=False,
            export_mode=False,
            requires_quant_input=False,
            modules=tuple,
        )

    def quant_weight(
        self, subtensor_slice_list: list[Any] | None = None, quant_input: None = None
    ) -> Tensor:
        """The rounded weight, or a part of it: one (start, end), or None, per dimension."""
        part = [slice(*(ends or (None,))) for ends in subtensor_slice_list or ()]
        return self.grid(self.weight[tuple(part)])


def adaround(net: nn.Module, teacher: nn.Module, low: Tensor) -> Layers:
    """Learn to round each weight up or down (AdaRound)."""
    return _layer_by_layer(_learn, net, teacher, low)


def _learn(conv: QuantConv2d, x: Tensor, float_x: Tensor) -> None:
    """Round each weight up or down, whichever Adam finds better for the layer's squared error.

    That error is a quadratic form of the float kernel w and the rounded kernel q in the second
    moments of their inputs, so the images are read only once.
    """
    moments = _moments(conv, x, float_x)
    step, (lo, hi) = conv.weight_quantizer.step, conv.weight_quantizer.bounds()
    t = conv.weight / step
    floor = t.floor()

    def error(up: Tensor) -> Tensor:
        q = torch.maximum(torch.minimum(floor + up, hi), lo) * step
        return _error(conv, q, moments)

    nearest = error(t.round() - floor).clamp_min(1e-12)
    with torch.enable_grad():
        # h(v) = t - floor at first, so that training starts from the float kernel
        v = torch.logit((t - floor + 0.1) / 1.2).requires_grad_()
        optimiser = torch.optim.Adam([v], lr=0.05)
        for i in range(STEPS):
            h = (torch.sigmoid(v) * 1.2 - 0.1).clamp(0, 1)
            beta = 20 - 18 * max(0.0, i / STEPS - 0.2) / 0.8
            loss = error(h) / nearest
            if i > 0.2 * STEPS:
                loss = loss + REGULARISER * (1 - (2 * h - 1).abs() ** beta).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    conv.weight.copy_((floor + (v > 0)) * step)


def _moments(conv: QuantConv2d, x: Tensor, float_x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Second moments of the inputs of each kernel, each (groups, n, n).

    The three are of rounded with rounded, rounded with float, and float with float inputs.
    """
    pairs = zip(x.split(BATCH), float_x.split(BATCH), strict=True)
    total: list[Tensor] = []
    for batch in pairs:
        a, b = (_windows(conv, t) for t in batch)
        products = [a @ a.mT, a @ b.mT, b @ b.mT]
        total = [s + p for s, p in zip(total, products, strict=True)] if total else products
    places = len(x) * a.shape[-1] / len(batch[0])
    c, d, e = (s / places for s in total)
    return c, d, e


def _windows(conv: QuantConv2d, x: Tensor) -> Tensor:
    """The windows of x that each kernel is multiplied with, (groups, n, places)."""
    pads = conv.pads(conv.weight)
    rows = F.unfold(x, conv.weight.shape[-2:], conv.dilation, pads, conv.stride)
    return rows.transpose(0, 1).flatten(1).unflatten(0, (conv.groups, -1))


def _error(conv: QuantConv2d, kernel: Tensor, moments: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The mean squared error () of the output with `kernel`, summed over the channels."""
    q, w = (k.flatten(1).unflatten(0, (conv.groups, -1)) for k in (kernel, conv.weight.detach()))
    rounded, mixed, exact = moments
    return ((q @ rounded - 2 * w @ mixed.mT) * q).sum() + (w @ exact * w).sum()


METHODS: dict[str, Callable[[nn.Module, nn.Module, Tensor], Layers]] = {
    "rtn": rtn,
    "minmax": minmax,
    "gptq": partial(_brevitas, "gptq"),
    "gpfq": partial(_brevitas, "gpfq"),
    "qronos": partial(_brevitas, "qronos"),
    "adaround": adaround,
}
