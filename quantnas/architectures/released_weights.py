"""Weights of other projects: the released RFDN (arXiv 2009.11551), under the names of its layers.

Its pixels lie in [0, 255]; those of every network here lie in [0, 1]. The factor is multiplied
into the first convolution and divided out of the last one.
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
"""Layer of the released RFDN -> ours; from `c1_d` on, of a block: B1 is our cell0."""
RANGE = 255.0
"""Of its pixels, where ours have 1."""


def known(path: Path) -> bool:
    """Whether the file has the names of another project. Raises DataError as `load`."""
    try:
        with safe_open(path, "pt") as file:
            return any(_ours(name) != name for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"Cannot read {path}: {error}.", "Check the path and the file.") from error


@torch.no_grad()
def load(network: nn.Module, path: Path) -> None:
    """Read the released RFDN's weights from a safetensors file into a network of its form.

    `network`: of the skeleton `rfdn_published`, in float or rounded; grids stay as they are.
    Raises DataError when the file cannot be read, lacks a tensor or has one that is unknown, and
    UsageError when a tensor has another shape than the network's. Nothing is copied then.
    """
    try:
        found = {_ours(name): tensor for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise DataError(f"Cannot read {path}: {error}.", "Check the path and the file.") from error
    wanted: dict[str, Tensor] = {}
    for name, conv in convolutions(network).items():
        assert conv.bias is not None
        wanted |= {f"{name}.weight": conv.weight, f"{name}.bias": conv.bias}
    _require(found, wanted, path)
    first, *_, last = convolutions(network)
    found[f"{first}.weight"] *= RANGE
    found[f"{last}.weight"] /= RANGE
    found[f"{last}.bias"] /= RANGE
    for name, target in wanted.items():
        target.copy_(found[name])


def _ours(name: str) -> str:
    """Our name of one of their tensors; an unknown one stays as it is."""
    block = re.fullmatch(r"B(\d+)\.(.+)", name)
    layer, _, part = (block[2] if block else name).rpartition(".")
    if layer not in LAYERS:
        return name
    return f"cell{int(block[1]) - 1}_{LAYERS[layer]}.{part}" if block else f"{LAYERS[layer]}.{part}"


def _require(found: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    """Raise unless there are exactly the wanted tensors, with their shapes."""
    remedy = "Use the weights of a released RFDN, and a network with its channels, cells and scale."
    missing, unknown = sorted(wanted.keys() - found), sorted(found.keys() - wanted)
    if missing:
        raise DataError(f"{path} has no weights for {missing[0].rpartition('.')[0]}.", remedy)
    if unknown:
        raise DataError(f"{path} has the tensor '{unknown[0]}', which the network lacks.", remedy)
    for name, target in wanted.items():
        ours, theirs = (list(t.shape) for t in (target, found[name]))
        if ours != theirs:
            raise UsageError(
                f"{name} has the shape {ours} in the network and {theirs} in {path}.", remedy
            )
