"""Layout of a graph in layers: positions of its nodes and the points of its wires.

A node stands in the row below everything that it reads. The longest path runs straight down the
first column, and branches stand to its right. Wires that pass other nodes run in lanes beside the
columns; those to the same node share one. A graph that is too long for the page goes on in further
strips. Wires between strips are not drawn: both of their ends get the same number.
Lengths are in units of the picture, and y points down.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, count, groupby

Point = tuple[float, float]

COLUMN, BESIDE, STRIP = 164.0, 22.0, 30.0
"""Width of a column, gap between two columns, gap between two strips."""
LANE, TRACK, ARROW, PORT = 11.0, 9.0, 16.0, 14.0
"""Distances of lanes and of horizontal wires, length of an arrow, distance of two arrows."""
NUMBER, TITLE, FRAME = 24.0, 20.0, 9.0
"""Heights of the numbers above a node and of a frame's title, padding of a frame."""


@dataclass(frozen=True)
class Node:
    """A box, or the sign of a sum or product, which wires also enter from the sides."""

    key: str
    sources: tuple[str, ...]
    height: float
    group: str = ""
    is_sign: bool = False


@dataclass(frozen=True)
class Wire:
    """The way from one node to another in the same strip."""

    source: str
    target: str
    points: tuple[Point, ...]
    in_lane: bool


@dataclass
class Layout:
    """Positions of everything that is drawn."""

    width: float = 0.0
    height: float = 0.0
    places: dict[str, Point] = field(default_factory=dict)
    """Centre of every node."""
    wires: list[Wire] = field(default_factory=list)
    frames: list[tuple[str, float, float, float, float]] = field(default_factory=list)
    """Group, x, y, width and height of the rectangles around groups."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Number of every node that another strip reads."""


def arranged(nodes: Sequence[Node], widest: float, shape: float = 1.1) -> Layout:
    """Return the smallest layout of that shape (width over height) that is not wider than `widest`.

    Nodes are given in the order in which they run; the last one ends the longest path.
    """
    graph = _Graph(nodes)
    whole = sum(map(graph.height, graph.blocks))
    limits = {whole / strips * slack for strips in range(1, 9) for slack in (1, 1.1, 1.2, 1.3)}
    layouts = [_layout(graph, graph.strips(limit)) for limit in sorted(limits, reverse=True)]
    fitting = [layout for layout in layouts if layout.width <= widest] or layouts[:1]
    return min(fitting, key=lambda layout: max(layout.width / shape, layout.height))


def _layout(graph: "_Graph", strips: Sequence[Sequence[int]]) -> Layout:
    layout = Layout(width=-STRIP)
    strip = {key: i for i, rows in enumerate(strips) for row in rows for key in graph.rows[row]}
    pairs = ((source, node.key) for node in graph.nodes.values() for source in node.sources)
    cut = {source for source, target in pairs if strip[source] != strip[target]}
    layout.numbers = {key: i for i, key in enumerate(filter(cut.__contains__, graph.nodes), 1)}
    for rows in strips:
        _Strip(graph, rows, layout).place()
    return layout


class _Graph:
    """Nodes in rows and columns."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes, self.rank = {node.key: node for node in nodes}, dict[str, int]()
        rows: dict[tuple[int, int], list[str]] = {}
        for i, node in enumerate(nodes):
            self.rank[node.key] = 1 + max((self.rank[key] for key in node.sources), default=-1)
            own_row = i + 1 if node.is_sign else 0  # wires come from the sides of a sign
            rows.setdefault((self.rank[node.key], own_row), []).append(node.key)
        self.rows = [rows[key] for key in sorted(rows)]
        self.row = {key: i for i, keys in enumerate(self.rows) for key in keys}
        self.groups = [max(self.nodes[key].group for key in keys) for keys in self.rows]
        self.column = self._columns(nodes[-1].key)
        self.blocks = self._blocks()

    def _columns(self, end: str) -> dict[str, int]:
        """Node -> its column; a branch stays in the column of what it reads where it is free."""
        columns = {end: 0}
        while self.nodes[end].sources:
            end = max(self.nodes[end].sources, key=self.rank.__getitem__)
            columns[end] = 0
        for keys in self.rows:
            taken = {0} | {columns[key] for key in keys if key in columns}
            for key in (key for key in keys if key not in columns):
                wished = [columns[source] for source in self.nodes[key].sources]
                columns[key] = next(c for c in chain(wished, count(1)) if c not in taken)
                taken.add(columns[key])
        return columns

    def _blocks(self) -> list[list[int]]:
        """Rows that stay together: a group, and what joins several wires with the row above."""
        blocks: list[list[int]] = []
        for row, keys in enumerate(self.rows):
            joins = len(keys) == 1 and len(self.nodes[keys[0]].sources) > 1
            if row and (joins or self.groups[row - 1] == self.groups[row] != ""):
                blocks[-1].append(row)
            else:
                blocks.append([row])
        return blocks

    def height(self, rows: Sequence[int]) -> float:
        """Approximate height of rows with their wires."""
        return sum(30 + max(self.nodes[key].height for key in self.rows[row]) for row in rows)

    def strips(self, limit: float) -> list[list[int]]:
        """Rows of every strip; a strip is about as high as `limit` at most."""
        strips: list[list[int]] = [[]]
        for block in self.blocks:
            if strips[-1] and self.height(strips[-1] + block) > limit:
                strips.append([])
            strips[-1] += block
        return strips

    def straight(self, source: str, target: str) -> bool:
        """Whether a wire can run straight down a column."""
        between = self.rows[self.row[source] + 1 : self.row[target]]
        columns = {self.column[key] for keys in between for key in keys}
        return self.column[source] == self.column[target] and self.column[source] not in columns

    def far(self, source: str, target: str) -> bool:
        """Whether a wire needs a lane."""
        return self.row[target] > self.row[source] + 1 and not self.straight(source, target)


class _Strip:
    """Consecutive rows of a graph, added to a layout at its right."""

    def __init__(self, graph: _Graph, rows: Sequence[int], layout: Layout) -> None:
        self.graph, self.rows, self.layout = graph, rows, layout
        inside = [key for row in rows for key in graph.rows[row]]
        self.sources = {k: [s for s in graph.nodes[k].sources if s in inside] for k in inside}
        self.pairs = [(source, key) for key in inside for source in self.sources[key]]
        lanes, columns = self._lanes(), max(graph.column[key] for key in inside)
        self.left, self.bottom = layout.width + STRIP, 0.0
        self.turns = dict[str, tuple[float, float]]()  # y of turns above and below a node
        self.first = self.left + FRAME - LANE * min(0, 0, *lanes.values()) + COLUMN / 2
        last = self.first + (COLUMN + BESIDE) * columns
        ends = self.first - COLUMN / 2 - 4, last + COLUMN / 2 + 4
        self.lanes = {key: ends[lane > 0] + LANE * lane for key, lane in lanes.items()}
        layout.width = last + COLUMN / 2 + LANE * max(0, 0, *lanes.values()) + FRAME

    def _lanes(self) -> dict[tuple[bool, str], int]:
        """(Right side, target) -> lane: -1, -2... to the left, 1, 2... to the right.

        Wires from the first column use the left side. Short lanes are the inner ones.
        """
        row, spans = self.graph.row, dict[tuple[bool, str], tuple[int, int]]()
        for source, target in self.pairs:
            if self.graph.far(source, target):
                lane = self.graph.column[source] > 0, target
                spans[lane] = min(row[source], *spans.get(lane, (row[target],))), row[target]
        lanes: dict[tuple[bool, str], int] = {}
        for lane in sorted(spans, key=lambda lane: spans[lane][1] - spans[lane][0]):
            (start, end), side = spans[lane], 1 if lane[0] else -1
            taken = {lanes[k] for k in lanes if spans[k][0] < end and start < spans[k][1]}
            lanes[lane] = next(side * i for i in count(1) if side * i not in taken)
        return lanes

    def place(self) -> None:
        """Add the nodes, wires and frames of the strip."""
        for group, rows in groupby(self.rows, self.graph.groups.__getitem__):
            start = self.bottom
            self.bottom += (TITLE + FRAME) * (group != "")
            for row in rows:
                self._row(self.graph.rows[row])
            if group:
                size = self.layout.width - self.left, self.bottom + FRAME - start
                self.layout.frames.append((group, self.left, start, *size))
                self.bottom += 2 * FRAME
        self.layout.height = max(self.layout.height, self.bottom)
        self.layout.wires += [self._wire(*pair) for pair in self.pairs]

    def _row(self, keys: Sequence[str]) -> None:
        """Place the nodes of a row, with room for the wires above and below it."""
        nodes, column = self.graph.nodes, self.graph.column
        boxes = [key for key in keys if not nodes[key].is_sign]
        numbered = any(len(self.sources[key]) < len(nodes[key].sources) for key in boxes)
        height = max(nodes[key].height for key in keys)
        entered = any(self.graph.far(s, key) for key in boxes for s in self.sources[key])
        top = self.bottom + NUMBER * numbered + TRACK * entered + ARROW
        self.bottom = top + height + 8
        for key in sorted(keys, key=column.__getitem__, reverse=True):
            self.layout.places[key] = self._x(key), top + height / 2
            self.turns[key] = top - ARROW, self.bottom
            self.bottom += TRACK * any(s == key and self._turns(s, t) for s, t in self.pairs)
        self.bottom -= 5 if self.bottom > top + height + 8 else 8

    def _x(self, key: str) -> float:
        return self.first + (COLUMN + BESIDE) * self.graph.column[key]

    def _turns(self, source: str, target: str) -> bool:
        """Whether a wire turns to the side below its source."""
        is_far, is_sign = self.graph.far(source, target), self.graph.nodes[target].is_sign
        return is_far or not (is_sign or self.graph.straight(source, target))

    def _wire(self, source: str, target: str) -> Wire:
        """Return the wire from below its source to the top of its target, or the side of a sign."""
        node, is_far = self.graph.nodes[target], self.graph.far(source, target)
        (start, y), (end, middle) = self.layout.places[source], self.layout.places[target]
        half, points = node.height / 2, [(start, y + self.graph.nodes[source].height / 2)]
        x = self.lanes[self.graph.column[source] > 0, target] if is_far else start
        side = 0 if self.graph.straight(source, target) else 1 if x > end else -1
        port = end + side * PORT * (len(self.sources[target]) > 1)
        if self._turns(source, target):
            x = x if is_far else port
            points += [(start, self.turns[source][1]), (x, self.turns[source][1])]
        if node.is_sign and side:
            return Wire(source, target, (*points, (x, middle), (end + side * half, middle)), is_far)
        if is_far:
            points += [(x, self.turns[target][0]), (port, self.turns[target][0])]
        return Wire(source, target, (*points, (port, middle - half)), is_far)
