"""Begins a run with pre-trained weights, as if it had searched and trained.

Later steps need a genotype and a float network. The genotype is given, or the only one of its
space; the network is read from a file of this project or from a released RFDN.
"""

from dataclasses import replace
from pathlib import Path
from typing import get_args

from safetensors import SafetensorError, safe_open
from torch import nn

from quantnas.architectures import network, registry
from quantnas.architectures.registry import slots
from quantnas.config import files, search_space
from quantnas.config.genotype import Genotype
from quantnas.config.run_config import RunConfig
from quantnas.config.search_space import SearchSpace
from quantnas.data import patches, photo_cache
from quantnas.errors import DataError, QuantnasError, UsageError
from quantnas.quantization.bit_widths import precision_of
from quantnas.runs.run_folder import Run
from quantnas.runs.run_photographs import photographs_of
from quantnas.runs.run_settings import GIVEN

from . import initial_weights, search_step, train_step

ROUNDED = ".weight_quantizer."
"""Part of the names of tensors that only rounded networks have."""


def adopt(run: Run, config: RunConfig, weights: Path) -> None:
    """Finish the steps `search` and `train` of a begun run with the weights in a file.

    Where the bit widths are those of the genotype, the grids of a rounded network are fitted on
    photographs of the run; its weights stay.

    Raises DataError for a missing file or one of another network, UsageError for weights that are
    quantized already or have other shapes, and for a space with open choices.
    """
    space = search_space.load(str(run.folder / "space.yaml"))
    if not space.source:  # a quantized imported network was refused before
        require_float(weights)
    genotype = _genotype(run, space)
    nets = {"float": _read(weights, space, genotype)}
    if config.as_searched:
        nets["trained"] = _rounded(run, config, space, genotype, nets["float"])
    for name, net in nets.items():
        network.save(net, run.weights(name), space)
    origin = {"adopted": str(weights), "sha256": files.sha256(weights)}
    for _ in search_step.search_step(run, config):
        pass  # nothing is left to be searched
    run.finish("search", {**(run.result("search") or {}), **origin})
    run.finish("train", {"seconds": 0.0, **origin})


def require_float(weights: Path) -> None:
    """Raise UsageError when the file holds a rounded network, DataError when it cannot be read."""
    if any(ROUNDED in name for name in _header(weights)[0]):
        raise UsageError(f"{weights} is already quantized.", instead(weights))


def instead(weights: Path, otherwise: str = "Give the float network.") -> str:
    """The remedy that names the run folder of a file, or `otherwise` if it lies in none."""
    folder = weights.absolute().parent.parent
    return f"Give the run folder, {folder}." if (folder / "config.yaml").is_file() else otherwise


def space_of(weights: Path) -> tuple[str, int] | None:
    """The (built-in space, scale) that a checkpoint states; None where it states none.

    Raises DataError when the file cannot be read.
    """
    name, _, scale = _header(weights)[1].rpartition(" x")
    return (name, int(scale)) if name in search_space.builtin() and scale.isdecimal() else None


def _genotype(run: Run, space: SearchSpace) -> Genotype:
    file = run.folder / GIVEN
    genotype = registry.known_genotype(space, file if file.exists() else None)
    if genotype is None:
        count = sum(slot.options > 1 for slot in slots(space))
        raise UsageError(
            f"Space '{space.name}' leaves {count} choices open.",
            "Give --genotype, the JSON file of the architecture that the weights belong to.",
        )
    return genotype


def _read(weights: Path, space: SearchSpace, genotype: Genotype) -> nn.Module:
    """The float network with the weights of a file."""
    net = network.build(space, genotype, None)
    if space.source:  # an imported network comes with its weights
        return net
    try:
        initial_weights.read_weights(net, weights, space)
    except QuantnasError as error:
        _require_scale(weights, space, genotype)
        remedy = "Give float weights of this network, or the --space and --genotype of the weights."
        raise type(error)(error.cause, remedy) from error
    return net


def _require_scale(weights: Path, space: SearchSpace, genotype: Genotype) -> None:
    """Raise UsageError when the weights are those of the same network at another scale."""
    for scale in {*get_args(search_space.Scale)} - {space.scale}:
        other = replace(space, scale=scale)
        try:
            initial_weights.read_weights(network.build(other, genotype, None), weights, other)
        except QuantnasError:
            continue
        raise UsageError(
            f"The weights in {weights} enlarge x{scale}, but x{space.scale} is asked for.",
            f"Give --scale {scale}.",
        )


def _header(path: Path) -> tuple[list[str], str]:
    """(names of the tensors, metadata about the space) of a safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            return list(file.keys()), (file.metadata() or {}).get(network.SPACE_KEY, "")
    except (OSError, SafetensorError) as error:
        raise DataError(f"Cannot read {path}: {error}.", "Check the path and the file.") from error


def _rounded(
    run: Run, config: RunConfig, space: SearchSpace, genotype: Genotype, net: nn.Module
) -> nn.Module:
    """The network at the bit widths of its genotype, with fitted grids."""
    rounded = network.build(space, genotype, precision_of(space, genotype, config))
    network.inherit(rounded, net)
    size = config.quantize.patch
    loaded = photo_cache.load(photographs_of(run, config).train, space.scale, size)
    learn, _ = patches.split(loaded.pairs, size, config.seed, train_step.SHARES)
    network.initialise(rounded, learn.batch(0, config.quantize.crops)[0])
    return rounded
