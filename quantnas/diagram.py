"""The picture of a decided network: wiring, operations, bits, and where the BitOps are."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from .board import BAR, FAINT, INK, PLUS, SKIP, Board, Colour, save
from .cost import Layer, total
from .rfdn_deploy import RfdnDeploy
from .space import SearchSpace

BOX_W, BOX_H = 138, 110
"""Size of the box of a slot, in the board's units."""


def architecture(space: SearchSpace, layers: Sequence[Layer], path: Path) -> None:
    """A picture of the decided network with its wiring, bits and shares of the BitOps, as PNG.

    Raises DataError when the file cannot be written.
    """
    save(architecture_figure(space, layers), path)


def architecture_figure(space: SearchSpace, layers: Sequence[Layer]) -> Figure:
    """What `architecture` writes. Of a skeleton that is not in DRAW it is a list of the layers."""
    return DRAW.get(space.skeleton, _list)(space, layers)


class _Network(Board):
    """A board that knows the layers of one network."""

    def __init__(self, layers: Sequence[Layer], width: float, height: float) -> None:
        super().__init__(width, height)
        self.slots: dict[str, list[Layer]] = {}
        for layer in layers:
            stem, _, last = layer.name.rpartition(".")
            self.slots.setdefault(stem if stem and last.isdigit() else layer.name, []).append(layer)
        self.layers = layers
        self.bitops = max(1, sum(layer.bitops for layer in layers))
        self.most = max((layer.bitops for layer in layers), default=1) / self.bitops

    def share(self, layer: Layer, x: float, y: float, w: float) -> None:
        """A bar for the layer's share of the BitOps; as long as `w` for the largest of all."""
        self.box(x, y, w, 6, face="white", edge="none", radius=3)
        part = w * layer.bitops / self.bitops / self.most if self.most else 0
        self.box(x, y, max(part, 2), 6, face=BAR, edge="none", radius=3)

    def slot(self, x: float, y: float, name: str, label: str) -> None:
        """The convolutions of a slot in one box, with its left edge at x and its middle at y."""
        if name not in self.slots:  # the identity
            return self.plain(x, y, BOX_W, f"{label}\nidentity")
        layers, y = self.slots[name], y - BOX_H / 2
        face = _face(layers[0].weight_bits) if len(layers) == 1 else "white"
        ink = _ink(face)
        self.box(x, y, BOX_W, BOX_H, face=face)
        self.text(x + BOX_W / 2, y + 14, label, 12, width=BOX_W - 8, color=ink)
        op = _op(layers[0].op)
        self.text(
            x + BOX_W / 2,
            y + 32,
            op,
            16 if len(layers) == 1 else 14,
            width=BOX_W - 8,
            bold=True,
            color=ink,
        )
        if len(layers) == 1:
            return self._facts(layers[0], x, y + 47, BOX_W)
        w = (BOX_W - 6) / len(layers)
        for i, layer in enumerate(layers):
            left = x + 3 + i * w
            self.box(left + 3, y + 44, w - 6, BOX_H - 48, face=_face(layer.weight_bits), radius=6)
            self._facts(layer, left, y + 46, w)
        return None

    def _facts(self, layer: Layer, x: float, y: float, w: float) -> None:
        """Channels, bits and share of a convolution, below y."""
        ink, middle = _ink(_face(layer.weight_bits)), x + w / 2
        bits, share = _bits(layer), f"{layer.bitops / self.bitops:.1%}"
        if w < BOX_W / 1.5:
            rows, inset = [_channels(layer), bits, share], 9.0
        else:
            rows, inset = [_channels(layer), f"{bits}  ·  {share}"], 14.0
        step = 44 / len(rows)
        for i, row in enumerate(rows):
            size = 13 if len(rows) == 2 else 11.5
            self.text(middle, y + step * (i + 0.5), row, size, width=w - 8, color=ink)
        self.share(layer, x + inset, y + 48, w - 2 * inset)

    def title(self, space: SearchSpace) -> None:
        """What the network is, in the two lines at the top."""
        sums = total(self.layers, space.scale)
        self.text(16, 28, f"{space.name}, x{space.scale}", 21, bold=True, ha="left", width=840)
        facts = f"{sums.parameters:,} parameters  ·  {len(self.layers)} convolutions  ·  "
        facts += f"{sums.bitops['LR 32x32'] / 1e9:.3f} GBitOps at LR 32x32"
        self.text(16, 56, facts, 15, ha="left")

    def legend(self, x: float, y: float) -> None:
        """The colours and the bar, at and below y."""
        self.text(x, y, "weights", 13, ha="left")
        x += 66
        for bits in sorted({layer.weight_bits for layer in self.layers}):
            self.box(x, y - 11, 62, 22, face=_face(bits), radius=6)
            self.text(x + 31, y, f"{bits} bits", 12, color=_ink(_face(bits)), width=56)
            x += 70


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
    short = name.removeprefix("conv").replace("_groups", " g").replace("growth", "growth ")
    return short.replace("_", " ")


def _channels(layer: Layer) -> str:
    groups = layer.op.rpartition("_groups")[2]
    c_in = layer.shape[1] * (int(groups) if groups.isdigit() else 1)
    if layer.op.startswith("separable") and layer.name.endswith(".0"):
        c_in = layer.shape[0]  # every channel by itself
    return f"{c_in}→{layer.shape[0]}"


def _bits(layer: Layer) -> str:
    return f"w{layer.weight_bits} a{layer.act_bits}"


# The picture of RfdnDeploy. Wires run on lanes: the input image and the output of the head go down
# on the left to the last row, the output of every cell goes right into one concatenation.

LANE_IMAGE, LANE_HEAD, LANE_CELL = 24, 48, 70
FRAME, STEP = 90, BOX_W + 62
"""Left edge of a cell; from one column of boxes to the next."""
COLUMN = FRAME + 54
CELL_H, CELL_GAP, BODY_Y = 370, 36, 62 + BOX_H // 2
HEAD_Y, CELLS_Y = 138, 236
FUSE_X = COLUMN + RfdnDeploy.steps * STEP + BOX_W + 34
FRAME_END = FUSE_X + BOX_W + 64
CONCAT_X = FRAME_END + 36
WIDTH = CONCAT_X + 42


def _rfdn(space: SearchSpace, layers: Sequence[Layer]) -> Figure:
    end = CELLS_Y + space.cells * (CELL_H + CELL_GAP)
    tail = end + 12 + BOX_H / 2
    board = _Network(layers, WIDTH, tail + 186)
    board.title(space)
    board.legend(COLUMN + 2 * STEP - 60, HEAD_Y - 28)
    _rfdn_notes(board, COLUMN + 2 * STEP - 60, HEAD_Y + 2)
    board.plain(10, HEAD_Y, 94, "LR image")
    board.slot(COLUMN, HEAD_Y, "head", "head")
    board.wire((104, HEAD_Y), (COLUMN, HEAD_Y))
    for k in range(space.cells):
        _rfdn_cell(board, k, CELLS_Y + k * (CELL_H + CELL_GAP), last=k == space.cells - 1)
    bottom = end - CELL_GAP
    board.box(CONCAT_X, CELLS_Y, 26, bottom - CELLS_Y, edge=SKIP)
    c = space.channels
    label = f"concatenate {space.cells} x {c} = {space.cells * c}"
    board.text(CONCAT_X + 13, (CELLS_Y + bottom) / 2, label, rotation=-90, va="center")
    _rfdn_tail(board, space, tail)
    middle = COLUMN + BOX_W / 2
    y = bottom + 22
    board.wire((CONCAT_X + 13, bottom), (CONCAT_X + 13, y), (middle, y), (middle, end + 12))
    return board.figure


def _rfdn_notes(board: _Network, x: float, y: float) -> None:
    notes = (
        f"w4 a8: weights of 4 bits, input activations of 8; bar: share of the BitOps, "
        f"full at {board.most:.1%}",
        f"+ is a sum, a grey wire a skip; ReLU follows head, distill, body{RfdnDeploy.steps}, "
        "the fuse after all cells",
        "and every sum that leads into a cell or out of one, and lies inside a box of two",
    )
    for i, note in enumerate(notes):
        board.text(x, y + 19 * i, note, 12, ha="left")


def _rfdn_cell(board: _Network, k: int, top: float, last: bool) -> None:
    board.box(FRAME, top, FRAME_END - FRAME, CELL_H, face=FAINT, edge="#d0d0cc", radius=14)
    board.text(FRAME + 14, top + 17, f"cell{k}", 15, bold=True, ha="left")
    body, distill, concat = top + BODY_Y, top + 196 + BOX_H / 2, top + 330
    entry = FRAME + 16
    if k == 0:
        x, y = COLUMN + BOX_W / 2, HEAD_Y + BOX_H / 2
        board.wire((x, y), (x, y + 18), (LANE_HEAD, y + 18), (LANE_HEAD, body), head=False)
        board.wire((LANE_HEAD, body), (COLUMN, body))
        board.dot(LANE_HEAD, body)
    board.dot(entry, body)
    _rfdn_steps(board, f"cell{k}_", body, distill)
    end = FUSE_X + BOX_W
    c = board.slots[f"cell{k}_fuse"][0].shape[1]
    label = f"concatenate {RfdnDeploy.steps + 1} x {c // (RfdnDeploy.steps + 1)} = {c}"
    board.box(COLUMN, concat, end - COLUMN, 24, edge=SKIP)
    board.text((COLUMN + end) / 2, concat + 12, label)
    board.slot(FUSE_X, distill, f"cell{k}_fuse", "fuse")
    board.wire((FUSE_X + BOX_W / 2, concat), (FUSE_X + BOX_W / 2, distill + BOX_H / 2))
    plus = end + 34
    board.wire((end, distill), (plus - PLUS, distill))
    board.plus(plus, distill)
    lane = top + 30
    board.wire((entry, body), (entry, lane), (plus, lane), (plus, distill - PLUS), skip=True)
    board.wire((plus + PLUS, distill), (CONCAT_X, distill))
    if not last:
        x, y, into = FRAME_END + 14, top + CELL_H + CELL_GAP / 2, top + CELL_H + CELL_GAP
        board.dot(x, distill)
        following = into + BODY_Y
        board.wire(
            (x, distill), (x, y), (LANE_CELL, y), (LANE_CELL, following), (COLUMN, following)
        )


def _rfdn_steps(board: _Network, prefix: str, body: float, distill: float) -> None:
    """The chain of body convolutions at height `body`, and what every step distills below it."""
    concat = distill + BOX_H / 2 + 24
    for i in range(RfdnDeploy.steps + 1):
        x = COLUMN + i * STEP
        board.slot(x, body, f"{prefix}body{i}", f"body{i}")
        middle, end = x + BOX_W / 2, x + BOX_W
        if i == RfdnDeploy.steps:
            board.wire((middle, body + BOX_H / 2), (middle, concat))
            continue
        fork, plus, lane = x - 20, end + 24, body - BOX_H / 2 - 16
        board.dot(fork, body)
        board.slot(x, distill, f"{prefix}distill{i}", f"distill{i}")
        board.wire((fork, body), (fork, distill), (x, distill))
        board.wire((middle, distill + BOX_H / 2), (middle, concat))
        board.wire((end, body), (plus - PLUS, body))
        board.plus(plus, body)
        board.wire((fork, body), (fork, lane), (plus, lane), (plus, body - PLUS), skip=True)
        board.wire((plus + PLUS, body), (x + STEP, body))


def _rfdn_tail(board: _Network, space: SearchSpace, y: float) -> None:
    """The last row around y, and the lanes that come to it from the first row."""
    half, smooth, upsample = BOX_H / 2, COLUMN + BOX_W + 44, COLUMN + 2 * BOX_W + 142
    first, second = smooth + BOX_W + 30, upsample + BOX_W + 30
    shuffle, out = second + 40, second + 40 + 160
    board.slot(COLUMN, y, "fuse", "fuse")
    board.slot(smooth, y, "smooth", "smooth")
    board.slot(upsample, y, "upsample", "upsample")
    board.plain(shuffle, y, 120, f"pixel shuffle\nx{space.scale}")
    board.plain(out, y, 94, "SR image")
    stops: tuple[int, ...] = (
        COLUMN + BOX_W,
        smooth,
        smooth + BOX_W,
        first - PLUS,
        first + PLUS,
        upsample,
    )
    stops += (upsample + BOX_W, second - PLUS, second + PLUS, shuffle, shuffle + 120, out)
    for start, stop in zip(stops[::2], stops[1::2], strict=True):
        board.wire((start, y), (stop, y))
    board.plus(first, y)
    board.plus(second, y)
    fork, lane = CELLS_Y + BODY_Y, y + half + 22
    board.wire((LANE_HEAD, fork), (LANE_HEAD, lane), (first, lane), (first, y + PLUS), skip=True)
    lane, near, width = lane + 56, smooth + BOX_W + 60, 178
    board.plain(near, lane, width, f"nearest neighbour\n(each pixel {space.scale**2} times)")
    board.wire((LANE_IMAGE, HEAD_Y + 24), (LANE_IMAGE, lane), (near, lane), skip=True)
    board.wire((near + width, lane), (second, lane), (second, y + PLUS), skip=True)


def _list(space: SearchSpace, layers: Sequence[Layer]) -> Figure:
    """One row per layer, in the order in which they run; for skeletons nobody has drawn."""
    row, top = 30, 124
    board = _Network(layers, 1000, top + row * len(layers) + 48)
    board.title(space)
    board.legend(16, 92)
    for i, layer in enumerate(layers):
        y = top + row * i + row / 2
        face = _face(layer.weight_bits)
        board.box(16, y - 12, 684, 24, face=face, radius=6)
        columns = ((30, layer.name, 230), (270, _op(layer.op), 160), (440, _channels(layer), 130))
        for x, text, width in (*columns, (590, _bits(layer), 100)):
            board.text(x, y, text, width=width, ha="left", color=_ink(face))
        board.share(layer, 716, y - 3, 200)
        board.text(984, y, f"{layer.bitops / board.bitops:.1%}", ha="right")
    note = "In the order in which they run; bars and percentages: share of the BitOps"
    board.text(16, board.height - 22, note, 12, ha="left")
    return board.figure


DRAW: dict[str, Callable[[SearchSpace, Sequence[Layer]], Figure]] = {"rfdn_deploy": _rfdn}
"""Skeleton -> its picture."""
