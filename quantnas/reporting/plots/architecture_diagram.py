"""The picture of a decided network: wiring, operations, bits, and where the BitOps are."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from torch import nn

from quantnas.architectures.cost import Layer, total
from quantnas.config.search_space import SearchSpace

from . import layered_layout, schematic
from .canvas import BAR, FAINT, INK, PLUS, SKIP, Board, Colour, save
from .layered_layout import COLUMN, Layout, Wire
from .layout_grid import Node
from .schematic import Symbol

HEAD, ROW, BAR_H, WORD, PLAIN_H = 24.0, 28.0, 5.0, 13.0, 30.0
"""Heights: the top of an edge's box, a convolution in it, the bar of its share, an activation, and
other boxes."""
MARGIN, TOP = 16.0, 132.0
"""Around the drawing, and above it."""
LEAST, MOST = 720.0, 1220.0
"""Width of the picture: the least, and what keeps it legible on a page."""


def architecture(
    network: nn.Module, space: SearchSpace, layers: Sequence[Layer], path: Path
) -> None:
    """Write `architecture_figure` as PNG. Raises DataError when the file cannot be written."""
    save(architecture_figure(network, space, layers), path)


def architecture_figure(network: nn.Module, space: SearchSpace, layers: Sequence[Layer]) -> Figure:
    """A picture of the decided network with its wiring, bits and shares of the BitOps.

    layers: the convolutions of that network (`cost.layers`).
    """
    edges = _edges(layers)
    symbols = schematic.symbols(network, edges)
    nodes = [Node(s.key, s.sources, _height(s, edges), s.group, s.is_sign) for s in symbols]
    layout = layered_layout.arranged(nodes, MOST - 2 * MARGIN)
    board = Board(max(layout.width + 2 * MARGIN, LEAST), layout.height + TOP + MARGIN)
    picture = _Picture(board, {s.key: s for s in symbols}, edges, _shares(layers))
    picture.head(space, layers)
    picture.draw(layout)
    return board.figure


def _edges(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """Slot -> its convolutions: those of an operation of several are numbered."""
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        stem, _, last = layer.name.rpartition(".")
        found.setdefault(stem if stem and last.isdigit() else layer.name, []).append(layer)
    return found


def _height(symbol: Symbol, edges: dict[str, list[Layer]]) -> float:
    if symbol.is_edge:
        words = bool(symbol.before) + bool(symbol.after)
        return HEAD + (ROW + 2) * len(edges[symbol.key]) + 2 + WORD * words
    return 2 * PLUS if symbol.is_sign else PLAIN_H


def _shares(layers: Sequence[Layer]) -> dict[str, float]:
    """Layer -> its share of the BitOps."""
    bitops = max(1, sum(layer.bitops for layer in layers))
    return {layer.name: layer.bitops / bitops for layer in layers}


@dataclass(frozen=True)
class _Picture:
    """Draws the parts of a picture on its board."""

    board: Board
    symbols: dict[str, Symbol]
    edges: dict[str, list[Layer]]
    shares: dict[str, float]

    def head(self, space: SearchSpace, layers: Sequence[Layer]) -> None:
        """What the network is, and how the picture is to be read."""
        text, sums = self.board.text, total(layers, space.scale)
        title, width = f"{space.name}, x{space.scale}", self.board.width - 2 * MARGIN
        text(MARGIN, 28, title, 21, bold=True, ha="left", width=width)
        facts = f"{sums.parameters:,} parameters  ·  {len(layers)} convolutions  ·  "
        facts += f"{sums.bitops['LR 32x32'] / 1e9:.3f} GBitOps at LR 32x32"
        text(MARGIN, 56, facts, 15, ha="left", width=width)
        text(MARGIN, 84, "weights", 12, ha="left")
        x = MARGIN + 60
        for bits in sorted({layer.weight_bits for layer in layers}):
            self.board.box(x, 74, 56, 20, face=_face(bits), radius=6)
            text(x + 28, 84, f"{bits} bits", 12, color=_ink(_face(bits)), width=50)
            x += 64
        most = max(self.shares.values(), default=0)
        note = "w4 a8: weights of 4 bits, input activations of 8; bar: share of the BitOps, "
        note += f"full at {most:.1%}; grey: skips"
        text(MARGIN, 110, note, 12, ha="left", width=width)

    def draw(self, layout: Layout) -> None:
        """The network, below the head."""
        board = self.board
        for frame in layout.frames:
            x, y = frame.x + MARGIN, frame.y + TOP
            board.box(x, y, frame.width, frame.height, face=FAINT, edge="#d0d0cc", radius=12)
            board.text(x + frame.width - 10, y + 14, frame.group, 13, bold=True, ha="right")
        skips = {wire for wire in layout.wires if self._is_skip(wire)}
        for wire in sorted(layout.wires, key=lambda wire: wire not in skips):
            points = ((x + MARGIN, y + TOP) for x, y in wire.points)
            board.wire(*points, skip=wire in skips)
        from_right = {w.target for w in layout.wires if w.points[-2][0] > w.points[-1][0]}
        for key, (x, y) in layout.places.items():
            symbol, at = self.symbols[key], (x + MARGIN, y + TOP)
            if symbol.is_sign:
                self._sign(symbol, *at, side=-1 if key in from_right else 1)
            elif symbol.is_edge:
                self._edge(symbol, *at)
            else:
                self._plain(symbol, *at)

    def _is_skip(self, wire: Wire) -> bool:
        """Whether a wire hands on what is read elsewhere as well, or has passed no weights."""
        source, readers = self.symbols[wire.source], 0
        for symbol in self.symbols.values():
            readers += wire.source in symbol.sources
        is_branch = source.is_edge and readers == 1
        return wire.in_lane and self.symbols[wire.target].is_sign and not is_branch

    def _sign(self, symbol: Symbol, x: float, y: float, side: int) -> None:
        """A sum or a product around (x, y), with its activation on that side."""
        self.board.sign(x, y, is_product=symbol.label != "+")
        align = "left" if side > 0 else "right"
        self.board.text(x + side * (PLUS + 5), y, symbol.after, 11, ha=align)

    def _plain(self, symbol: Symbol, x: float, y: float) -> None:
        """A box of what has no weights around (x, y)."""
        words = " · ".join(filter(None, (symbol.before, symbol.label, symbol.after)))
        width = COLUMN if len(words) > 14 else 0.7 * COLUMN
        self.board.box(x - width / 2, y - PLAIN_H / 2, width, PLAIN_H, edge=SKIP)
        self.board.text(x, y, words, 12, width=width - 10)

    def _edge(self, symbol: Symbol, x: float, y: float) -> None:
        """The convolutions of an edge around (x, y), in a box."""
        layers, height = self.edges[symbol.key], _height(symbol, self.edges)
        left, top, text = x - COLUMN / 2, y - height / 2, self.board.text
        face = _face(layers[0].weight_bits) if len(layers) == 1 else "white"
        ink, op, inner = _ink(face), _op(layers[0].op), COLUMN - 18
        self.board.box(left, top, COLUMN, height, face=face)
        text(x, top + height - 9, symbol.after, 11, color=ink)
        if symbol.before:
            text(x, top + 9, symbol.before, 11, color=ink)
            top += WORD
        room = min(9.3 * len(op), 0.64 * inner)
        text(left + COLUMN - 9, top + 14, op, 13, bold=True, ha="right", color=ink, width=room)
        room = inner - room - 4
        text(left + 9, top + 14, _cut(symbol.label, room), 12, ha="left", color=ink, width=room)
        for i, layer in enumerate(layers):
            self._layer(layer, left, top + HEAD + (ROW + 2) * i, framed=len(layers) > 1)

    def _layer(self, layer: Layer, x: float, y: float, framed: bool) -> None:
        """Channels, bits and share of a convolution, below y."""
        face, board = _face(layer.weight_bits), self.board
        if framed:
            board.box(x + 3, y, COLUMN - 6, ROW, face=face, edge="none", radius=6)
        share, width, ink = self.shares[layer.name], COLUMN - 18, _ink(face)
        facts = _channels(layer), f"w{layer.weight_bits} a{layer.act_bits}", f"{share:.1%}"
        for text, at, side in zip(facts, (0, 0.57, 1), ("left", "center", "right"), strict=True):
            board.text(x + 9 + at * width, y + 9, text, 12, ha=side, width=55, color=ink)
        part = width * share / max(max(self.shares.values()), 1e-9)
        for length, colour in ((width, "white"), (max(part, 2), BAR)):
            board.box(x + 9, y + 19, length, BAR_H, face=colour, edge="none", radius=2.5)


def _cut(name: str, width: float) -> str:
    """The end of a name that would have to be written too small to fit."""
    most = int(width / 6)
    return name if len(name) <= most else "…" + name[1 - most :]


def _face(bits: int) -> Colour:
    """From light to dark with the logarithm of the bits; safe for colour-blind readers."""
    at = 0.1 + 0.3 * (math.log2(max(1, bits)) - 1)
    red, green, blue, _ = matplotlib.colormaps["YlGnBu"](min(max(at, 0.0), 1.0))
    return float(red), float(green), float(blue), 1.0


def _ink(face: Colour) -> Colour:
    """The colour of text that is read on `face`."""
    dark = not isinstance(face, str) and 0.3 * face[0] + 0.59 * face[1] + 0.11 * face[2] < 0.48
    return "white" if dark else INK


def _op(name: str) -> str:
    """The short form of an operation's name: "3x3 g2" for "conv3x3_groups2"."""
    short = name.removeprefix("conv").replace("_groups", " g").replace("_", " ")
    return re.sub(r"([a-z])(\d+x\d)", r"\1 \2", short)


def _channels(layer: Layer) -> str:
    groups = layer.op.rpartition("_groups")[2]
    c_in = layer.shape[1] * (int(groups) if groups.isdigit() else 1)
    if layer.op.startswith("separable") and layer.name.endswith(".0"):
        c_in = layer.shape[0]  # every channel by itself
    return f"{c_in}→{layer.shape[0]}"
