"""The initial weights of a training, and the teacher of knowledge distillation."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantnas.architectures import network, registry, released_weights
from quantnas.config import genotype as genotypes
from quantnas.config import search_space
from quantnas.config.genotype import Genotype
from quantnas.config.run_config import RunConfig
from quantnas.config.search_space import SearchSpace, load
from quantnas.errors import DataError, QuantnasError, UsageError
from quantnas.runs.networks import architecture, need
from quantnas.runs.run_folder import Run, existing
from quantnas.training import training_loop


@dataclass(frozen=True)
class Teacher:
    """A float network whose output is a training target (knowledge distillation)."""

    space: SearchSpace
    genotype: Genotype
    net: nn.Module

    def target(self, torch_device: torch.device) -> training_loop.Target:
        """The training target: the teacher's output, on a device."""
        return training_loop.teacher_target(self.net.to(torch_device))

    def sent(self) -> dict[str, Any]:
        """The data from which another process can build the teacher."""
        return {
            "space": search_space.to_yaml(self.space),
            "genotype": self.genotype.to_json(),
            "weights": self.net.state_dict(),
        }


def teacher_of(run: Run, config: RunConfig) -> Teacher:
    """The teacher that `train.teacher` names.

    Raises DataError when it has not been trained.
    """
    name = config.train.teacher
    source = run if name == "own" else existing(Path(str(name)))
    space, genotype = architecture(source)
    teacher = network.build(space, genotype, None)
    network.load(teacher, need(source.weights("float"), "train"), space)
    return Teacher(space, genotype, teacher)


def received(sent: Mapping[str, Any]) -> Teacher:
    """The teacher that `Teacher.sent` describes."""
    space = search_space.from_yaml(sent["space"])
    genotype = genotypes.from_json(sent["genotype"], "the first process")
    net = network.build(space, genotype, None)
    net.load_state_dict(sent["weights"])
    return Teacher(space, genotype, net)


def require_teacher(config: RunConfig) -> None:
    """Raise DataError unless the teacher exists, UsageError unless it has the same scale."""
    if config.train.teacher not in (None, "own"):
        space = load(config.space, config.scale)
        source = existing(Path(str(config.train.teacher)))
        teacher_space, _ = architecture(source)
        need(source.weights("float"), "train")
        if teacher_space.scale != space.scale:
            raise UsageError(
                f"The teacher {source.folder} enlarges x{teacher_space.scale}, the network "
                f"x{space.scale}.",
                "Give a teacher of the same scale.",
            )


def given_weights(config: RunConfig, source: Run | None) -> Path | None:
    """The file that `train.start` names; None if it names none.

    Raises DataError or UsageError when the file is missing, or holds the weights of another network
    than the one that is known before a search.
    """
    start = config.train.start
    if start in ("searched", "scratch"):
        return None
    if start != "float":
        if not Path(start).is_file():
            raise DataError(
                f"There is no file {start} to begin with.",
                "Give searched, scratch, float, or the path of a safetensors file.",
            )
        _require_weights(Path(start), config, source)
        return Path(start)
    if source is None:
        raise UsageError(
            "Training starts from the float network of a run, but none is given.",
            "Give the folder of a trained run.",
        )
    return need(source.weights("float"), "train")


def _require_weights(path: Path, config: RunConfig, source: Run | None) -> None:
    """Raise unless the file has the weights of the network, if its genotype is known already."""
    if source is not None:
        space, genotype = architecture(source)
    else:
        space = load(config.space, config.scale)
        file = None if config.genotype is None else Path(config.genotype)
        known = registry.known_genotype(space, file)
        if known is None:
            return
        genotype = known
    try:
        read_weights(network.build(space, genotype, None), path, space)
    except QuantnasError as error:
        remedy = "Give weights of this network in float, or --from scratch."
        raise type(error)(error.cause, remedy) from error


def read_weights(net: nn.Module, path: Path, space: SearchSpace) -> None:
    """Load float weights, of this project or of a released RFDN, into a network of `space`.

    Raises as `released_weights.load` and `network.load`.
    """
    if released_weights.known(path):
        released_weights.load(net, path)
    else:
        network.load(net, path, space)


def begin_with(net: nn.Module, run: Run, config: RunConfig, space: SearchSpace) -> str:
    """Load the initial weights, if there are any; the origin of the weights, in words."""
    given, searched = run.weights("given"), run.weights("searched")
    if given.exists():
        read_weights(net, given, space)
        return config.train.start
    if config.train.start == "searched" and searched.exists():
        network.load(net, searched, space)
        return "searched"
    return "scratch"
