"""The photographs on which ranges of activations are measured, and what the grids cut of others."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from quantnas.architectures import cost, registry
from quantnas.config.genotype import Genotype
from quantnas.config.search_space import Precision, SearchSpace
from quantnas.data import hard_pictures, image_files, patches, photo_cache, photographs
from quantnas.data.patches import Pair
from quantnas.data.photographs import Photograph
from quantnas.progress import Progress
from quantnas.quantization import ranges

SIDE = 256
"""Longest side of the middle of a photograph that is run, low-resolution pixels."""
LEAST = 48
"""Side that is run whatever the network costs, low-resolution pixels."""
MACS = 120e9
"""MACs that all photographs together may take, where more than `LEAST` pixels of each are run."""
HELD_OUT = 8
"""Largest number of held-out photographs on which the values beyond the grids are counted."""
NOTABLE = 5e-3
"""Share of the values beyond an 8-bit grid from which a tensor is named in a warning."""
NAMED = 3
"""Number of tensors that a warning names."""
FLAT = 8
"""Largest difference of two values of one colour in a flat picture, of 255."""

Image = NDArray[np.uint8]
T = TypeVar("T")


def measure(
    net: nn.Module, space: SearchSpace, genotype: Genotype, pairs: Sequence[Pair], count: int
) -> Iterator[Progress]:
    """Measure the reach of all grids of a rounded network on `count` photographs or fewer.

    They are drawn pictures, bundled photographs, and photographs of the calibration set, `pairs`,
    which are half of them or more where there are so many. net: the network of `genotype`.
    """
    tensors = images(space, genotype, pairs, count)
    for done, total in ranges.measure(net, tensors):
        yield Progress("ranges", done, total, {})


def images(
    space: SearchSpace,
    genotype: Genotype,
    pairs: Sequence[Pair],
    count: int,
    macs: float = MACS,
) -> list[Tensor]:
    """The photographs that `measure` runs, each (1, 3, H, W) in [0, 1], within so many MACs."""
    chosen = _chosen(pairs, space.scale, count)
    side = _side(space, genotype, macs, len(chosen))
    return [_tensor(image, side) for image in chosen if _fits(image, space)]


def _chosen(pairs: Sequence[Pair], scale: int, count: int) -> list[Image]:
    """The low resolution (H, W, 3) of the photographs to run."""
    bundled = [photo_cache.fetch(Photograph(p), scale)[0] for p in image_files.bundled().train]
    known = {(pair.name, pair.low.shape) for pair in bundled}
    own = [pair.low for pair in pairs if (pair.name, pair.low.shape) not in known]
    others = [*hard_pictures.low_resolution(scale), *(pair.low for pair in bundled)]
    others = _spread(others, max(count - len(own), count // 2))
    return [*others, *_spread(own, count - len(others))]


def _spread(each: Sequence[T], count: int) -> list[T]:
    """`count` of them, evenly spaced, or all if they are fewer."""
    count = min(count, len(each))
    return [each[i * len(each) // count] for i in range(count)]


def _side(space: SearchSpace, genotype: Genotype, budget: float, count: int) -> int:
    """Side of the middle that is run of each of `count` photographs, low-resolution pixels.

    budget: MACs for all of them.
    """
    anything = {slot.name: Precision(8, 8) for slot in registry.slots(space)}
    rows = cost.network_layers(space, genotype, anything)
    each = sum(row.macs_at(LEAST, LEAST, space.scale) for row in rows)
    affordable = LEAST * (budget / max(1, count) / max(1, each)) ** 0.5
    side = max(LEAST, min(SIDE, int(affordable)))
    if space.pixels.only is None:
        return side
    return min(side, min(space.pixels.only) - 2 * space.pixels.border)


def _fits(image: Image, space: SearchSpace) -> bool:
    """Whether an image is as large as the network needs."""
    return min(image.shape[:2]) >= registry.smallest(space)


def _tensor(image: Image, side: int) -> Tensor:
    """The middle of an image (H, W, 3) as (1, 3, H', W') in [0, 1], with at most `side` pixels."""
    middle = photographs.middle(Pair("", image, image), side).low
    return patches.to_tensor(np.ascontiguousarray(middle)[None])


def cut(
    net: nn.Module, space: SearchSpace, genotype: Genotype, photos: Sequence[Photograph]
) -> list[dict[str, Any]]:
    """The rows of `ranges.cut` on some of the photographs, as JSON, for tensors that are cut.

    net: the finished network of `genotype`.
    """
    few = _spread(photos, HELD_OUT)
    lows = [photo_cache.fetch(photo, space.scale)[0].low for photo in few]
    side = _side(space, genotype, MACS / 4, len(lows))
    rows = ranges.cut(net, [_tensor(low, side) for low in lows if _fits(low, space)])
    return [asdict(row) for row in rows if row.share > 0]


def warnings(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line about the 8-bit grids that cut notable shares of held-out photographs, if any do."""
    cuts = [row for row in rows if row["bits"] >= 8 and row["share"] >= NOTABLE]
    if cuts:
        named = ", ".join(f"{row['tensor']} {row['share']:.1%}" for row in cuts[:NAMED])
        more = f" and {len(cuts) - NAMED} more" if len(cuts) > NAMED else ""
        yield (
            "warning: values of held-out photographs lie beyond the grids of 8 bits: "
            f"{named}{more}; give --calib photographs of their kind"
        )


def flat(pairs: Sequence[Pair]) -> bool:
    """Whether all photographs are flat pictures, which say nothing about ranges."""
    return all(int(np.ptp(pair.low, (0, 1)).max()) <= FLAT for pair in pairs)
