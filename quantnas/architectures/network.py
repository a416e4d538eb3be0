"""The network of a decided architecture: its skeleton with one operation per slot.

It is in float or rounded. Here are also its convolutions by name, its checkpoints and the first
fitting of its grids.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from quantnas.config import files
from quantnas.config.genotype import Genotype, check
from quantnas.config.search_space import Precision, SearchSpace, Slot
from quantnas.errors import DataError
from quantnas.nn import operations
from quantnas.nn.convolutions import Conv2d, QuantConv2d, start_as_identity
from quantnas.nn.layer_factory import PlainSum
from quantnas.nn.quantizers import ActQuantizer, FloatTensor, calibrating

from . import registry

SPACE_KEY = "space"
"""Key of the search space in the metadata of a checkpoint."""


class NetworkFactory:
    """Fills a skeleton with decided convolutions (`layer_factory.LayerFactory`)."""

    def __init__(
        self,
        genotype: Genotype,
        precision: Mapping[str, Precision] | None,
        carried: Collection[str] = (),
    ) -> None:
        self.genotype, self.precision, self.names = genotype, precision, carried

    def edge(self, slot: Slot, source: ActQuantizer) -> nn.Module:
        conv: operations.Conv = Conv2d
        if self.precision is not None:
            conv = partial(QuantConv2d, precision=self.precision[slot.name], source=source)
        op = operations.build(self.genotype.choices[slot.name].op, conv, slot)
        convs = [m for m in op if isinstance(m, Conv2d)]
        for i, module in enumerate(convs):
            module.name = slot.name if len(convs) == 1 else f"{slot.name}.{i}"
        if slot.identity:
            start_as_identity(op)
        if slot.gain != 1 and convs:
            with torch.no_grad():
                scale_outputs(convs[-1], torch.full((convs[-1].out_channels,), slot.gain))
        return op

    def tensor(self, signed: bool = False, step: float | None = None) -> ActQuantizer:
        quantizer = FloatTensor if self.precision is None else ActQuantizer
        return quantizer(8, signed, step)

    def free(self, signed: bool = False) -> ActQuantizer:
        return FloatTensor(32, signed)

    def carried(self, name: str, signed: bool = False, step: float | None = None) -> ActQuantizer:
        return self.tensor(signed, step) if name in self.names else self.free(signed)

    def residual(self, channels: int) -> nn.Module:
        return PlainSum()


def build(
    space: SearchSpace,
    genotype: Genotype,
    precision: Mapping[str, Precision] | None,
    carried: Collection[str] = (),
) -> nn.Module:
    """Build the network of a genotype: (N, 3, H, W) -> (N, 3, scale*H, scale*W), both in [0, 1].

    precision: slot name -> bit widths; None = in float. carried: names of an imported network's
    tensors that lie on grids of 8 bits between its convolutions. Raises UsageError when the
    genotype does not fit the space.
    """
    check(genotype, registry.slots(space), space.name)
    return registry.build(space, NetworkFactory(genotype, precision, carried))


def convolutions(network: nn.Module) -> dict[str, Conv2d]:
    """Name of each convolution -> the convolution, in the order in which they were built."""
    return {m.name: m for m in network.modules() if isinstance(m, Conv2d)}


@contextmanager
def hooked(network: nn.Module, hook: Callable[..., Any], before: bool = False) -> Iterator[None]:
    """While open, torch calls `hook` after (with `before`, before) each convolution's forward."""
    convs = convolutions(network).values()
    handles = [
        c.register_forward_pre_hook(hook) if before else c.register_forward_hook(hook)
        for c in convs
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def visited(
    network: nn.Module, low: Tensor, visit: Callable[..., None]
) -> Iterator[tuple[int, int]]:
    """Run the network on low (N, 3, H, W) and call `visit` before each convolution's forward.

    `visit` has the arguments of a torch forward pre-hook. Yields (number of layers visited, number
    of all layers) before each of them and at the end. The forward pass runs in a thread, which
    waits between two layers; it is abandoned when this generator is closed.
    """
    reached, go_on = SimpleQueue[bool](), SimpleQueue[bool]()
    done, total = 0, len(convolutions(network))

    def turn(conv: nn.Module, args: tuple[Tensor]) -> None:
        reached.put(True)
        if not go_on.get():
            raise InterruptedError
        visit(conv, args)

    @torch.no_grad()
    def run() -> None:
        try:
            with hooked(network, turn, before=True):
                network(low)
        finally:
            reached.put(False)

    with ThreadPoolExecutor(1, "layers") as thread:
        forward = thread.submit(run)
        try:
            while reached.get():
                yield done, total
                done += 1
                go_on.put(True)
        finally:
            go_on.put(False)
        forward.result()
    yield done, total


@torch.no_grad()
def inherit(network: nn.Module, trained: nn.Module) -> None:
    """Copy weights and biases of all convolutions from a trained network of the same genotype."""
    sources = convolutions(trained)
    for name, conv in convolutions(network).items():
        conv.weight.copy_(sources[name].weight)
        assert conv.bias is not None
        conv.bias.copy_(sources[name].bias)  # type: ignore[arg-type]


def scale_outputs(conv: Conv2d, factor: Tensor) -> None:
    """Multiply every output channel by its factor (c_out,); the grids of the weights follow.

    A negative factor mirrors an asymmetric grid: level q becomes top - q.
    """
    conv.weight.mul_(factor[:, None, None, None])
    conv.bias.mul_(factor)  # type: ignore[union-attr]
    if isinstance(conv, QuantConv2d):
        weights = conv.weight_quantizer
        weights.log2_step.add_(factor.abs().clamp_min(1e-12).log2().view_as(weights.log2_step))
        turned = (factor < 0).view_as(weights.zero)
        weights.zero.copy_(torch.where(turned, weights.top - weights.zero, weights.zero))


def save(network: nn.Module, path: Path, space: SearchSpace | None = None) -> None:
    """Write the network's parameters and buffers to a safetensors file, completely or not at all.

    With `space`, the metadata of the file name the search space that the network belongs to.
    """
    save_tensors(network.state_dict(), path, space)


def save_tensors(state: Mapping[str, Tensor], path: Path, space: SearchSpace | None = None) -> None:
    """Write a network's `state_dict` as `save` does."""
    # Each is cloned, since the format refuses tensors in the same memory (`imported_onnx._tie`).
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    with files.replacing(path) as part:
        save_file(tensors, part, None if space is None else {SPACE_KEY: _title(space)})


def load(network: nn.Module, path: Path, space: SearchSpace | None = None) -> None:
    """Read a file that `save` wrote into the network.

    Raises DataError when the file is missing, belongs to another network, or names another search
    space than `space`.
    """
    try:
        with safe_open(path, "pt") as file:
            title = (file.metadata() or {}).get(SPACE_KEY)
        if space is not None and title not in (None, _title(space)):
            raise DataError(
                f"{path} was made for the space {title}, but the run has {_title(space)}.",
                "Use the run that it belongs to.",
            )
        tensors = load_file(path)
        network.load_state_dict(_unused(network) | tensors)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error}.", "Check the path and the file.") from error
    except SafetensorError as error:
        raise DataError(
            f"Cannot read {path}: it is damaged ({error}).",
            "Take it from a copy, or make it again in a new run.",
        ) from error
    except RuntimeError as error:
        if _holds_unshared(network, tensors):
            raise _of_unshared(path) from error
        raise DataError(
            f"{path} holds the weights of another network.", "Use the run that it belongs to."
        ) from error
    _require_shared(network, tensors, path)


def _require_shared(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise DataError where layers with one kernel have different ones in a file."""
    loaded = network.state_dict()
    same = all(torch.equal(loaded[key], value) for key, value in tensors.items())
    if _shares(network) and not same:
        raise _of_unshared(path)


def _shares(network: nn.Module) -> bool:
    """Whether some layers have one kernel."""
    return any(conv.shares for conv in convolutions(network).values())


def _holds_unshared(network: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are a network's, and octaves that inputs of shared kernels no longer have."""
    own = network.state_dict().keys()
    more = tensors.keys() - own
    if not (_shares(network) and more and own - _unused(network).keys() <= tensors.keys()):
        return False
    return all(key.endswith(".octaves") for key in more)


def _of_unshared(path: Path) -> DataError:
    return DataError(
        f"{path} was made by an earlier version, in which no kernels were shared.",
        "Quantize the network again; the exported file of that run stays usable.",
    )


def _unused(network: nn.Module) -> dict[str, Tensor]:
    """Zero points of tensors in float, which files of earlier versions lack."""
    grids = ((name, m) for name, m in network.named_modules() if isinstance(m, FloatTensor))
    return {f"{name}.zero": grid.zero for name, grid in grids}


def _title(space: SearchSpace) -> str:
    return f"{space.name} x{space.scale}"


@torch.no_grad()
def initialise(net: nn.Module, low: Tensor) -> None:
    """Fit every grid of a rounded network to its weights and to its activations on `low`.

    low (N, 3, H, W). Grids are fitted from front to back: each tensor is measured with all grids
    before it already in effect.
    """
    net.eval()
    with hooked(net, _prepare, before=True), calibrating(net):
        net(low)


def _prepare(conv: Conv2d, args: tuple[Tensor]) -> None:
    """Fit the grid of a kernel that has one, before the bias is rounded by its step."""
    if isinstance(conv, QuantConv2d):
        conv.spread(args[0])
        factors = conv.factors()
        conv.weight_quantizer.calibrate(conv.weight if factors is None else conv.weight * factors)
