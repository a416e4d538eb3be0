"""A picture's layout of a graph: where its nodes are, and through which points its wires run.

All lengths are in the units of the picture; y points down.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from . import layout_grid
from .layout_grid import Grid, Node, Span, group_of, tracks

Point = tuple[float, float]

COLUMN, BESIDE = 164.0, 22.0
"""Width of a column of nodes, and the room between two."""
LANE, TRACK, ARROW, PORT = 11.0, 9.0, 15.0, 14.0
"""Distances of wires side by side, of wires above each other, the room for an arrow head, and
the distance of two of them."""
PAGE, EDGE, FRAME, TITLE = 46.0, 13.0, 9.0, 20.0
"""Room between two columns of the page, at the sides of one, within a frame, for its title."""


@dataclass(frozen=True)
class Wire:
    """From one node to another."""

    source: str
    target: str
    points: tuple[Point, ...]
    in_lane: bool


@dataclass(frozen=True)
class Frame:
    """A rectangle around a group."""

    group: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Layout:
    """Where everything is."""

    width: float
    height: float
    places: dict[str, Point]
    """Node -> its middle."""
    wires: tuple[Wire, ...]
    frames: tuple[Frame, ...]


def arranged(nodes: Sequence[Node], widest: float, shape: float = 1.1) -> Layout:
    """The layout of a graph whose nodes are in the order in which they run.

    The last node ends the longest path. widest: what the width should not pass; shape: width over
    height that is wished for.
    """
    lowest: dict[int, Layout] = {}
    for grid in layout_grid.grids(nodes):
        layout, pages = _placed(grid), grid.page[-1]
        if pages not in lowest or layout.height < lowest[pages].height:
            lowest[pages] = layout
    fitting = [layout for layout in lowest.values() if layout.width <= widest]
    return min(
        fitting or [lowest[min(lowest)]],
        key=lambda layout: abs(math.log(layout.width / layout.height / shape)),
    )


@dataclass(frozen=True)
class _Across:
    """Where columns and lanes are, page column by page column."""

    grid: Grid
    first: tuple[float, ...]
    """Middle of the first column of nodes."""
    columns: tuple[int, ...]
    """Columns of nodes."""
    right: tuple[float, ...]
    """Right end."""
    crossing: tuple[tuple[str, ...], ...]
    """Nodes whose lane goes on in the next column of the page, the rightmost first."""

    def node(self, key: str) -> float:
        page = self.grid.page[self.grid.row[key]]
        return self.first[page] + (COLUMN + BESIDE) * self.grid.column[key]

    def lane(self, key: str, page: int) -> float:
        lane = self.grid.lanes[key]
        if lane < 0:
            return self.first[page] - COLUMN / 2 + LANE * lane - 4
        return self.first[page] + _reach(self.columns[page]) + LANE * lane + 4

    def arrival(self, source: str, target: str) -> float:
        """Where a wire comes from, in the end."""
        if self.grid.direct(source, target):
            return self.node(source)
        return self.lane(source, self.grid.page[self.grid.row[target]])


def _reach(columns: int) -> float:
    """From the middle of the first column of nodes to the right end of the last."""
    return (COLUMN + BESIDE) * (columns - 1) + COLUMN / 2


def _across(grid: Grid) -> _Across:
    first, columns, right = list[float](), list[int](), list[float]()
    seen = [grid.lanes_on(page) for page in range(max(grid.page) + 1)]
    crossing = [
        tuple(sorted(here & after, key=grid.lanes.__getitem__, reverse=True))
        for here, after in zip(seen, [*seen[1:], set[str]()], strict=True)
    ]
    x = 0.0
    for page, lanes in enumerate(seen):
        inside = [key for key in grid.nodes if grid.page[grid.row[key]] == page]
        columns.append(1 + max(grid.column[key] for key in inside))
        numbers = [0, *(grid.lanes[key] for key in lanes)]
        first.append(x + EDGE - LANE * min(numbers) + COLUMN / 2)
        right.append(first[-1] + _reach(columns[-1]) + LANE * max(numbers) + EDGE)
        x = right[-1] + PAGE + TRACK * len(crossing[page])
    return _Across(grid, tuple(first), tuple(columns), tuple(right), tuple(crossing))


@dataclass(frozen=True)
class _Entries:
    """How wires come into nodes."""

    offset: dict[tuple[str, str], float]
    """(source, target) -> from the middle of the node."""
    aside: set[tuple[str, str]]
    """Those that come from the side, into a sign."""


def _entries(across: _Across) -> _Entries:
    grid, found = across.grid, _Entries({}, set())
    for key, node in grid.nodes.items():
        x, used = across.node(key), {-1: 0, 1: 0}
        near = sorted(node.sources, key=lambda source: abs(across.arrival(source, key) - x))
        for source in near:
            side = 1 if across.arrival(source, key) > x else -1
            if grid.straight(source, key):
                found.offset[source, key] = 0
                continue
            used[side] += 1
            found.offset[source, key] = side * used[side] * PORT if len(near) > 1 else 0
            if node.is_sign and used[side] == 1:
                found.aside.add((source, key))
    return found


Tracks = list[dict[str, int]]


def _above(across: _Across, entries: _Entries) -> Tracks:
    """Row -> the tracks above it, from the row upwards, of wires that come out of lanes."""
    grid, found = across.grid, []
    for row in range(len(grid.rows)):
        ends: dict[str, list[float]] = {}
        for key in grid.rows[row]:
            for source in grid.nodes[key].sources:
                if not grid.direct(source, key) and (source, key) not in entries.aside:
                    ends.setdefault(source, [across.arrival(source, key)])
                    ends[source].append(across.node(key) + entries.offset[source, key])
        outer = sorted(ends, key=lambda source: -abs(grid.lanes[source]))
        found.append(tracks({key: (min(ends[key]), max(ends[key])) for key in outer}, False))
    return found


def _below(across: _Across, entries: _Entries) -> Tracks:
    """Row -> the tracks below it, from the row downwards, of wires that leave it sideways."""
    grid, found = across.grid, []
    for row in range(len(grid.rows)):
        spans: dict[str, Span] = {}
        for key in sorted(grid.rows[row], key=grid.column.__getitem__, reverse=True):
            page, x = grid.page[row], across.node(key)
            ends = [across.lane(key, page)] if key in grid.lanes else []
            for target in grid.targets[key]:
                sideways = grid.direct(key, target) and not grid.straight(key, target)
                if sideways and (key, target) not in entries.aside:
                    ends.append(across.node(target) + entries.offset[key, target])
            if ends:
                spans[key] = min(x, *ends), max(x, *ends)
        found.append(tracks(spans, False))
    return found


@dataclass(frozen=True)
class _Down:
    """Where rows and the wires between them are."""

    middle: tuple[float, ...]
    top: tuple[float, ...]
    """Of the nodes of a row."""
    bottom: tuple[float, ...]
    start: tuple[float, ...]
    """Upper and lower end of all that belongs to a row, its frame's ends included."""
    end: tuple[float, ...]


def _down(grid: Grid, above: Tracks, below: Tracks, first: float) -> _Down:
    y, found = first, list[tuple[float, ...]]()
    groups = [(grid.page[i], group_of(grid.nodes, keys)) for i, keys in enumerate(grid.rows)]
    for row, keys in enumerate(grid.rows):
        begins = row == 0 or groups[row - 1] != groups[row]
        ends = row + 1 == len(groups) or groups[row + 1] != groups[row]
        if row and grid.page[row - 1] != grid.page[row]:
            y = first
        y += FRAME * begins
        start = y
        has_title = begins and groups[row][1] != ""
        y += TITLE * has_title + TRACK * _count(above[row]) + ARROW
        top, height = y, max(grid.nodes[key].height for key in keys)
        y += height + (4 + TRACK * _count(below[row]) if below[row] else 0)
        y += FRAME * (ends and groups[row][1] != "")
        found.append((top + height / 2, top, top + height, start, y))
    return _Down(*zip(*found, strict=True))


def _count(tracks: Mapping[str, int]) -> int:
    return max(tracks.values(), default=-1) + 1


def _placed(grid: Grid) -> Layout:
    across = _across(grid)
    entries = _entries(across)
    above, below = _above(across, entries), _below(across, entries)
    down = _down(grid, above, below, TRACK * max(map(len, across.crossing)))
    router = _Router(grid, across, entries, above, below, down)
    wires = [router.wire(key, to) for key in grid.nodes for to in grid.targets[key]]
    places = {key: (across.node(key), down.middle[grid.row[key]]) for key in grid.nodes}
    height = max(max(down.end), *(y for wire in wires for _, y in wire.points))
    return Layout(max(across.right), height, places, tuple(wires), tuple(_frames(across, down)))


@dataclass(frozen=True)
class _Router:
    """Draws wires."""

    grid: Grid
    across: _Across
    entries: _Entries
    above: Tracks
    below: Tracks
    down: _Down

    def wire(self, source: str, target: str) -> Wire:
        """From below its source, perhaps through a lane, to the top or the side of its target."""
        grid, across = self.grid, self.across
        x, end = across.node(source), across.node(target) + self.entries.offset[source, target]
        row, last = grid.row[source], grid.row[target]
        is_direct, is_aside = grid.direct(source, target), (source, target) in self.entries.aside
        points = [(x, self.down.middle[row] + grid.nodes[source].height / 2)]
        if not is_direct or not (grid.straight(source, target) or is_aside):
            y = self.down.bottom[row] + 8 + TRACK * self.below[row][source]
            x = end if is_direct else across.lane(source, grid.page[row])
            points += [(points[-1][0], y), (x, y)]
        if not is_direct:
            points += self._pages(source, grid.page[row], grid.page[last])
            x = points[-1][0]
        if is_aside:
            half = grid.nodes[target].height / 2
            y, middle = self.down.middle[last], across.node(target)
            points += [(x, y), (middle + math.copysign(half, x - middle), y)]
        else:
            if not is_direct:
                y = self.down.top[last] - ARROW - TRACK * self.above[last][source]
                points += [(x, y), (end, y)]
            points.append((end, self.down.middle[last] - grid.nodes[target].height / 2))
        return Wire(source, target, tuple(points), not is_direct)

    def _pages(self, source: str, page: int, last: int) -> Iterator[Point]:
        """From column to column of the page: below the one, up between them, above the next."""
        for before in range(page, last):
            across, rows = self.across, self.grid.page
            order = across.crossing[before].index(source)
            bottom = max(end for end, p in zip(self.down.end, rows, strict=True) if p == before)
            low, high = bottom + TRACK * (order + 1), TRACK * order
            x, between = across.lane(source, before), across.right[before] + TRACK * (order + 1)
            following = across.lane(source, before + 1)
            yield from ((x, low), (between, low), (between, high), (following, high))


def _frames(across: _Across, down: _Down) -> Iterator[Frame]:
    grid = across.grid
    groups = [(grid.page[i], group_of(grid.nodes, keys)) for i, keys in enumerate(grid.rows)]
    for (page, group), block in groupby(range(len(groups)), groups.__getitem__):
        rows = list(block)
        if group:
            inside = {key for row in rows for key in grid.rows[row]}
            xs = [across.node(key) + side * COLUMN / 2 for key in inside for side in (-1, 1)]
            near = [key for key in grid.lanes_on(page) if inside & {key, *grid.targets[key]}]
            xs += [across.lane(key, page) for key in near]
            x, y = min(xs) - LANE / 2, down.start[rows[0]]
            yield Frame(group, x, y, max(xs) + LANE / 2 - x, down.end[rows[-1]] - y)
