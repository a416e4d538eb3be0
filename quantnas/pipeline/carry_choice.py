"""The choice which tensors of an imported network are carried in 8 bits, and which in float.

Convolutions whose input and output lie on grids run several times as fast in ONNX Runtime, but each
grid adds its rounding. The choice begins with a grid on every tensor that can have one, and frees
those that do most damage for the time that they save, until the loss is small.
"""

import copy
import tempfile
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from quantnas.architectures import cost, imported_onnx, network
from quantnas.architectures.imported_onnx import ImportedNetwork
from quantnas.config.genotype import Genotype
from quantnas.config.run_config import RunConfig
from quantnas.config.search_space import Pixels, Precision, SearchSpace
from quantnas.data.patches import Patches
from quantnas.evaluation import latency, session_noise
from quantnas.exporters import graph_surgery
from quantnas.onnx_import import pixel_conversion
from quantnas.onnx_import.onnx_session import open_session
from quantnas.progress import Progress
from quantnas.quantization import equalisation, post_training, ranges
from quantnas.quantization.carry import CarriedForm, Carry
from quantnas.training import training_loop

SIZE = (128, 128)
"""(height, width) of the image for which the forms are timed, unless the file takes another."""
MACS = 10e9
"""MACs that one pass over those photographs may take (`activation_ranges.images`)."""
PHOTOGRAPHS = 16
"""Number of photographs from which the ranges of the trials come."""
CROPS = 12
"""Number of calibration crops on which the grids and biases of the trials are fitted."""
ORIGINAL = "original"
"""Name of the float file among those that are timed."""
RUNS = 5
"""Number of runs of each form, by turns."""
TRIES = 2
"""Number of choices that are measured between the two forms, at most."""
REGAINED = 1.5
"""Least ratio of the loss of a carried tensor before retraining to that after it."""
SHARE = 0.2
"""Share of the damage that a try frees at least, of what is too much."""


@dataclass(frozen=True)
class Question:
    """A network whose tensors are to be carried in one way or another."""

    space: SearchSpace
    genotype: Genotype
    precision: Mapping[str, Precision]
    teacher: ImportedNetwork
    low: Tensor
    """Calibration crops, (crops, 3, H, W) in [0, 1]."""
    photographs: Sequence[Tensor]
    """Images from which ranges come, each (1, 3, H, W) in [0, 1]."""
    held: Patches
    """Validation patches."""
    config: RunConfig

    @property
    def allowed(self) -> float:
        """Loss against the form in float, before least squares and retraining, dB."""
        c = self.config.quantize
        return c.carry_drop * (REGAINED if c.retrains else 1.0)


def choose(question: Question) -> Generator[Progress, None, Carry]:
    """Choose the tensors that are carried in 8 bits.

    The float network of the question is equalised for them, in place, if there are any.
    """
    names, how = imported_onnx.carried(question.space), question.config.quantize.carry
    if how == "float" or not names:
        return Carry(in_float=names)
    yield Progress("carried tensors", 0, 1, {})
    equalised = copy.deepcopy(question.teacher)
    damage = equalisation.equalise(
        equalised, names, question.precision, question.low, question.photographs
    )
    carry = Carry(names, (), damage)
    if how == "auto":
        carry = yield from _compared(replace(question, teacher=equalised), carry)
    if carry.tensors:
        question.teacher.load_state_dict(equalised.state_dict())
    yield Progress("carried tensors", 1, 1, {}, tuple(_notes(carry)))
    return carry


def _compared(question: Question, carry: Carry) -> Generator[Progress, None, Carry]:
    """Free tensors until the loss against the form in float is small enough."""
    carries = {"integer": carry, "float": Carry(in_float=carry.tensors)}
    latest = "integer"
    with tempfile.TemporaryDirectory(prefix="quantnas-") as folder:
        trial = _Trial(question, Path(folder))
        losses = {name: trial.loss(name, each.tensors) for name, each in carries.items()}
        for k in range(TRIES):
            excess = losses[latest] - losses["float"] - question.allowed
            if excess <= 0 or not carries[latest].tensors:
                break
            yield Progress("carried tensors", k + 1, TRIES + 2, {})
            freed = _freed(question, carries[latest], excess, losses[latest])
            latest = "chosen"
            carries[latest], losses[latest] = freed, trial.loss(latest, freed.tensors)
        times, size = trial.times()
    best = _fast_enough(latest, times)
    forms = {name: CarriedForm(times[name], losses[name]) for name in ("integer", "float")}
    forms |= {
        "chosen": CarriedForm(times[best], losses[best]),
        ORIGINAL: CarriedForm(times[ORIGINAL], 0.0),
    }
    return replace(carries[best], size=size, forms=forms)


def _fast_enough(latest: str, times: Mapping[str, float]) -> str:
    """The form to take: the latest, unless that gives up the time which it is for."""
    if times[latest] > times[ORIGINAL] > times["integer"]:
        latest = "integer"
    return "float" if times["float"] <= times[latest] else latest


def _freed(question: Question, carry: Carry, excess: float, loss: float) -> Carry:
    """Free the tensors with the largest damage for their time, worth the share of what is lost."""
    price = imported_onnx.carried_costs(question.space)
    order = sorted(carry.tensors, key=lambda name: -carry.damage.get(name, 0.0) / price[name])
    wanted, freed = carry.mse * min(1.0, max(SHARE, 1.2 * excess / loss)), 0.0
    out: set[str] = set()
    for name in order:
        if freed >= wanted:
            break
        freed += carry.damage.get(name, 0.0)
        out.add(name)
    kept = tuple(name for name in carry.tensors if name not in out)
    return replace(carry, tensors=kept, in_float=(*carry.in_float, *sorted(out)))


class _Trial:
    """Networks that are rounded plainly, with their files."""

    def __init__(self, question: Question, folder: Path) -> None:
        self.question, self.folder = question, folder
        self.error = 10 ** (-training_loop.measure(question.teacher, question.held) / 10)
        self.target = training_loop.Objective(training_loop.teacher_target(question.teacher))

    def loss(self, form: str, tensors: Collection[str]) -> float:
        """Loss of PSNR of a form against the float network, dB; writes its file."""
        q = self.question
        net = network.build(q.space, q.genotype, q.precision, tensors)
        network.inherit(net, q.teacher)
        for _ in ranges.measure(net, q.photographs):
            pass
        network.initialise(net, q.low[:CROPS])
        post_training.correct_biases(net, q.teacher, q.low[:CROPS])
        frozen = post_training.freeze(net)
        self._write(frozen, self.folder / f"{form}.onnx")
        error = 10 ** (-training_loop.measure(frozen, q.held, self.target) / 10)
        return float(10 * np.log10(1 + error / self.error))

    def _write(self, net: nn.Module, path: Path) -> None:
        q = self.question
        assert isinstance(net, ImportedNetwork)
        totals = cost.network_cost(q.space, q.genotype, q.precision)
        graph_surgery.to_onnx(net, totals, q.space, path, q.config.export)

    def times(self) -> tuple[dict[str, float], tuple[int, int]]:
        """Form -> processor milliseconds of its file, by turns; the size of the image."""
        files = {path.stem: path for path in self.folder.glob("*.onnx")}
        files[ORIGINAL] = Path(self.question.space.source)
        sessions = {name: open_session(path, threads=1) for name, path in files.items()}
        any_session = next(iter(sessions.values()))
        size = session_noise.own_size(any_session) or _fitting(self.question.space.pixels)
        runs = {name: latency.runner(run, size, name) for name, run in sessions.items()}
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run()
        for _ in range(RUNS):
            for name, run in runs.items():
                began = latency.now()[1]
                run()
                taken[name].append(1000 * (latency.now()[1] - began))
        return {name: min(values) for name, values in taken.items()}, size


def _fitting(pixels: Pixels) -> tuple[int, int]:
    """The size of an image about as large as `SIZE` that a network takes."""
    height, width = (pixel_conversion.fitting(side, pixels) for side in SIZE)
    return height, width


def _notes(carry: Carry) -> Iterator[str]:
    yield f"carried tensors: {summary(carry)}"
    for name, form in carry.forms.items():
        yield (
            f"  {name}: {form.milliseconds:.1f} ms, {form.loss:.2f} dB lost before least squares"
        )


def summary(carry: Carry) -> str | None:
    """How many tensors are carried in 8 bits, and the time that it saves; None without any."""
    count = len(carry.tensors) + len(carry.in_float)
    if not count:
        return None
    text = f"{len(carry.tensors)} of {count} tensors between convolutions in 8 bits"
    if not carry.forms:
        return text
    chosen, whole = (carry.forms[name].milliseconds for name in ("chosen", ORIGINAL))
    size = "x".join(map(str, carry.size or ()))
    return f"{text}: {chosen:.1f} ms for {size} pixels, the float file {whole:.1f} ms"
