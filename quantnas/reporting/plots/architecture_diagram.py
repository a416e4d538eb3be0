"""Picture of a decided network: wiring, operations, bit widths and shares of the BitOps."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from torch import nn

from quantnas.architectures.cost import Layer, total
from quantnas.config.search_space import SearchSpace

from . import layered_layout, schematic
from .canvas import BAR, FAINT, INK, PLUS, SKIP, Board, Colour, save
from .layered_layout import ARROW, COLUMN, Layout, Node, Wire
from .schematic import Symbol

HEAD, ROW, BAR_H, WORD, PLAIN_H = 24.0, 28.0, 5.0, 13.0, 30.0
"""Heights of an edge's title, a convolution, the bar of its share, an activation, other boxes."""
MARGIN, TOP = 16.0, 132.0
"""Margin around the drawing, and height of the text above it."""
LEAST, MOST = 720.0, 1220.0
"""Least width of the picture, and the most that is legible on a page."""


def architecture(
    network: nn.Module, space: SearchSpace, layers: Sequence[Layer], path: Path
) -> None:
    """Write `architecture_figure` as PNG. Raises DataError when the file cannot be written."""
    save(architecture_figure(network, space, layers), path)


def architecture_figure(network: nn.Module, space: SearchSpace, layers: Sequence[Layer]) -> Figure:
    """Return a picture of a decided network whose convolutions are `layers` (`cost.layers`)."""
    edges: dict[str, list[Layer]] = {}
    for layer in layers:  # an operation of several convolutions numbers them
        stem, _, last = layer.name.rpartition(".")
        edges.setdefault(stem if stem and last.isdigit() else layer.name, []).append(layer)
    symbols = {symbol.key: symbol for symbol in schematic.symbols(network, edges)}
    nodes = [
        Node(s.key, s.sources, _size(s, edges)[1], s.group, s.is_sign) for s in symbols.values()
    ]
    layout = layered_layout.arranged(nodes, MOST - 2 * MARGIN)
    board = Board(max(layout.width + 2 * MARGIN, LEAST), layout.height + TOP + MARGIN)
    shares = {layer.name: layer.bitops / max(1, sum(x.bitops for x in layers)) for layer in layers}
    _head(board, space, layers, max(shares.values(), default=0), bool(layout.numbers))
    _Picture(board, layout, symbols, edges, shares).draw()
    return board.figure


def _size(symbol: Symbol, edges: dict[str, list[Layer]]) -> tuple[float, float]:
    """Width and height of a symbol."""
    if symbol.is_edge:
        words = bool(symbol.before) + bool(symbol.after)
        return COLUMN, HEAD + (ROW + 2) * len(edges[symbol.key]) + 2 + WORD * words
    if symbol.is_sign:
        return 2 * PLUS, 2 * PLUS
    return COLUMN if len(_words(symbol)) > 14 else 0.7 * COLUMN, PLAIN_H


def _words(symbol: Symbol) -> str:
    return " · ".join(filter(None, (symbol.before, symbol.label, symbol.after)))


def _head(
    board: Board, space: SearchSpace, layers: Sequence[Layer], most: float, has_numbers: bool
) -> None:
    """Write the name and the cost of the network, and a legend; `most` is the largest share."""
    sums, width = total(layers, space.scale), board.width - 2 * MARGIN
    board.text(MARGIN, 28, f"{space.name}, x{space.scale}", 21, bold=True, ha="left", width=width)
    facts = f"{sums.parameters:,} parameters  ·  {len(layers)} convolutions  ·  "
    facts += f"{sums.bitops['LR 32x32'] / 1e9:.3f} GBitOps at LR 32x32"
    board.text(MARGIN, 56, facts, 15, ha="left", width=width)
    board.text(MARGIN, 84, "weights", 12, ha="left")
    for i, bits in enumerate(sorted({layer.weight_bits for layer in layers})):
        x, face = MARGIN + 60 + 64 * i, _face(bits)
        board.box(x, 74, 56, 20, face=face, radius=6)
        board.text(x + 28, 84, f"{bits} bits", 12, color=_ink(face), width=50)
    note = "w4 a8: weights of 4 bits, input activations of 8; bar: share of the BitOps, "
    note += f"full at {most:.1%}; grey: skips" + "; numbers: wires that go on" * has_numbers
    board.text(MARGIN, 110, note, 12, ha="left", width=width)


class _Picture:
    """Draws a network on a board, below its head."""

    def __init__(
        self, board: Board, layout: Layout, symbols: dict[str, Symbol],
        edges: dict[str, list[Layer]], shares: dict[str, float],
    ) -> None:  # fmt: skip
        self.board, self.layout, self.symbols = board, layout, symbols
        self.edges, self.shares = edges, shares
        self.most = max(shares.values(), default=1) or 1

    def draw(self) -> None:
        board = self.board
        for group, x, y, width, height in self.layout.frames:
            x, y = x + MARGIN, y + TOP
            board.box(x, y, width, height, face=FAINT, edge="#d0d0cc", radius=12)
            board.text(x + width - 10, y + 14, group, 13, bold=True, ha="right")
        for wire in sorted(self.layout.wires, key=lambda wire: not wire.in_lane):
            points = ((x + MARGIN, y + TOP) for x, y in wire.points)
            board.wire(*points, skip=wire.in_lane and self._is_skip(wire))
        for key, (x, y) in self.layout.places.items():
            symbol, at = self.symbols[key], (x + MARGIN, y + TOP)
            if symbol.is_sign:
                self._sign(symbol, *at)
            elif symbol.is_edge:
                self._edge(symbol, *at)
            else:
                width, height = _size(symbol, self.edges)
                board.box(at[0] - width / 2, at[1] - height / 2, width, height, edge=SKIP)
                board.text(*at, _words(symbol), 12, width=width - 10)
            self._numbers(symbol, *at)

    def _is_skip(self, wire: Wire) -> bool:
        """Whether a wire into a sum or product is no convolution's only output."""
        readers = sum(wire.source in symbol.sources for symbol in self.symbols.values())
        is_branch = self.symbols[wire.source].is_edge and readers == 1
        return self.symbols[wire.target].is_sign and not is_branch

    def _sign(self, symbol: Symbol, x: float, y: float) -> None:
        """Draw a sum or a product around (x, y), with its activation on the free side."""
        into = [wire.points for wire in self.layout.wires if wire.target == symbol.key]
        side = -1 if any(points[-2][0] > points[-1][0] for points in into) else 1
        gap = PLUS + (23 if symbol.key in self.layout.numbers and side > 0 else 5)
        self.board.sign(x, y, is_product=symbol.label != "+")
        self.board.text(x + side * gap, y, symbol.after, 11, ha="left" if side > 0 else "right")

    def _numbers(self, symbol: Symbol, x: float, y: float) -> None:
        """Draw the numbers of wires from and to other strips at a symbol around (x, y)."""
        numbers, (width, height) = self.layout.numbers, _size(symbol, self.edges)
        near = {wire.source for wire in self.layout.wires if wire.target == symbol.key}
        far = [str(numbers[key]) for key in numbers if key in symbol.sources and key not in near]
        if far and symbol.is_sign:
            self._number(" ".join(far), x - 48, y)
            self.board.wire((x - 40, y), (x - PLUS, y), skip=True)
        elif far:
            at, top = x - 45 * bool(near), y - height / 2
            self._number(" ".join(far), at, top - ARROW - 8)
            self.board.wire((at, top - ARROW), (at, top))
        if symbol.key in numbers:
            down = 0 if symbol.is_sign else height / 2
            self._number(str(numbers[symbol.key]), x + width / 2 + 12 * symbol.is_sign, y + down)

    def _number(self, text: str, x: float, y: float) -> None:
        width = 9 + 7 * len(text)
        self.board.box(x - width / 2, y - 8, width, 16, radius=8)
        self.board.text(x, y, text, 11, bold=True)

    def _edge(self, symbol: Symbol, x: float, y: float) -> None:
        """Draw the convolutions of an edge around (x, y), in a box."""
        layers, (width, height) = self.edges[symbol.key], _size(symbol, self.edges)
        left, top, text = x - width / 2, y - height / 2, self.board.text
        face = _face(layers[0].weight_bits) if len(layers) == 1 else "white"
        ink, op, inner = _ink(face), _op(layers[0].op), width - 18
        self.board.box(left, top, width, height, face=face)
        text(x, top + height - 9, symbol.after, 11, color=ink)
        text(x, top + 9, symbol.before, 11, color=ink)
        top += WORD * bool(symbol.before)
        room = min(9.3 * len(op), 0.64 * inner)
        text(left + width - 9, top + 14, op, 13, bold=True, ha="right", color=ink, width=room)
        room = inner - room - 4
        text(left + 9, top + 14, _cut(symbol.label, room), 12, ha="left", color=ink, width=room)
        for i, layer in enumerate(layers):
            y = top + HEAD + (ROW + 2) * i
            if len(layers) > 1:
                face = _face(layer.weight_bits)
                self.board.box(left + 3, y, width - 6, ROW, face=face, edge="none", radius=6)
            self._layer(layer, left + 9, y, inner)

    def _layer(self, layer: Layer, x: float, y: float, width: float) -> None:
        """Draw channels, bit widths and share of a convolution below y."""
        share, ink = self.shares[layer.name], _ink(_face(layer.weight_bits))
        bits = f"w{layer.weight_bits} a{layer.act_bits}" if layer.weight_bits < 32 else "float"
        facts = _channels(layer), bits, f"{share:.1%}"
        for text, at, side in zip(facts, (0, 0.57, 1), ("left", "center", "right"), strict=True):
            self.board.text(x + at * width, y + 9, text, 12, ha=side, width=55, color=ink)
        for length, colour in ((width, "white"), (max(width * share / self.most, 2), BAR)):
            self.board.box(x, y + 19, length, BAR_H, face=colour, edge="none", radius=2.5)


def _cut(name: str, width: float) -> str:
    """Return the end of a name that would be too small to read if all of it were to fit."""
    most = int(width / 6)
    return name if len(name) <= most else "…" + name[1 - most :]


def _face(bits: int) -> Colour:
    """Return a colour, darker with the logarithm of the bits, safe for colour-blind readers."""
    at = 0.1 + 0.3 * (math.log2(max(1, bits)) - 1)
    red, green, blue, _ = matplotlib.colormaps["YlGnBu"](min(max(at, 0.0), 1.0))
    return float(red), float(green), float(blue), 1.0


def _ink(face: Colour) -> Colour:
    """Return a colour of text that is read on `face`."""
    dark = not isinstance(face, str) and 0.3 * face[0] + 0.59 * face[1] + 0.11 * face[2] < 0.48
    return "white" if dark else INK


def _op(name: str) -> str:
    """Return the short form of an operation's name, "3x3 g2" for "conv3x3_groups2"."""
    short = name.removeprefix("conv").replace("_groups", " g").replace("_", " ")
    return re.sub(r"([a-z])(\d+x\d)", r"\1 \2", short)


def _channels(layer: Layer) -> str:
    """Return the input and output channels of a convolution over all of its groups."""
    groups = layer.op.rpartition("_groups")[2]
    c_in = layer.shape[1] * (int(groups) if groups.isdigit() else 1)
    if layer.op.startswith("separable") and layer.name.endswith(".0"):
        c_in = layer.shape[0]  # depthwise
    return f"{c_in}→{layer.shape[0]}"
