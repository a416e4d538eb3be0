"""SearchSpace: what may be chosen, edge by edge. Pure data, read from YAML; no torch."""

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
Area = str
"""Where a convolution runs: a key of `AREAS`, or a form of `outputs`."""

AREAS: dict[Area, Callable[[int, int, int], int]] = {
    "low": lambda height, width, scale: height * width,
    "double": lambda height, width, scale: height * width * 4,
    "high": lambda height, width, scale: height * width * scale**2,
    "strided": lambda height, width, scale: strided(height) * strided(width),
    "pooled": lambda height, width, scale: pooled(height) * pooled(width),
    "single": lambda height, width, scale: 1,
}
"""Where a convolution runs -> (height, width, scale) of the low-resolution image -> its outputs."""
SIDES = re.compile(r"(\d+)h([+-]\d+)/(\d+)\*(\d+)w([+-]\d+)/(\d+)")
SHARE = re.compile(r"(\d+)/(\d+)")


def outputs(area: Area, height: int, width: int, scale: int) -> int:
    """Places where a convolution runs, for a low-resolution image of that size.

    Beside the names in `AREAS`: `1h-1/2*1w-1/2`, both sides as (1 * side - 1) // 2, as in networks
    of elsewhere; `9/16`, a share of the pixels.
    """
    if area in AREAS:
        return AREAS[area](height, width, scale)
    if found := SHARE.fullmatch(area):
        part, whole = map(int, found.groups())
        return height * width * part // whole
    sides = SIDES.fullmatch(area)
    if sides is None:
        raise ValueError(f"there is no area '{area}'")
    a, b, c, d, e, f = map(int, sides.groups())
    return max(0, (a * height + b) // c) * max(0, (d * width + e) // f)


def strided(side: int) -> int:
    """Length of a side behind a 3x3 convolution of stride 2 without padding."""
    return max(0, (side - 3) // 2 + 1)


def pooled(side: int) -> int:
    """The same behind the 7x7 pooling of stride 3 that follows in the attention of RFDN."""
    return max(0, (strided(side) - 7) // 3 + 1)


@dataclass(frozen=True)
class Precision:
    """Bits of a convolution's weights and of its input."""

    weights: int
    activations: int


@dataclass(frozen=True)
class Form:
    """A convolution of elsewhere, in full; sides are (height, width)."""

    kernel: tuple[int, int]
    groups: int = 1
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    """Zeros on either side."""
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Slot:
    """One place in a network where one operation is chosen, with its widths of bits.

    A convolution that is not searched is a slot with one operation and one width.
    """

    name: str
    c_in: int
    c_mid: int
    """Channels between the two convolutions of an operation that has two."""
    c_out: int
    ops: tuple[str, ...]
    widths: tuple[Precision, ...]
    gain: float = 1.0
    """Of the output at the start of a search, relative to that of an ordinary convolution."""
    area: Area = "low"
    stride: int = 1
    """Above 1 there is no padding."""
    shared: str = ""
    """Slots with the same name here are decided together; empty = alone."""
    kind: str = ""
    """Key of its edge in the space; empty = not searched."""
    up: int = 1
    """Above 1 it may enlarge: a transposed convolution then gives its (c_out / up^2, up*H, up*W)
    as (c_out, H, W), for a pixel shuffle."""
    identity: bool = False
    """Whether its operation starts near the identity: what deep stacks without skips need."""
    gate: bool = False
    """Whether it is part of an attention: cheap, and what it gives multiplies everything."""
    residual: bool = False
    """Whether its output is added to its input. The operation `identity` then gives nothing, so
    that input and sum are the same."""
    form: Form | None = None
    """Its only operation, in a network from elsewhere."""

    @property
    def weight_bits(self) -> tuple[int, ...]:
        """The different widths of the weights, in order."""
        return tuple(dict.fromkeys(w.weights for w in self.widths))

    @property
    def act_bits(self) -> tuple[int, ...]:
        """The different widths of the input, in order."""
        return tuple(dict.fromkeys(w.activations for w in self.widths))

    @property
    def choice(self) -> str:
        """What is decided: the slot alone, or a name that it shares with others."""
        return self.shared or self.name

    @property
    def options(self) -> int:
        """Number of pairs of operation and width."""
        return len(self.ops) * len(self.widths)


@dataclass(frozen=True)
class Edge:
    """What one kind of searched edge may be."""

    ops: tuple[str, ...]
    """Names of operations (`quantnas.nn.operations.OPS`)."""
    bits: tuple[Bits, ...] = ()
    """Widths that weights and input activations share; [32] = a search in float."""
    weight_bits: tuple[Bits, ...] = ()
    """With `act_bits`, instead of `bits`: widths that are chosen apart."""
    act_bits: tuple[Bits, ...] = ()

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
                raise ValueError("An edge lists an operation or a width twice")
        if 32 in (*self.bits, *self.weight_bits, *self.act_bits) and self.bits != (32,):
            raise ValueError("32 bits stand alone, as `bits: [32]`: they mean a search in float")

    @property
    def widths(self) -> tuple[Precision, ...]:
        """The pairs of weight and activation bits to choose from."""
        if self.bits:
            return tuple(Precision(b, b) for b in self.bits)
        return tuple(Precision(w, a) for w in self.weight_bits for a in self.act_bits)


@dataclass(frozen=True)
class Pixels:
    """What a network from elsewhere takes for an image, and gives."""

    input_peak: Literal[1, 255] = 1
    """Value of white."""
    output_peak: Literal[1, 255] = 1
    order: Literal["RGB", "BGR", "Y"] = "RGB"
    """Of the colours; Y: brightness alone."""
    multiple: int = 1
    """Both sides must be multiples of it, pixels."""
    smallest: int = 1
    """Pixels of a side, at least."""
    bytes_in: bool = False
    """Whether it takes uint8."""


@dataclass(frozen=True)
class FloatLayer:
    """What a network from elsewhere computes beside its convolutions, in float."""

    name: str
    op: Literal["linear", "conv1d", "upconv", "product", "normalisation"]
    shape: tuple[int, int, int, int]
    """Its product is the multiply-accumulates at each place."""
    area: Area


@dataclass(frozen=True)
class SearchSpace:
    """A macro-architecture with its open choices."""

    name: str
    skeleton: str
    """Macro-architecture (`quantnas.architectures.registry.SKELETONS`)."""
    scale: Scale
    channels: int
    cells: int
    edges: dict[str, Edge]
    """Kind of edge -> what it may be; the skeleton says which kinds there are."""
    colours: Literal[1, 3] = 3
    """3: red, green and blue; 1: the network sees and corrects luma alone, and colours are
    enlarged bilinearly."""
    source: str = ""
    """With the skeleton `onnx`: the file of the network, beside this one."""
    pixels: Pixels = Pixels()
    """What the network in that file takes and gives."""

    def __post_init__(self) -> None:
        if self.source:
            return
        if self.channels < 2 or self.channels % 2:
            raise ValueError(f"`channels` is {self.channels}; it must be even and at least 2")
        if self.cells < 1:
            raise ValueError(f"`cells` is {self.cells}; it must be at least 1")
        if len({edge.bits == (32,) for edge in self.edges.values()}) > 1:
            raise ValueError("Either every edge has `bits: [32]`, or none")

    @property
    def is_float(self) -> bool:
        """Whether nothing is rounded: a search over operations alone."""
        return bool(self.source) or any(edge.bits == (32,) for edge in self.edges.values())

    @property
    def fixed_width(self) -> Precision:
        """Of the convolutions that are not searched."""
        return Precision(32, 32) if self.is_float else Precision(8, 8)


def builtin() -> dict[str, Traversable]:
    """Name -> file of every search space that ships with the package."""
    shipped = files("quantnas.search_spaces").iterdir()
    return {f.name.removesuffix(".yaml"): f for f in shipped if f.name.endswith(".yaml")}


def load(name_or_path: str, scale: int | None = None) -> SearchSpace:
    """The space of that name, or in that YAML file; `scale` replaces the file's own.

    Raises UsageError (unknown name, unknown key, value that cannot be) or DataError (file).
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
    if isinstance(data.get("source"), str):  # it lies beside the YAML file
        data["source"] = str(Path(name_or_path).parent / data["source"])
    return schema.parse(SearchSpace, data, f"search space {name_or_path}")


def from_yaml(text: str) -> SearchSpace:
    """What `to_yaml` has written. Raises UsageError."""
    return schema.parse(SearchSpace, yaml.safe_load(text), "search space")


def to_yaml(space: SearchSpace) -> str:
    """Text that `load` reads back to an equal space."""
    plain = dataclasses.asdict(space)
    plain["edges"] = {
        kind: {key: list(value) for key, value in dataclasses.asdict(edge).items() if value}
        for kind, edge in space.edges.items()
    }
    if not space.source:
        del plain["source"], plain["pixels"]
    return yaml.safe_dump(plain, sort_keys=False)
