"""Search spaces as plain data: a macro-architecture and the choices that it leaves open."""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import yaml

from quantnas.errors import UsageError

from . import schema

Scale = Literal[2, 3, 4]
Bits = Literal[2, 3, 4, 8, 32]
Layout = Literal["NCHW", "NHWC"]
"""Order of the dimensions of images: N images, C channels, height, width."""
Area = str
"""Positions at which a convolution is computed: a key of `AREAS`, or a formula of `outputs`."""

LARGEST = {"channels": 4096, "cells": 512}
"""Size of a search space -> the largest that is built."""

AREAS: dict[Area, Callable[[int, int, int], int]] = {
    "low": lambda height, width, scale: height * width,
    "double": lambda height, width, scale: height * width * 4,
    "high": lambda height, width, scale: height * width * scale**2,
    "strided": lambda height, width, scale: strided(height) * strided(width),
    "pooled": lambda height, width, scale: pooled(height) * pooled(width),
    "single": lambda height, width, scale: 1,
}
"""Name of an area -> function of the low-resolution height and width and the scale that counts its
positions."""
SIDES = re.compile(r"(\d+)h([+-]\d+)/(\d+)\*(\d+)w([+-]\d+)/(\d+)")
"""Formula for the two sides of an area; see `outputs`."""
SHARE = re.compile(r"(\d+)/(\d+)")
"""Formula for an area as a share of the low-resolution pixels."""


def outputs(area: Area, height: int, width: int, scale: int) -> int:
    """Number of positions at which a convolution is computed, for one low-resolution image.

    height, width: of the image, pixels. area: a name in `AREAS` or, for the layers of imported
    networks, a formula: `1h-1/2*1w-1/2` has sides of (1 * side - 1) // 2, and `9/16` is a share of
    the pixels. Raises ValueError for any other area.
    """
    if area in AREAS:
        return AREAS[area](height, width, scale)
    if share := SHARE.fullmatch(area):
        part, whole = map(int, share.groups())
        return height * width * part // whole
    sides = SIDES.fullmatch(area)
    if sides is None:
        raise ValueError(f"there is no area '{area}'")
    a, b, c, d, e, f = map(int, sides.groups())
    return max(0, (a * height + b) // c) * max(0, (d * width + e) // f)


def strided(side: int) -> int:
    """Length of a side, in pixels, after a 3x3 convolution of stride 2 without padding."""
    return max(0, (side - 3) // 2 + 1)


def pooled(side: int) -> int:
    """Length of a side after `strided` and the 7x7 pooling of stride 3 in RFDN's attention."""
    return max(0, (strided(side) - 7) // 3 + 1)


@dataclass(frozen=True)
class Precision:
    """The two bit widths of a convolution."""

    weights: int
    """Bit width of the weights."""
    activations: int
    """Bit width of the input activations."""


@dataclass(frozen=True)
class Form:
    """All settings of a convolution in an imported network; pairs are (height, width)."""

    kernel: tuple[int, int]
    groups: int = 1
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    """Zeros at each end of a side."""
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Slot:
    """One place in a network where one operation and its bit widths are chosen.

    A convolution that is not searched is a slot with one operation and one pair of bit widths.
    """

    name: str
    c_in: int
    c_mid: int
    """Channels between the two convolutions of an operation that has two."""
    c_out: int
    ops: tuple[str, ...]
    """Names of the operations to choose from."""
    bit_widths: tuple[Precision, ...]
    """Pairs of bit widths to choose from."""
    gain: float = 1.0
    """Scale of the output at the start of a search, relative to an ordinary convolution."""
    area: Area = "low"
    stride: int = 1
    """Stride of the convolution; above 1 there is no padding."""
    shared: str = ""
    """Slots with the same name here get the same choice; empty = the slot is decided alone."""
    kind: str = ""
    """Key of its edge in the search space; empty = not searched."""
    up: int = 1
    """Factor above 1 by which the slot may enlarge: a transposed convolution then gives its
    (c_out / up^2, up*H, up*W) as (c_out, H, W), for a pixel shuffle."""
    identity: bool = False
    """Whether its operation starts near the identity, which deep stacks without skips need."""
    gate: bool = False
    """Whether it is part of an attention: it costs little, and its output scales all features."""
    end: bool = False
    """Whether it reads the image or makes the pixels, in an imported network. Elsewhere the first
    and the last slot are those."""
    kernel: str = ""
    """Name of an earlier slot whose kernel it shares, in an imported network; empty = its own."""
    residual: bool = False
    """Whether its output is added to its input. The operation `identity` then gives zero, so that
    the sum equals the input."""
    form: Form | None = None
    """Settings of its only operation, in an imported network; None elsewhere."""

    @property
    def weight_bits(self) -> tuple[int, ...]:
        """The different weight bit widths to choose from, in order."""
        return tuple(dict.fromkeys(w.weights for w in self.bit_widths))

    @property
    def act_bits(self) -> tuple[int, ...]:
        """The different activation bit widths to choose from, in order."""
        return tuple(dict.fromkeys(w.activations for w in self.bit_widths))

    @property
    def choice(self) -> str:
        """Name of the decision: that of the slot, or one that it shares with other slots."""
        return self.shared or self.name

    @property
    def options(self) -> int:
        """Number of pairs of an operation and bit widths."""
        return len(self.ops) * len(self.bit_widths)


@dataclass(frozen=True)
class Edge:
    """The choices that a search space offers for one kind of edge."""

    ops: tuple[str, ...]
    """Names of operations (`quantnas.nn.operations.OPS`)."""
    bits: tuple[Bits, ...] = ()
    """Bit widths that weights and input activations share; [32] = a search in float."""
    weight_bits: tuple[Bits, ...] = ()
    """Weight bit widths that are chosen apart from `act_bits`; both replace `bits`."""
    act_bits: tuple[Bits, ...] = ()
    """Activation bit widths that are chosen apart from `weight_bits`."""

    def __post_init__(self) -> None:
        apart = bool(self.weight_bits) and bool(self.act_bits)
        either = apart != bool(self.bits) and bool(self.weight_bits) == bool(self.act_bits)
        if not self.ops or not either:
            raise ValueError(
                "An edge needs at least one operation, and either `bits` or both `weight_bits` "
                "and `act_bits`"
            )
        for group in (self.ops, self.bits, self.weight_bits, self.act_bits):
            if len({*group}) < len(group):
                raise ValueError("An edge lists an operation or a bit width twice")
        if 32 in (*self.bits, *self.weight_bits, *self.act_bits) and self.bits != (32,):
            raise ValueError("32 bits stand alone, as `bits: [32]`: they mean a search in float")

    @property
    def bit_widths(self) -> tuple[Precision, ...]:
        """The pairs of weight and activation bit widths to choose from."""
        if self.bits:
            return tuple(Precision(b, b) for b in self.bits)
        return tuple(Precision(w, a) for w in self.weight_bits for a in self.act_bits)


@dataclass(frozen=True)
class Pixels:
    """Pixel conventions of an imported network: range, channel order, sizes and type."""

    input_peak: Literal[1, 255] = 1
    """Value of white in the input."""
    output_peak: Literal[1, 255] = 1
    """Value of white in the output."""
    order: Literal["RGB", "BGR", "Y"] = "RGB"
    """Order of the channels; Y: luma alone."""
    multiple: int = 1
    """Number of pixels of which both sides must be a multiple."""
    smallest: int = 1
    """Smallest side that the network takes, pixels."""
    bytes_in: bool = False
    """Whether the network takes uint8."""
    layout: Layout = "NCHW"
    """Order of the dimensions in the file, at both ends."""
    border: int = 0
    """Pixels of the input that the network loses at each end of a side; images are extended by so
    many, so that the output is whole."""
    only: tuple[int, int] | None = None
    """(height, width) of the only input that can be computed, pixels; None where a file that states
    a size can be opened to all sizes, as nearly all can."""


@dataclass(frozen=True)
class FloatLayer:
    """A layer of an imported network that stays in float, beside the quantized convolutions."""

    name: str
    op: Literal["linear", "conv1d", "upconv", "product", "normalisation"]
    shape: tuple[int, int, int, int]
    """Four sizes whose product is the number of multiply-accumulates at each position."""
    area: Area
    """Positions at which the layer is computed."""


@dataclass(frozen=True)
class SearchSpace:
    """A macro-architecture with the choices that it leaves open."""

    name: str
    skeleton: str
    """Name of the macro-architecture (`quantnas.architectures.registry.SKELETONS`)."""
    scale: Scale
    channels: int
    cells: int
    edges: dict[str, Edge]
    """Kind of edge -> its choices; the macro-architecture defines which kinds there are."""
    colours: Literal[1, 3] = 3
    """Channels that the network sees and corrects. 3: red, green and blue; 1: luma alone, while
    colours are enlarged bilinearly."""
    source: str = ""
    """Path of the imported ONNX file, for the skeleton `onnx`; relative to the YAML file."""
    pixels: Pixels = Pixels()
    """Pixel conventions of the imported network."""

    def __post_init__(self) -> None:
        if self.source:
            return
        if self.channels < 2 or self.channels % 2:
            raise ValueError(f"`channels` is {self.channels}; it must be even and at least 2")
        if self.cells < 1:
            raise ValueError(f"`cells` is {self.cells}; it must be at least 1")
        for name, most in LARGEST.items():
            if getattr(self, name) > most:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be at most {most}")
        if len({edge.bits == (32,) for edge in self.edges.values()}) > 1:
            raise ValueError("Either every edge has `bits: [32]`, or none")

    @property
    def is_float(self) -> bool:
        """Whether nothing is rounded, so that a search chooses operations alone."""
        return bool(self.source) or any(edge.bits == (32,) for edge in self.edges.values())

    @property
    def fixed_width(self) -> Precision:
        """Bit widths of the convolutions that are not searched."""
        return Precision(32, 32) if self.is_float else Precision(8, 8)


def builtin() -> dict[str, Traversable]:
    """Name -> YAML file of every search space that ships with the package."""
    shipped = files("quantnas.search_spaces").iterdir()
    return {f.name.removesuffix(".yaml"): f for f in shipped if f.name.endswith(".yaml")}


def load(name_or_path: str, scale: int | None = None) -> SearchSpace:
    """Load a built-in search space by its name, or one from a YAML file.

    scale: magnification that replaces the one in the file. Raises UsageError (unknown name, unknown
    key, invalid value) or DataError (file).
    """
    shipped = builtin()
    if name_or_path in shipped:
        data: dict[str, Any] = yaml.safe_load(shipped[name_or_path].read_text(encoding="utf-8"))
    elif name_or_path.endswith((".yaml", ".yml")) or Path(name_or_path).is_file():
        data = schema.read_yaml(name_or_path)
    else:
        raise UsageError(
            f"There is no search space called '{name_or_path}'.",
            f"Use one of {', '.join(sorted(shipped))}, or the path of a YAML file.",
        )
    if scale is not None:
        data["scale"] = scale
    if isinstance(data.get("source"), str):  # relative to the folder of the YAML file
        data["source"] = str(Path(name_or_path).parent / data["source"])
    return schema.parse(SearchSpace, data, f"search space {name_or_path}")


def from_yaml(text: str) -> SearchSpace:
    """Read the YAML text that `to_yaml` wrote. Raises UsageError for any other text."""
    data = schema.parse_yaml(text, "search space", "Mend that line.")
    return schema.parse(SearchSpace, data, "search space")


def to_yaml(space: SearchSpace) -> str:
    """YAML text that `load` and `from_yaml` read back as an equal search space."""
    plain = dataclasses.asdict(space)
    plain["edges"] = {
        kind: {key: list(value) for key, value in dataclasses.asdict(edge).items() if value}
        for kind, edge in space.edges.items()
    }
    if not space.source:
        del plain["source"], plain["pixels"]
    return yaml.safe_dump(plain, sort_keys=False)
