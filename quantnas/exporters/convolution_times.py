"""Times of ONNX Runtime's integer convolutions by shape, and the quickest form of a convolution.

ONNX Runtime is quick where a convolution has no groups (or one channel in each), reads a multiple
of 4 channels and makes a multiple of 4, 16 at least. Elsewhere a convolution may be written with
zeros: in one dense kernel in place of groups, and with channels that nothing needs. Whether that
pays is read from a table, by the nearest shape of the same kind.

The tables are the output of `benchmarks/convolution_times.py` on an Intel Xeon with VNNI, ONNX
Runtime 1.32.0, one thread. Other processors were not measured.
"""

import itertools
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

INPUTS = (1, 3, 4, 8, 16, 24, 32, 48, 50, 64, 128)
OUTPUTS = (3, 8, 12, 16, 24, 27, 32, 48, 50, 64, 128)
DENSE: dict[tuple[int, int], tuple[int, ...]] = {
    (1, 1): (55, 45, 51, 47, 65, 85, 68, 93, 124, 134, 246),
    (1, 3): (56, 45, 52, 48, 65, 86, 68, 93, 121, 134, 242),
    (1, 4): (43, 32, 39, 20, 25, 78, 25, 32, 115, 39, 75),
    (1, 8): (42, 32, 40, 21, 27, 80, 27, 35, 120, 42, 77),
    (1, 16): (41, 30, 36, 22, 30, 76, 30, 37, 116, 45, 86),
    (1, 24): (47, 37, 42, 22, 34, 84, 34, 42, 123, 51, 96),
    (1, 32): (44, 35, 40, 25, 36, 76, 36, 46, 117, 56, 106),
    (1, 48): (50, 39, 45, 29, 43, 83, 43, 53, 131, 66, 127),
    (1, 50): (69, 57, 63, 60, 78, 98, 83, 111, 144, 147, 268),
    (1, 64): (55, 46, 52, 34, 49, 87, 49, 63, 140, 78, 150),
    (1, 128): (78, 69, 74, 55, 77, 114, 76, 99, 201, 124, 241),
    (3, 1): (115, 105, 115, 111, 129, 150, 129, 155, 188, 201, 316),
    (3, 3): (124, 114, 120, 118, 138, 158, 140, 164, 200, 206, 329),
    (3, 4): (113, 102, 109, 62, 69, 146, 70, 78, 189, 89, 144),
    (3, 8): (129, 117, 129, 68, 79, 161, 80, 93, 229, 117, 198),
    (3, 16): (156, 146, 152, 91, 108, 202, 108, 131, 290, 169, 292),
    (3, 24): (210, 199, 207, 113, 135, 258, 134, 167, 396, 217, 398),
    (3, 32): (235, 227, 238, 137, 161, 290, 161, 205, 469, 267, 489),
    (3, 48): (359, 354, 375, 187, 217, 460, 215, 281, 694, 373, 703),
    (3, 50): (421, 403, 419, 412, 469, 489, 476, 562, 744, 745, 1150),
    (3, 64): (459, 443, 452, 238, 270, 553, 271, 361, 869, 478, 912),
    (3, 128): (913, 916, 941, 432, 498, 1118, 507, 689, 1778, 905, 1697),
    (5, 1): (163, 152, 158, 156, 176, 196, 181, 201, 236, 247, 380),
    (5, 3): (182, 172, 176, 176, 188, 210, 198, 231, 271, 280, 417),
    (5, 4): (184, 170, 179, 146, 173, 214, 169, 177, 288, 204, 318),
    (5, 8): (221, 207, 214, 161, 184, 271, 190, 215, 388, 255, 438),
    (5, 16): (362, 353, 373, 236, 263, 461, 276, 331, 687, 415, 749),
    (5, 24): (529, 518, 517, 295, 344, 617, 344, 431, 980, 542, 1003),
    (5, 32): (675, 662, 678, 367, 419, 813, 431, 548, 1257, 709, 1307),
    (5, 48): (995, 1022, 1022, 501, 583, 1281, 594, 757, 1920, 978, 1859),
    (5, 50): (1060, 1049, 1060, 1078, 1192, 1226, 1202, 1448, 1875, 1891, 2903),
    (5, 64): (1278, 1395, 1501, 629, 746, 1723, 766, 959, 2663, 1246, 2383),
    (5, 128): (2925, 3279, 3339, 1174, 1385, 7918, 1335, 1796, 10024, 2407, 7569),
}
"""(side, input channels) -> time for each of `OUTPUTS`, microseconds at 64x64."""
GROUPED: dict[tuple[int, int], dict[int, int]] = {
    (1, 4): {2: 65, 4: 52},
    (1, 8): {2: 46, 4: 126, 8: 41},
    (1, 16): {2: 53, 4: 86, 8: 239, 16: 38},
    (1, 32): {2: 62, 4: 103, 8: 174, 16: 494, 32: 46},
    (1, 64): {2: 179, 4: 151, 8: 233, 16: 381, 32: 1043, 64: 63},
    (1, 128): {2: 340, 4: 318, 8: 365, 16: 512, 32: 1250, 128: 107},
    (3, 4): {2: 303, 4: 145},
    (3, 8): {2: 311, 4: 569, 8: 86},
    (3, 16): {2: 343, 4: 618, 8: 1132, 16: 64},
    (3, 32): {2: 447, 4: 678, 8: 1250, 16: 2308, 32: 99},
    (3, 64): {2: 679, 4: 894, 8: 1475, 16: 2614, 32: 5187, 64: 160},
    (3, 128): {2: 1843, 4: 1302, 8: 1879, 16: 3025, 32: 5767, 128: 242},
    (5, 4): {2: 633, 4: 368},
    (5, 8): {2: 688, 4: 1257, 8: 220},
    (5, 16): {2: 829, 4: 1393, 8: 2633, 16: 165},
    (5, 32): {2: 1118, 4: 1648, 8: 2765, 16: 5608, 32: 217},
    (5, 64): {2: 1866, 4: 2159, 8: 3302, 16: 5811, 32: 14696, 64: 349},
    (5, 128): {2: 5176, 4: 3408, 8: 4327, 16: 6635, 32: 15511, 128: 560},
}
"""(side, channels) -> {groups: time}, microseconds at 64x64. The last one is depthwise."""
SIDES = sorted({side for side, _ in DENSE})
CUT, FILL, FILL_IMAGE = 23, 58, 4
"""Times of cutting channels off, of adding some between convolutions, and of adding some to an
image, microseconds at 64x64."""
LEAST_GAIN = 0.05
"""Least share of the time that another form must save."""
WIDEST = 128
"""Most channels of a convolution whose groups may become one dense kernel."""


@dataclass(frozen=True)
class Shape:
    """Size of a convolution."""

    c_in: int
    c_out: int
    taps: int
    """Height times width of the kernel."""
    groups: int = 1


@dataclass(frozen=True)
class Costs:
    """What it takes to read and to leave more channels than a convolution has, microseconds."""

    fill: float = FILL
    cut: float = CUT
    available: int | None = None
    """Number of channels that its input has in another form, which cost nothing to read."""
    narrow: float = 0
    """Time of reading the channels of the layer alone."""


def best(shape: Shape, costs: Costs) -> Shape:
    """The quickest form of a convolution: itself, or one with more channels or without groups."""
    plain = microseconds(shape) + costs.narrow
    times = {form: time for form, time in _forms(shape, costs) if time < (1 - LEAST_GAIN) * plain}
    return min(times, key=times.__getitem__, default=shape)


def _forms(shape: Shape, costs: Costs) -> Iterator[tuple[Shape, float]]:
    """Every other form of a convolution, with its time and that of what it needs around it."""
    if shape.groups > 1 and max(shape.c_in, shape.c_out) > WIDEST:
        return
    inputs = {_multiple(shape.c_in, 4): costs.fill} | {shape.c_in: costs.narrow}
    if costs.available is not None:
        inputs[costs.available] = 0.0
    outputs = {max(16, _multiple(shape.c_out, n)): costs.cut for n in (4, 16)} | {shape.c_out: 0.0}
    for (c_in, fill), (c_out, cut) in itertools.product(inputs.items(), outputs.items()):
        form = Shape(c_in, c_out, shape.taps)
        yield form, microseconds(form) + fill + cut


def _multiple(number: int, of: int) -> int:
    """The least multiple that is not below a number."""
    return -(-number // of) * of


def microseconds(shape: Shape) -> float:
    """Time of a convolution on 64x64 pixels."""
    side = _nearest(math.sqrt(shape.taps), SIDES)
    if shape.groups > 1:
        return _grouped(side, shape)
    inputs = [c for c in INPUTS if (c % 4 == 0) == (shape.c_in % 4 == 0)]
    outputs = [c for c in OUTPUTS if _is_aligned(c) == _is_aligned(shape.c_out)]
    c_in, c_out = _nearest(shape.c_in, inputs), _nearest(shape.c_out, outputs)
    beyond = max(1, shape.c_in / max(inputs)) * max(1, shape.c_out / max(outputs))
    return DENSE[side, c_in][OUTPUTS.index(c_out)] * beyond


def _is_aligned(c_out: int) -> bool:
    return c_out % 4 == 0 and c_out >= 16


def _grouped(side: int, shape: Shape) -> float:
    depthwise = shape.groups == shape.c_in == shape.c_out
    channels = _nearest(shape.c_in, [c for s, c in GROUPED if s == side])
    times = GROUPED[side, channels]
    if depthwise:
        return times[channels]
    return times[_nearest(shape.groups, [n for n in times if n < channels])]


def _nearest(value: float, measured: Collection[int]) -> int:
    """The measured value whose ratio to `value` is nearest to 1."""
    return min(measured, key=lambda m: abs(math.log(m / value)))
