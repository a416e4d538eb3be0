"""What a run works on: its photographs, its device, its settings, and what its folder holds."""

from pathlib import Path

from torch import nn

from quantnas.architectures import cost, network, registry
from quantnas.config import files, genotype, search_space
from quantnas.config.genotype import Genotype
from quantnas.config.search_space import Precision
from quantnas.errors import DataError

from .run_folder import Run


def architecture(run: Run) -> tuple[search_space.SearchSpace, Genotype]:
    """The space and the genotype of a run. Raises DataError when it has not searched yet."""
    found = genotype.load(need(run.path("genotype.json"), "search"))
    return search_space.load(str(need(run.path("space.yaml"), "search"))), found


def quantized(run: Run) -> tuple[search_space.SearchSpace, nn.Module, cost.Cost]:
    """The network on integers of a run, with its cost."""
    space, found = architecture(run)
    rows = files.read_json(need(run.path("precision.json"), "quantize"))
    precision = {name: Precision(**bits) for name, bits in rows.items()}
    net = network.build(space, found, precision)
    network.load(net, need(run.weights("quantized"), "quantize"), space)
    return space, net.eval(), cost.network_cost(space, found, precision)


def checkpoint(run: Run, kind: str) -> tuple[search_space.SearchSpace, nn.Module, cost.Cost]:
    """A network of a run with its cost: `searched` and `float` ones cost 32 x 32 bits."""
    if kind == "quantized":
        return quantized(run)
    space, found = architecture(run)
    rounded = kind == "trained" and not space.is_float
    precision = genotype.searched_precision(found) if rounded else None
    net = network.build(space, found, precision)
    network.load(net, run.weights(kind), space)
    bits = precision or {slot.name: Precision(32, 32) for slot in registry.slots(space)}
    return space, net.eval(), cost.network_cost(space, found, bits)


def need(path: Path, step: str) -> Path:
    if not path.exists():
        raise DataError(
            f"{path} is not there: the step '{step}' has not finished in this run.",
            f"Run `quantnas {step}` first, or give a run that has it.",
        )
    return path
