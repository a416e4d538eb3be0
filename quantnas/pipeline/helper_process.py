"""The work of all processes but the first one: they share its loops, on rows of every batch."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from quantnas.config import schema
from quantnas.config.run_config import RunConfig
from quantnas.errors import LostError, QuantnasError
from quantnas.training.processes import (
    agree,
    device,
    disconnect,
    follow,
    is_helper,
    launch,
    launched,
    require_gpus,
    size,
    tasks,
)

from . import search_step, train_step

STEPS: dict[str, Callable[[Mapping[str, Any], RunConfig], Iterator[Any]]] = {
    "search": search_step.assist,
    "train": train_step.assist,
}


def join() -> None:
    """Do the work of a helper process and exit, if this process is one.

    Where torchrun started all processes, the first one joins the group here, so that the others are
    released whatever goes wrong later.
    """
    if "WORLD_SIZE" not in os.environ:
        return
    world = int(os.environ["WORLD_SIZE"])
    if is_helper():
        try:
            assist(world)
        except LostError:  # the first process has failed, and reports it
            sys.exit(1)
        sys.exit(0)
    if launched():
        launch(world)


def assist(processes: int) -> None:
    """Help the first process until it releases this one.

    Writes nothing, and leaves Ctrl-C to the first process. Raises LostError when that is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    launch(processes)
    for task in tasks():
        problem, steps = "", iter(())
        try:
            steps = _steps(task)
        except QuantnasError as error:
            problem = f"{error.cause} {error.remedy}"
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if agree(problem):
            follow(steps)
    disconnect()


def _steps(task: Mapping[str, Any]) -> Iterator[Any]:
    """The steps of the loop that a task describes, on the device of this process."""
    config = schema.parse(RunConfig, task["config"], "the first process")
    torch_device = device(config)
    if torch_device.type == "cuda":
        require_gpus(size())
        torch.cuda.set_device(torch_device)
    return STEPS[task["step"]](task, config)
