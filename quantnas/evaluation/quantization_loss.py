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
    to_float: float | None = None
    """PSNR-Y of the quantized network against the float one; None in files of earlier versions."""

    @property
    def drop(self) -> float:
        """PSNR that quantization costs, dB."""
        return self.full - self.quantized

    @property
    def loss(self) -> float:
        """The loss that is judged, dB: `drop` or, where bicubic beats the float network, `offset`.

        Networks that sharpen or restore are further from the photograph than bicubic. Errors can
        bring them closer to it, so only the distance to the float network tells what was lost.
        """
        offset = self.offset
        return offset if self.untrained and offset is not None else self.drop

    @property
    def offset(self) -> float | None:
        """PSNR that a network as good as bicubic would lose by an error of this size, dB.

        The error is that against the float network, taken as independent of other errors.
        """
        if self.to_float is None:
            return None
        return 10 * math.log10(1 + 10 ** ((self.bicubic - self.to_float) / 10))

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
        references = {"quantized": upscalers["float"]}
        table = yield from model_comparison.measure(upscalers, sets, space.scale, references)
    drops = []
    for name, rows in table.items():
        quantized, full = (scoring.mean(rows[kind]) for kind in nets)
        bicubic, count = quantized.bicubic_psnr, len(rows["float"])
        drops.append(Drop(name, quantized.psnr, full.psnr, bicubic, count, quantized.to_float))
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
    worst = max(drops, key=lambda drop: drop.loss)
    if worst.loss > most:
        digits = next((n for n in range(2, 9) if round(worst.loss, n) > most), 9)
        raise QualityError(
            f"Quantization costs {worst.loss:.{digits}f} dB on {worst.name} "
            f"({_origin(worst, digits)}), more than the {most:g} dB that are allowed.",
            f"Give more bits (--bits, --average-bits), {_longer(config)}, "
            "or allow more (--max-drop).",
        )


def _origin(worst: Drop, digits: int) -> str:
    """The two numbers that a loss comes from, in words."""
    if worst.loss == worst.drop:
        return f"from {worst.full:.{digits}f} to {worst.quantized:.{digits}f}"
    return (
        f"bicubic, {worst.bicubic:.2f} dB, is better than the float network; the quantized one is "
        f"at {worst.to_float:.2f} dB to that"
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
