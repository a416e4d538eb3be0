"""Measures the PSNR that quantization costs, in torch, before anything is exported.

The frozen network computes what the exported file will compute (`verification` checks that), so a
loss that is too large is found here already.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from quantnas.config import schema
from quantnas.config.files import read_json, to_json, write_text
from quantnas.config.run_config import QuantizeConfig, RunConfig
from quantnas.errors import DataError, QualityError
from quantnas.inference import tiling
from quantnas.progress import Progress
from quantnas.runs import networks, resumable
from quantnas.runs.run_folder import Run

from . import model_comparison, scoring

FILE = "drop.json"
SAMPLE = 64
"""Side of the image by whose time the number of threads is chosen, pixels."""


@dataclass(frozen=True)
class Drop:
    """Mean PSNR-Y in dB over a set of photographs."""

    name: str
    quantized: float
    full: float
    """PSNR-Y of the float network."""
    bicubic: float
    photographs: int

    @property
    def drop(self) -> float:
        """PSNR that quantization costs, dB."""
        return self.full - self.quantized

    @property
    def below_bicubic(self) -> bool:
        """Whether bicubic is better than the quantized network."""
        return self.quantized < self.bicubic

    @property
    def untrained(self) -> bool:
        """Whether bicubic is better than the float network already."""
        return self.full < self.bicubic


def measure(run: Run, config: RunConfig) -> Iterator[Progress]:
    """Measure the frozen and the float network on held-out photographs and benchmarks.

    Writes drop.json. Raises DataError when the run is not quantized, and as `photographs.find`.
    """
    space, frozen, _ = networks.quantized(run)
    nets = {"quantized": frozen, "float": networks.checkpoint(run, "float")[1]}
    upscalers = {name: tiling.whole_upscaler(net, space.scale) for name, net in nets.items()}
    sets = model_comparison.sets_of(run, config, space.scale)
    low = np.zeros((SAMPLE, SAMPLE, 3), np.uint8)
    with resumable.threads_for(run, "drop", lambda: upscalers["quantized"](low)):
        table = yield from model_comparison.measure(upscalers, sets, space.scale)
    drops = []
    for name, rows in table.items():
        quantized, full = (scoring.mean(rows[kind]) for kind in nets)
        bicubic, count = quantized.bicubic_psnr, len(rows["float"])
        drops.append(Drop(name, quantized.psnr, full.psnr, bicubic, count))
    protocol = scoring.protocol(photo for group in sets for photo in group.photos)
    write_text(run.path(FILE), to_json({"protocol": protocol, "sets": drops}))


def load(run: Run) -> list[Drop]:
    """The losses that `measure` wrote. Raises DataError when the file is missing."""
    path = networks.need(run.folder / FILE, "quantize")
    rows = read_json(path).get("sets")
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} holds no sets.", "Take it from a copy, or quantize again.")
    return [schema.parse(Drop, row, str(path)) for row in rows]


def require(drops: Sequence[Drop], config: QuantizeConfig) -> None:
    """Raise QualityError, naming the worst set, when quantization costs more than `max_drop`."""
    most = math.inf if config.max_drop is None else config.max_drop
    worst = max(drops, key=lambda loss: loss.drop)
    if worst.drop > most:
        digits = next((n for n in range(2, 9) if round(worst.drop, n) > most), 9)
        lost, full, left = (
            f"{value:.{digits}f}" for value in (worst.drop, worst.full, worst.quantized)
        )
        raise QualityError(
            f"Quantization costs {lost} dB on {worst.name} (from {full} to {left}), more than the "
            f"{most:g} dB that are allowed.",
            f"Give more bits (--bits, --average-bits), {_longer(config)}, "
            "or allow more (--max-drop).",
        )


def _longer(config: QuantizeConfig) -> str:
    """The remedy, with its options, that brings the network closer to the float one."""
    if config.method != "saliency":
        return "take --method saliency, which retrains"
    if not config.retrains:
        return "retrain (--train weights, --steps)"
    if config.minutes is not None:
        return f"retrain longer (--minutes {2 * config.minutes:g})"
    return f"retrain longer (--steps {4 * config.steps})"
