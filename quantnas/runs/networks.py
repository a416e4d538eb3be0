"""The networks in a run folder: its search space, genotype, checkpoints and their cost."""

from pathlib import Path

from torch import nn

from quantnas.architectures import cost, network, registry
from quantnas.config import genotype as genotypes
from quantnas.config import search_space
from quantnas.config.genotype import Genotype
from quantnas.config.search_space import Precision
from quantnas.errors import DataError
from quantnas.quantization import bit_widths, carry

from . import run_settings
from .run_folder import Run


def architecture(run: Run) -> tuple[search_space.SearchSpace, Genotype]:
    """The search space and genotype of a run.

    Raises DataError when it has not searched yet, and for an imported network of an earlier version
    that took fewer operations for layers.
    """
    genotype = genotypes.load(need(run.path("genotype.json"), "search"))
    need(run.path("space.yaml"), "search")
    space = run_settings.space_of(run)
    slots = registry.slots(space)
    if space.source and genotype.choices.keys() != {slot.name for slot in slots}:
        raise DataError(
            f"{run.folder} was made by an earlier version, with other layers.",
            f"Quantize {space.source} again; the model.onnx of this run stays usable.",
        )
    genotypes.check(genotype, slots, space.name)
    return space, genotype


def quantized(run: Run) -> tuple[search_space.SearchSpace, nn.Module, cost.Cost]:
    """(search space, network on integer weights, its cost) of a quantized run.

    Raises DataError when the run is not quantized yet.
    """
    space, genotype = architecture(run)
    path = need(run.path("precision.json"), "quantize")
    precision = bit_widths.load(run.folder)
    if precision.keys() != {slot.name for slot in registry.slots(space)}:
        raise DataError(
            f"{path} does not name the layers of this run's network.", "Take it from a copy."
        )
    net = network.build(space, genotype, precision, carry.load(run.folder).tensors)
    network.load(net, need(run.weights("quantized"), "quantize"), space)
    return space, net.eval(), cost.network_cost(space, genotype, precision)


def teacher_of(run: Run) -> nn.Module:
    """The float network that the quantized one was made from, layer by layer.

    That of an imported network may have other channel ranges than its file (`equalisation`).
    """
    space, net, _ = checkpoint(run, "float")
    if carry.load(run.folder).tensors:
        network.load(net, need(run.weights(carry.TEACHER), "quantize"), space)
    return net


def checkpoint(run: Run, kind: str) -> tuple[search_space.SearchSpace, nn.Module, cost.Cost]:
    """(search space, network, its cost) of a checkpoint; `searched` and `float` count 32 bits.

    kind: `searched`, `float`, `trained` or `quantized`. Raises DataError when it is missing.
    """
    if kind == "quantized":
        return quantized(run)
    space, genotype = architecture(run)
    rounded = kind == "trained" and not space.is_float
    precision = genotypes.searched_precision(genotype) if rounded else None
    net = network.build(space, genotype, precision)
    network.load(net, run.weights(kind), space)
    bits = precision or {slot.name: Precision(32, 32) for slot in registry.slots(space)}
    return space, net.eval(), cost.network_cost(space, genotype, bits)


def need(path: Path, step: str) -> Path:
    """The path itself. Raises DataError, which names the step that makes it, when it is missing."""
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    if not path.exists() and Run(folder).result(step) is not None:
        raise DataError(
            f"{path} is not there any more, although the step '{step}' has finished in this run.",
            "Take it from a copy, or begin a new run.",
        )
    if not path.exists():
        raise DataError(
            f"{path} is not there: the step '{step}' has not finished in this run.",
            f"Run `quantnas {step}` first, or give a run that has it.",
        )
    return path
