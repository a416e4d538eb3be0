"""What a training begins with: weights of elsewhere, and the float network that teaches."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantnas.architectures import network, registry, released_weights
from quantnas.config import genotype, search_space
from quantnas.config.genotype import Genotype
from quantnas.config.run_config import RunConfig
from quantnas.config.search_space import SearchSpace, load
from quantnas.errors import DataError, QuantnasError, UsageError
from quantnas.runs.networks import architecture, need
from quantnas.runs.run_folder import Run, existing
from quantnas.training import training_loop


@dataclass(frozen=True)
class Teacher:
    """A float network that is learned from, too."""

    space: SearchSpace
    genotype: Genotype
    net: nn.Module

    def target(self, torch_device: torch.device) -> training_loop.Target:
        """What it makes of the pixels."""
        return training_loop.teacher_target(self.net.to(torch_device))

    def sent(self) -> dict[str, Any]:
        """All that another process needs to build it."""
        told = {"space": search_space.to_yaml(self.space), "genotype": self.genotype.to_json()}
        return {**told, "weights": self.net.state_dict()}


def teacher_of(run: Run, config: RunConfig) -> Teacher:
    """The float network that `train.teacher` names."""
    name = config.train.teacher
    source = run if name == "own" else existing(Path(str(name)))
    theirs, found = architecture(source)
    teacher = network.build(theirs, found, None)
    network.load(teacher, need(source.weights("float"), "train"), theirs)
    return Teacher(theirs, found, teacher)


def received(sent: Mapping[str, Any]) -> Teacher:
    """What `Teacher.sent` describes."""
    space = search_space.from_yaml(sent["space"])
    found = genotype.from_json(sent["genotype"], "the first process")
    net = network.build(space, found, None)
    net.load_state_dict(sent["weights"])
    return Teacher(space, found, net)


def require_teacher(config: RunConfig) -> None:
    """Raise unless the teacher is there and enlarges as much."""
    if config.train.teacher not in (None, "own"):
        search_space = load(config.space, config.scale)
        source = existing(Path(str(config.train.teacher)))
        theirs, _ = architecture(source)
        need(source.weights("float"), "train")
        if theirs.scale != search_space.scale:
            raise UsageError(
                f"The teacher {source.folder} enlarges x{theirs.scale}, the network "
                f"x{search_space.scale}.",
                "Give a teacher of the same scale.",
            )


def given_weights(config: RunConfig, source: Run | None) -> Path | None:
    """The file that `training_loop.start` means, if it means one.

    Raises DataError or UsageError when it is missing, or when it is of another network than the
    one that is known before a search.
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
    """Raise unless the file has the weights of the network, if that is known already."""
    if source is not None:
        search_space, found = architecture(source)
    else:
        search_space = load(config.space, config.scale)
        given = None if config.genotype is None else Path(config.genotype)
        known = registry.known_genotype(search_space, given)
        if known is None:
            return
        found = known
    try:
        read_weights(network.build(search_space, found, None), path, search_space)
    except QuantnasError as error:
        remedy = "Give weights of this network in float, or --from scratch."
        raise type(error)(error.cause, remedy) from error


def read_weights(net: nn.Module, path: Path, space: SearchSpace) -> None:
    """Load weights in float, of this project or of another one, into a network of `where`.

    Raises as `released_weights.load` and `network.load`.
    """
    if released_weights.known(path):
        released_weights.load(net, path)
    else:
        network.load(net, path, space)


def begin_with(net: nn.Module, run: Run, config: RunConfig, space: SearchSpace) -> str:
    """Load the weights to begin with, if there are any; where they come from."""
    given, searched = run.weights("given"), run.weights("searched")
    if given.exists():
        read_weights(net, given, space)
        return config.train.start
    if config.train.start == "searched" and searched.exists():
        network.load(net, searched, space)
        return "searched"
    return "scratch"
