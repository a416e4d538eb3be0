"""Where the nodes of a graph stand, counted in rows, columns and lanes.

A node stands in the row below everything that it reads; the longest path runs straight down, and
what else is in a row stands right of it. A wire that passes other nodes runs in a lane beside
them: left of the longest path if it begins there, otherwise right. Where the page would become too
long, the rows go on in its next column.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Row = tuple[str, ...]
"""Keys of the nodes beside each other."""
Span = tuple[float, float]

GAP = 30.0
"""About the room between two rows, as the page is divided."""


@dataclass(frozen=True)
class Node:
    """A box, or a sign: one whose wires may come from all sides."""

    key: str
    sources: tuple[str, ...]
    height: float
    group: str = ""
    is_sign: bool = False


@dataclass(frozen=True)
class Grid:
    """Where everything is, counted."""

    nodes: dict[str, Node]
    rows: tuple[tuple[str, ...], ...]
    row: dict[str, int]
    column: dict[str, int]
    page: tuple[int, ...]
    """Row -> its column of the page."""
    lanes: dict[str, int]
    """Node -> the lane of its wires; left ones are negative, -1 is the innermost."""
    targets: dict[str, list[str]]

    def straight(self, source: str, target: str) -> bool:
        """Whether a wire runs down within a column."""
        between = self.rows[self.row[source] + 1 : self.row[target]]
        column = self.column[source]
        free = all(self.column[key] != column for row in between for key in row)
        return free and column == self.column[target] and self.near(source, target)

    def near(self, source: str, target: str) -> bool:
        return self.page[self.row[source]] == self.page[self.row[target]]

    def direct(self, source: str, target: str) -> bool:
        """Whether a wire needs no lane."""
        following = self.row[target] == self.row[source] + 1 and self.near(source, target)
        return following or self.straight(source, target)

    def lanes_on(self, page: int) -> set[str]:
        """Nodes that have a lane in a column of the page."""
        last = {key: max(self.row[target] for target in self.targets[key]) for key in self.lanes}
        return {key for key in last if self.page[self.row[key]] <= page <= self.page[last[key]]}


def grids(nodes: Sequence[Node]) -> Iterator[Grid]:
    """The grid of a graph on one column of the page, on two and so on, broken in several ways.

    nodes: in the order in which they run; the last one ends the longest path.
    """
    by_key, rows = {node.key: node for node in nodes}, _rows(nodes)
    whole = sum(_height(by_key, keys) for keys in rows)
    limits = (whole / count * (1 + slack / 20) for count in range(1, 9) for slack in range(10))
    for page in sorted({_pages(by_key, rows, limit) for limit in limits}):
        yield _grid(nodes, rows, page)


def _ranks(nodes: Iterable[Node]) -> dict[str, int]:
    ranks: dict[str, int] = {}
    for node in nodes:
        ranks[node.key] = 1 + max((ranks[source] for source in node.sources), default=-1)
    return ranks


def _rows(nodes: Sequence[Node]) -> list[Row]:
    """Boxes of a rank share a row; every sign has one to itself: wires come from its sides."""
    ranks, rows = _ranks(nodes), dict[tuple[int, int], list[str]]()
    for i, node in enumerate(nodes):
        rows.setdefault((ranks[node.key], i + 1 if node.is_sign else 0), []).append(node.key)
    return [tuple(rows[key]) for key in sorted(rows)]


def _grid(nodes: Sequence[Node], rows: Sequence[Row], page: tuple[int, ...]) -> Grid:
    """The graph, with the column of the page that every row is in."""
    by_key = {node.key: node for node in nodes}
    row = {key: i for i, keys in enumerate(rows) for key in keys}
    targets = {node.key: [n.key for n in nodes if node.key in n.sources] for node in nodes}
    grid = Grid(by_key, tuple(rows), row, _columns(nodes, rows), page, {}, targets)
    spans: dict[bool, dict[str, Span]] = {True: {}, False: {}}
    for key, readers in targets.items():
        far = [row[reader] for reader in readers if not grid.direct(key, reader)]
        if far:
            spans[grid.column[key] == 0][key] = (row[key], max(far))
    for is_left, found in spans.items():
        for key, track in tracks(found).items():
            grid.lanes[key] = -1 - track if is_left else 1 + track
    return grid


def _columns(nodes: Sequence[Node], rows: Iterable[Row]) -> dict[str, int]:
    """Node -> its column: 0 on the longest path, otherwise that of what it reads if it is free."""
    by_key, ranks, columns = {node.key: node for node in nodes}, _ranks(nodes), dict[str, int]()
    key = nodes[-1].key
    while key:
        columns[key] = 0
        key = max(by_key[key].sources, key=ranks.__getitem__, default="")
    for keys in rows:
        taken = {columns[key] for key in keys if key in columns} | {0}
        for key in (key for key in keys if key not in columns):
            wished = [columns[source] for source in by_key[key].sources]
            columns[key] = next(c for c in (*wished, *range(1, len(nodes) + 1)) if c not in taken)
            taken.add(columns[key])
    return columns


def _pages(nodes: Mapping[str, Node], rows: Sequence[Row], limit: float) -> tuple[int, ...]:
    """Row -> its column of the page.

    A group stays whole, and what joins several wires stays with the row above it.
    """
    found, filled = list[int](), 0.0
    for block in _blocks(nodes, rows):
        height = sum(_height(nodes, keys) for keys in block)
        last = found[-1] if found else 0
        is_full = filled > 0 and filled + height > limit
        filled = height + (0 if is_full else filled)
        found += [last + is_full] * len(block)
    return tuple(found)


def _blocks(nodes: Mapping[str, Node], rows: Iterable[Row]) -> list[list[Row]]:
    """Rows between which the page may be broken."""
    blocks: list[list[Row]] = []
    group = ""
    for keys in rows:
        before, group = group, group_of(nodes, keys)
        joins = len(keys) == 1 and len(nodes[keys[0]].sources) > 1
        if blocks and (joins or (group and group == before)):
            blocks[-1].append(keys)
        else:
            blocks.append([keys])
    return blocks


def _height(nodes: Mapping[str, Node], keys: Iterable[str]) -> float:
    """About the height of a row with its wires."""
    return max(nodes[key].height for key in keys) + GAP


def group_of(nodes: Mapping[str, Node], keys: Iterable[str]) -> str:
    return next((nodes[key].group for key in keys if nodes[key].group), "")


def tracks(spans: Mapping[str, Span], by_length: bool = True) -> dict[str, int]:
    """Span -> the first track where it meets no other; short ones first, or as they come."""
    taken, found = dict[int, list[Span]](), dict[str, int]()
    order = sorted(spans, key=lambda key: spans[key][1] - spans[key][0]) if by_length else spans
    for key in order:
        low, high = spans[key]
        found[key] = next(
            track
            for track in range(len(spans))
            if all(high <= a or b <= low for a, b in taken.get(track, ()))
        )
        taken.setdefault(found[key], []).append((low, high))
    return found
