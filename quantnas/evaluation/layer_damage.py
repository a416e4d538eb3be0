"""What rounding one slot alone does to the output, measured: the check of what was predicted.

The float network runs with a single slot rounded and its means made good, as every rounded network
has them (`post_training.correct_biases`): on the grids of the finished network, and on grids fitted to
the float weights, which the prediction is about. Training with rounding moves weights and grids
together, so the former are no longer the best for the float weights. What it has done to the
weights is left out on purpose: the prediction is about plain rounding.
"""

import json
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
from quantnas.config.files import read_json, to_json, write_text
from quantnas.config.search_space import Precision, SearchSpace
from quantnas.data import photographs
from quantnas.data.patches import to_tensor
from quantnas.data.photographs import Photograph
from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.quantization import bit_widths, post_training
from quantnas.runs.networks import architecture
from quantnas.runs.run_folder import Run

FILE = "damage_measured.json"
WORK = 2e10
"""Multiply-accumulates in float that all measurements of a run may take, about: some seconds."""
MOST = 8
"""Crops, at most."""


@dataclass(frozen=True)
class Measured:
    """A slot with the bits that it has."""

    slot: str
    weights: int
    activations: int
    predicted: float | None
    """Mean squared error of the output, pixels in [0, 1]; none where nothing was predicted."""
    measured: float
    """On the grids of the finished network."""
    fitted: float
    """On grids fitted to the float weights and to what they read."""


@dataclass(frozen=True)
class Damages:
    """All rounded slots of a run."""

    crops: int
    height: int
    width: int
    """Low-resolution pixels of a crop."""
    slots: tuple[Measured, ...]
    agreement: float | None
    """Rank correlation (Spearman) of predicted and measured; none below three slots."""
    agreement_fitted: float | None


def measure(
    run: Run, photos: Sequence[Photograph], teacher: nn.Module, net: nn.Module, side: int
) -> Damages:
    """Write damage_measured.json of a quantized run, and give what is in it.

    photos: what the run has held out; teacher: its float network; net: its quantized network,
    whose weights become those of the teacher; side: of a crop, low-resolution pixels.
    """
    space, found = architecture(run)
    precision = bit_widths.load(run.folder)
    layers = cost.layers(registry.slots(space), found, precision, space.scale)
    each = sum(row.macs for row in layers) * side**2 / math.prod(cost.REFERENCE)
    count = int(max(1, min(MOST, WORK / (2 * each * (len(precision) + 1)))))
    low = crops(photos, space, side, count)
    network.inherit(net, teacher)
    slots = tuple(rows(teacher, net, low, precision, predictions(run)))
    known = [row for row in slots if row.predicted is not None]
    agreements = [
        rank_correlation([row.predicted or 0.0 for row in known], values)
        for values in ([row.measured for row in known], [row.fitted for row in known])
    ]
    damages = Damages(len(low), low.shape[2], low.shape[3], slots, *agreements)
    write_text(run.path(FILE), to_json(damages))
    return damages


def load(run: Run) -> Damages | None:
    """What `measure` wrote; none where it has not."""
    path = run.folder / FILE
    return schema.parse(Damages, read_json(path), str(path)) if path.exists() else None


def predictions(run: Run) -> dict[str, dict[Precision, float]]:
    """Slot -> width -> predicted mean squared error, as damage.json has them; empty without it."""
    path = run.folder / "damage.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return {
        row["slot"]: dict(zip((Precision(**w) for w in row["options"]), row["mse"], strict=True))
        for row in rows
    }


def crops(photos: Sequence[Photograph], space: SearchSpace, side: int, count: int) -> Tensor:
    """(N, 3, H, W) in [0, 1]: parts of low-resolution photographs that lie along their diagonal.

    Photographs smaller than `side` make all of them smaller.
    """
    used = photos[:count]
    lows = [photographs.read(photo, space.scale).low for photo in used]
    height, width = (min(side, *(low.shape[i] for low in lows)) for i in (0, 1))
    each = math.ceil(count / len(lows))
    found = [
        low[y : y + height, x : x + width]
        for low in lows
        for y, x in zip(
            _places(low.shape[0] - height, each), _places(low.shape[1] - width, each), strict=True
        )
    ]
    return to_tensor(np.stack(found[:count]))


def _places(room: int, count: int) -> list[int]:
    """The middles of as many equal parts."""
    return [round(room * (i + 0.5) / count) for i in range(count)]


@torch.no_grad()
def rows(
    teacher: nn.Module,
    net: nn.Module,
    low: Tensor,
    precision: Mapping[str, Precision],
    predicted: Mapping[str, Mapping[Precision, float]],
) -> Iterator[Measured]:
    """Every rounded slot, one after the other; the grids of `net` are fitted anew on the way.

    teacher: in float; net: the same weights with grids; low (N, 3, H, W) in [0, 1].
    """
    finished = _errors(teacher, net, low, precision)
    network.initialise(net, low)
    fitted = _errors(teacher, net, low, precision)
    for slot, error in finished.items():
        width = precision[slot]
        mse = predicted.get(slot, {}).get(width)
        yield Measured(slot, width.weights, width.activations, mse, error, fitted[slot])


def _errors(
    teacher: nn.Module, net: nn.Module, low: Tensor, precision: Mapping[str, Precision]
) -> dict[str, float]:
    """Slot -> mean squared error of the output when it alone is rounded."""
    plain, wanted = teacher.eval()(low), post_training.mean_outputs(teacher, low)
    rounded = network.convolutions(net.eval())
    errors = {}
    for slot, width in precision.items():
        parts = {n: c for n, c in rounded.items() if n == slot or n.rpartition(".")[0] == slot}
        if parts and width != Precision(32, 32):
            with _replaced(teacher, parts, wanted):
                errors[slot] = float((teacher(low) - plain).square().mean())
    return errors


@contextmanager
def _replaced(
    teacher: nn.Module, parts: Mapping[str, Conv2d], wanted: Mapping[str, Tensor]
) -> Iterator[None]:
    """While this is open, those convolutions of the float network round, their means made good."""

    def hook(conv: Conv2d, args: tuple[Tensor], out: Tensor) -> Tensor | None:
        part: Any = parts.get(conv.name)
        if part is None:
            return None
        x = args[0]
        if isinstance(part, QuantConv2d) and not part.inner:
            x = part.source(x)
        made: Tensor = part(x)
        return made + (wanted[conv.name] - made.mean((0, 2, 3)))[:, None, None]

    with network.hooked(teacher, hook):
        yield


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's, between -1 and 1; none of fewer than three, and where all are equal."""
    if len(first) < 3:
        return None
    a, b = _ranks(first), _ranks(second)
    spread = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    return float((a * b).sum()) / spread if spread else None


def _ranks(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Ranks around their mean; equal values share one."""
    found = np.asarray(values)
    ranks = (found[:, None] > found).sum(1) + (found[:, None] == found).sum(1) / 2
    return ranks - ranks.mean()


def sentence(damages: Damages) -> str:
    """How well predicted and measured agree."""
    known = [row for row in damages.slots if row.predicted is not None]
    if damages.agreement is None or damages.agreement_fitted is None:
        return f"{len(known)} layers were predicted: too few to say how well the two agree."
    return (
        f"Rank correlation of predicted and measured over {len(known)} layers: "
        f"{damages.agreement:.2f} on the grids of the finished network, "
        f"{damages.agreement_fitted:.2f} on grids fitted to the float weights, as the prediction "
        "assumes."
    )
