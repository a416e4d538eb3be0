"""Loading the pre-trained weights of the released RFDN (arXiv 2009.11551), with its layer names.

The released network computes on pixels in [0, 255], every network here on pixels in [0, 1]. So the
weights of the first convolution are multiplied by 255; weights and bias of the last are divided.
"""

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from quantnas.errors import DataError, UsageError

from .network import convolutions

LAYERS = {
    "fea_conv": "head",
    "c.0": "fuse",
    "LR_conv": "smooth",
    "upsampler.0": "upsample",
    "c1_d": "distill0",
    "c1_r": "body0",
    "c2_d": "distill1",
    "c2_r": "body1",
    "c3_d": "distill2",
    "c3_r": "body2",
    "c4": "body3",
    "c5": "fuse",
    "esa.conv1": "esa_reduce",
    "esa.conv2": "esa_stride",
    "esa.conv_max": "esa_pooled0",
    "esa.conv3": "esa_pooled1",
    "esa.conv3_": "esa_pooled2",
    "esa.conv_f": "esa_direct",
    "esa.conv4": "esa_expand",
}
"""Layer of the released RFDN -> layer of `rfdn_published`.

From `c1_d` on, the layers belong to a block; block B1 becomes cell0.
"""
RANGE = 255.0
"""Peak value of the released network's pixels."""


def known(path: Path) -> bool:
    """Return whether a safetensors file has the layer names of the released RFDN.

    Raises DataError as `load`.
    """
    try:
        with safe_open(path, "pt") as file:
            return any(_renamed(name) != name for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"Cannot read {path}: {error}.", "Check the path and the file.") from error


@torch.no_grad()
def load(network: nn.Module, path: Path) -> None:
    """Read the released RFDN's weights from a safetensors file into a network.

    The network has the skeleton `rfdn_published` and is in float or rounded; its grids stay as
    they are. Raises DataError when the file cannot be read, lacks a tensor or has an unknown one,
    and UsageError when a tensor has another shape than the network's. The network is then
    unchanged.
    """
    try:
        tensors = {_renamed(name): tensor for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise DataError(f"Cannot read {path}: {error}.", "Check the path and the file.") from error
    targets: dict[str, Tensor] = {}
    for name, conv in convolutions(network).items():
        assert conv.bias is not None
        targets |= {f"{name}.weight": conv.weight, f"{name}.bias": conv.bias}
    _require(tensors, targets, path)
    first, *_, last = convolutions(network)
    tensors[f"{first}.weight"] *= RANGE
    tensors[f"{last}.weight"] /= RANGE
    tensors[f"{last}.bias"] /= RANGE
    for name, target in targets.items():
        target.copy_(tensors[name])


def _renamed(name: str) -> str:
    """Name that a tensor of the released RFDN has in `rfdn_published`; unknown names stay."""
    block = re.fullmatch(r"B(\d+)\.(.+)", name)
    layer, _, part = (block[2] if block else name).rpartition(".")
    if layer not in LAYERS:
        return name
    return f"cell{int(block[1]) - 1}_{LAYERS[layer]}.{part}" if block else f"{LAYERS[layer]}.{part}"


def _require(tensors: dict[str, Tensor], targets: dict[str, Tensor], path: Path) -> None:
    """Raise unless the file has exactly the tensors of the network, with their shapes."""
    remedy = "Use the weights of a released RFDN, and a network with its channels, cells and scale."
    missing, unknown = sorted(targets.keys() - tensors), sorted(tensors.keys() - targets)
    if missing:
        raise DataError(f"{path} has no weights for {missing[0].rpartition('.')[0]}.", remedy)
    if unknown:
        raise DataError(f"{path} has the tensor '{unknown[0]}', which the network lacks.", remedy)
    for name, target in targets.items():
        shape, stored = (list(t.shape) for t in (target, tensors[name]))
        if shape != stored:
            raise UsageError(
                f"{name} has the shape {shape} in the network and {stored} in {path}.", remedy
            )
