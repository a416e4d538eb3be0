"""SearchSpace: what may be chosen, edge by edge. Pure data, read from YAML; no torch."""

import dataclasses
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import yaml

from . import schema
from .errors import UsageError

Scale = Literal[2, 3, 4]
Bits = Literal[2, 3, 4, 8]


@dataclass(frozen=True)
class Slot:
    """One place in a network where one operation is chosen, with its width of bits.

    A convolution that is not searched is a slot with one operation and one width.
    """

    name: str
    c_in: int
    c_mid: int
    """Channels between the two convolutions of an operation that has two."""
    c_out: int
    ops: tuple[str, ...]
    bits: tuple[int, ...]
    gain: float = 1.0
    """Of the output at the start of a search, relative to that of an ordinary convolution."""


@dataclass(frozen=True)
class Edge:
    """What one kind of searched edge may be."""

    ops: tuple[str, ...]
    """Names of operations (`quantnas.ops.OPS`)."""
    bits: tuple[Bits, ...]
    """Widths for the weights and the input activations of the edge."""

    def __post_init__(self) -> None:
        if not self.ops or not self.bits:
            raise ValueError("An edge needs at least one operation and one width of bits")
        if len({*self.ops}) < len(self.ops) or len({*self.bits}) < len(self.bits):
            raise ValueError("An edge lists an operation or a width twice")


@dataclass(frozen=True)
class SearchSpace:
    """A macro-architecture with its open choices."""

    name: str
    skeleton: str
    """Macro-architecture (`quantnas.skeleton.SKELETONS`)."""
    scale: Scale
    channels: int
    cells: int
    edges: dict[str, Edge]
    """Kind of edge -> what it may be; the skeleton says which kinds there are."""
    adq: bool = True
    """Batch norm with adaptive deviation around every cell while searching."""

    def __post_init__(self) -> None:
        if self.channels < 2 or self.channels % 2:
            raise ValueError("`channels` is an even number of at least 2")
        if self.cells < 1:
            raise ValueError("`cells` is at least 1")


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
    return schema.parse(SearchSpace, data, f"search space {name_or_path}")


def to_yaml(space: SearchSpace) -> str:
    """Text that `load` reads back to an equal space."""
    plain = dataclasses.asdict(space)
    plain["edges"] = {
        kind: {"ops": list(edge.ops), "bits": list(edge.bits)} for kind, edge in space.edges.items()
    }
    return yaml.safe_dump(plain, sort_keys=False)
