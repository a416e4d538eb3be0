"""Measured damage of every layer, to check the predicted damage.

The damage of a slot is the error of the output when this slot alone is rounded. The float network
runs with a single slot rounded and its output means corrected, as in every rounded network
(`post_training.correct_biases`). This is done on the grids of the finished network, and on grids
fitted to the float weights, which the prediction assumes. Training with rounding moves weights and
grids together, so the grids of the finished network are not the best ones for the float weights.
What training did to the weights is left out on purpose: the prediction is about plain rounding.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantnas.architectures import cost, network, registry
from quantnas.config import schema
from quantnas.config.files import read_json, read_json_value, to_json, write_text
from quantnas.config.search_space import Precision, SearchSpace
from quantnas.config.validators import MOST as LARGEST
from quantnas.data import photographs
from quantnas.data.patches import to_tensor
from quantnas.data.photographs import Photograph
from quantnas.errors import DataError
from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.quantization import bit_widths, post_training
from quantnas.runs import step_results
from quantnas.runs.networks import architecture
from quantnas.runs.run_folder import Run

FILE = "damage_measured.json"
WORK = 2e10
"""Approximate limit of the multiply-accumulates of all measurements, worth some seconds."""
MOST = 8
"""Maximum number of crops."""


@dataclass(frozen=True)
class Measured:
    """The damage of a slot at its bit widths, as mean squared error of pixels in [0, 1]."""

    slot: str
    weights: int
    activations: int
    predicted: float | None
    """Predicted damage; None where nothing was predicted."""
    measured: float
    """Measured damage on the grids of the finished network."""
    fitted: float
    """Measured damage on grids fitted to the float weights and their inputs."""


@dataclass(frozen=True)
class Damages:
    """The damage of all rounded slots of a run."""

    crops: int
    height: int
    width: int
    """Height and width of a crop, low-resolution pixels."""
    slots: tuple[Measured, ...]
    agreement: float | None
    """Spearman's rank correlation of predicted and measured damage; None below three slots."""
    agreement_fitted: float | None
    """Spearman's rank correlation of predicted damage and the damage measured on fitted grids, or
    None below three slots."""


def measure(
    run: Run, photos: Sequence[Photograph], teacher: nn.Module, net: nn.Module, side: int
) -> Damages:
    """Measure the damage of all slots of a quantized run, and write damage_measured.json.

    photos: the held-out photographs; teacher: the float network; net: the quantized network, whose
    weights are replaced by those of the teacher; side: side of a crop, low-resolution pixels.
    """
    low = affordable_crops(run, photos, side)
    network.inherit(net, teacher)
    slots = tuple(rows(teacher, net, low, bit_widths.load(run.folder), predictions(run)))
    predicted = [row for row in slots if row.predicted is not None]
    agreements = [
        rank_correlation([row.predicted or 0.0 for row in predicted], values)
        for values in ([row.measured for row in predicted], [row.fitted for row in predicted])
    ]
    damages = Damages(len(low), low.shape[2], low.shape[3], slots, *agreements)
    write_text(run.path(FILE), to_json(damages))
    return damages


def affordable_crops(run: Run, photos: Sequence[Photograph], side: int) -> Tensor:
    """Crops (N, 3, H, W) of photographs, as many as `WORK` allows to measure in all slots."""
    space, genotype = architecture(run)
    precision = bit_widths.load(run.folder)
    layers = cost.layers(registry.slots(space), genotype, precision, space.scale)
    each = sum(row.macs for row in layers) * side**2 / math.prod(cost.REFERENCE)
    count = int(max(1, min(MOST, WORK / (2 * each * (len(precision) + 1)))))
    return crops(photos, space, side, count)


def load(run: Run) -> Damages | None:
    """The damages that `measure` wrote; None where there are none.

    Raises UsageError or DataError for a damaged file.
    """
    path = run.folder / FILE
    if not path.exists():
        return None
    damages = schema.parse(Damages, read_json(path), str(path))
    for row in damages.slots:
        if max(row.predicted or 0, row.measured, row.fitted) >= LARGEST:
            raise DataError(f"{path} is damaged at '{row.slot}'.", "Take it from a copy.")
    return damages


def predictions(run: Run) -> dict[str, dict[Precision, float]]:
    """Slot -> bit widths -> predicted damage, from damage.json; empty without that file."""
    path = run.folder / "damage.json"
    rows = read_json_value(path) if path.exists() else []
    schema.check(list[step_results.Predicted], rows, str(path))
    for row in rows:
        if len(row["options"]) != len(row["mse"]):
            raise DataError(f"{path} is damaged at '{row['slot']}'.", "Take it from a copy.")
    return {
        row["slot"]: dict(
            zip((Precision(**bits) for bits in row["options"]), row["mse"], strict=True)
        )
        for row in rows
    }


def crops(photos: Sequence[Photograph], space: SearchSpace, side: int, count: int) -> Tensor:
    """`count` crops along the diagonals of low-resolution photographs, (N, 3, H, W) in [0, 1].

    A photograph smaller than `side` makes all crops smaller.
    """
    used = photos[:count]
    lows = [photographs.read(photo, space.scale).low for photo in used]
    height, width = (min(side, *(low.shape[i] for low in lows)) for i in (0, 1))
    each = math.ceil(count / len(lows))
    parts = [
        low[y : y + height, x : x + width]
        for low in lows
        for y, x in zip(
            _places(low.shape[0] - height, each), _places(low.shape[1] - width, each), strict=True
        )
    ]
    return to_tensor(np.stack(parts[:count]))


def _places(room: int, count: int) -> list[int]:
    """Offsets of `count` crops: the middles of `count` equal parts of the free room."""
    return [round(room * (i + 0.5) / count) for i in range(count)]


@torch.no_grad()
def rows(
    teacher: nn.Module,
    net: nn.Module,
    low: Tensor,
    precision: Mapping[str, Precision],
    predicted: Mapping[str, Mapping[Precision, float]],
) -> Iterator[Measured]:
    """The damage of every rounded slot, one by one; fits the grids of `net` anew on the way.

    Slots that share a kernel are rounded together, and stand at the first of them.
    teacher: the float network; net: the same weights with grids; low: (N, 3, H, W) in [0, 1].
    """
    finished = _errors(teacher, net, low, precision)
    network.initialise(net, low)
    fitted = _errors(teacher, net, low, precision)
    for slot, error in finished.items():
        bits = precision[slot]
        members = _rounded_with(slot, network.convolutions(net))
        known = [predicted[name][bits] for name in members if bits in predicted.get(name, {})]
        mse = sum(known) if known else None
        yield Measured(slot, bits.weights, bits.activations, mse, error, fitted[slot])


def _errors(
    teacher: nn.Module, net: nn.Module, low: Tensor, precision: Mapping[str, Precision]
) -> dict[str, float]:
    """Slot -> mean squared error of the output when this slot alone is rounded."""
    plain, means = teacher.eval()(low), post_training.mean_outputs(teacher, low)
    rounded = network.convolutions(net.eval())
    errors = {}
    sharing = {name for name, conv in rounded.items() if conv.shares}
    for slot, bits in precision.items():
        names = {slot, *_rounded_with(slot, rounded)}
        parts = {n: c for n, c in rounded.items() if n in names or n.rpartition(".")[0] == slot}
        if parts and slot not in sharing and bits != Precision(32, 32):
            with _replaced(teacher, parts, means):
                errors[slot] = float((teacher(low) - plain).square().mean())
    return errors


def _rounded_with(slot: str, convs: Mapping[str, Conv2d]) -> list[str]:
    """The slot, and those that share its kernel."""
    return [slot, *(name for name, conv in convs.items() if conv.shares == slot)]


@contextmanager
def _replaced(
    teacher: nn.Module, parts: Mapping[str, Conv2d], means: Mapping[str, Tensor]
) -> Iterator[None]:
    """Within this context, `parts` replace their convolutions, with output means corrected."""

    def hook(conv: Conv2d, args: tuple[Tensor], out: Tensor) -> Tensor | None:
        part: Any = parts.get(conv.name)
        if part is None:
            return None
        x = args[0]
        if isinstance(part, QuantConv2d) and not part.inner:
            x = part.source(x)
        rounded: Tensor = part(x)
        return rounded + (means[conv.name] - rounded.mean((0, 2, 3)))[:, None, None]

    with network.hooked(teacher, hook):
        yield


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation, -1 to 1; None below three values, and where all are equal."""
    if len(first) < 3:
        return None
    a, b = _ranks(first), _ranks(second)
    spread = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    return float((a * b).sum()) / spread if spread else None


def _ranks(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Ranks minus their mean; equal values share a rank."""
    array = np.asarray(values)
    ranks = (array[:, None] > array).sum(1) + (array[:, None] == array).sum(1) / 2
    return ranks - ranks.mean()


def sentence(damages: Damages) -> str:
    """A sentence about the agreement of predicted and measured damage."""
    predicted = [row for row in damages.slots if row.predicted is not None]
    if damages.agreement is None or damages.agreement_fitted is None:
        return f"{len(predicted)} layers were predicted: too few to say how well the two agree."
    return (
        f"Rank correlation of predicted and measured over {len(predicted)} layers: "
        f"{damages.agreement:.2f} on the grids of the finished network, "
        f"{damages.agreement_fitted:.2f} on grids fitted to the float weights, as the prediction "
        "assumes."
    )
