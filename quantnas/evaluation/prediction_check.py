"""Check that a quantized network errs about as much as was predicted.

The prediction knows how coarse the grids are. An error far beyond it does not come from few bits: a
grid cuts what a layer reads, or the network is chaotic. Nobody has asked for that, so it ends as an
error which names the layer, found by rounding one layer at a time.
"""

import math
from collections.abc import Sequence
from typing import Any

from quantnas.config.run_config import RunConfig
from quantnas.config.search_space import Precision
from quantnas.data.photographs import Photograph
from quantnas.errors import PredictionError
from quantnas.onnx_import import pixel_conventions
from quantnas.quantization import bit_widths
from quantnas.runs import networks
from quantnas.runs.run_folder import Run
from quantnas.runs.run_photographs import photographs_of

from . import layer_damage, quantization_loss
from .layer_damage import Measured

FACTOR = 10.0
"""Largest ratio of the measured to the predicted squared error."""
PIXEL = (1 / 255) ** 2 / 12
"""Mean squared error of rounding an output in [0, 1] to bytes, which is never counted as large."""
PLAIN = 1.0
"""Largest loss of a network whose layers all have 8 bits, dB."""
NEAR = 45.0
"""PSNR to the float network from which a loss can be seen by nobody, dB."""
EQUAL = 59.0
"""PSNR of the float network above which it made the photographs itself: any loss is large, dB."""


def require(run: Run, config: RunConfig) -> None:
    """Raise PredictionError, naming a layer, where there is a `doubt` about a quantized run."""
    reason = doubt(run, config)
    if reason is not None:
        error = PredictionError(
            f"{reason}, so something is wrong. {_blamed(run, config)}.",
            "Please report it, with the network; the run folder is kept.",
        )
        error.folder = run.folder
        raise error


def doubt(run: Run, config: RunConfig) -> str | None:
    """What cannot be explained by the bit widths of a quantized run, in words; None if all can.

    That is more than `FACTOR` times the predicted squared error of the output, with that of bytes
    added; or a loss of more than `PLAIN` where all layers have 8 bits and the float network makes
    pictures. Networks that were trained at their bit widths and the baselines have no prediction of
    their own, and pass.
    """
    result = run.result("quantize")
    if result is None or config.as_searched or config.quantize.method != "saliency":
        return None
    return _far(result) or _plain(run)


def _far(result: dict[str, Any]) -> str | None:
    """What is wrong where the output is much further from the float network than predicted."""
    predicted, reached = result.get("psnr_to_float_predicted"), result.get("psnr_to_float")
    if predicted is None or reached is None:  # nothing was predicted, or nothing differs
        return None
    if _mse(reached) <= FACTOR * (_mse(predicted) + PIXEL):
        return None
    return (
        f"The quantized network is at {reached:.1f} dB to the float one, where {predicted:.1f} dB "
        "were predicted"
    )


def _plain(run: Run) -> str | None:
    """What is wrong where a network of 8 bits everywhere loses much."""
    if any(pair != Precision(8, 8) for pair in bit_widths.load(run.folder).values()):
        return None
    if not (run.folder / quantization_loss.FILE).exists():  # only the verb `quantize` measures it
        return None
    judged = [
        drop
        for drop in quantization_loss.load(run)
        if drop.bicubic - pixel_conventions.POOR < drop.full < EQUAL
        and (drop.to_float is None or drop.to_float < NEAR)
    ]
    worst = max(judged, key=lambda drop: drop.loss, default=None)
    if worst is None or worst.loss <= PLAIN:
        return None
    return f"With 8 bits in all layers, {worst.loss:.2f} dB are lost on {worst.name}"


def _mse(psnr: float) -> float:
    return 10 ** (-psnr / 10)


def _blamed(run: Run, config: RunConfig) -> str:
    """The layer to blame, in words: the first whose own damage is far beyond its prediction.

    The grids of layers behind it were fitted to what it leaves, so they may be far, too.
    """
    rows = _measured(run, config)
    far = [row for row in rows if row.measured > FACTOR * ((row.predicted or 0) + PIXEL)]
    if not far:
        worst = max(rows, key=lambda row: row.measured)
        return f"Most damage is done by layer '{worst.slot}', which {_text(worst)}"
    more = f"; {len(far) - 1} behind it do, too" if len(far) > 1 else ""
    first = far[0]
    head = f"Layer '{first.slot}' is the first to do more damage than predicted"
    return f"{head}: it {_text(first)}{more}"


def _measured(run: Run, config: RunConfig) -> Sequence[Measured]:
    """The damage of every layer, on the grids of the finished network."""
    photos: tuple[Photograph, ...] = photographs_of(run, config).held_out
    teacher, net = networks.teacher_of(run), networks.quantized(run)[1]
    return layer_damage.measure(run, photos, teacher, net, config.quantize.patch).slots


def _text(row: Measured) -> str:
    """What a layer does to the output when it alone is rounded, as PSNR."""
    measured = -10 * math.log10(max(row.measured, 1e-10))
    known = row.predicted or 0.0
    predicted = f" (predicted: {-10 * math.log10(known):.1f} dB)" if known > 0 else ""
    return f"leaves {measured:.1f} dB to the float network when it alone is rounded{predicted}"
