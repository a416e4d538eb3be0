"""The time that every node of a file takes, from ONNX Runtime's own profile."""

import json
import re
import tempfile
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from quantnas.progress import Progress
from quantnas.runs.models import Model

from . import latency

TIME = "_kernel_time"
"""Suffix of the profile's events that time a node."""
ROUNDS = 10
"""Number of timed runs."""
CHANGED = re.compile(r"_token_\d+$")
"""Suffix that ONNX Runtime appends to the name of a node that it has changed."""


@dataclass(frozen=True)
class Node:
    """A node of the graph that ONNX Runtime executes."""

    layer: str
    """Name of the convolution; empty for other nodes."""
    operator: str
    """The operator that is executed, which may differ from that in the file."""
    ms: float
    """Median time, milliseconds."""
    share: float
    """Share of the time of all nodes, 0 to 1."""
    in_float: bool
    """Whether its first input is float."""


def measure(
    model: Model, size: tuple[int, int], threads: int
) -> Generator[Progress, None, list[Node]]:
    """Profile a model; yields progress, and returns the nodes, the slowest first.

    size: (height, width) of the low-resolution image.

    Raises DataError as `latency.measure`.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = {"enable_profiling": True, "profile_file_prefix": str(Path(folder) / "profile")}
        run = latency.session(model.file, threads, model.what, **options)
        once = latency.runner(run, size, model.what)
        for done in range(1, latency.WARM + ROUNDS + 1):
            once()
            yield Progress(f"layers {model.name}", done, latency.WARM + ROUNDS, {})
        events = json.loads(Path(run.end_profiling()).read_text(encoding="utf-8"))
    layers = [row.name for row in model.cost.layers] if model.cost else None
    return nodes(events, layers)


def nodes(events: Iterable[Mapping[str, Any]], layers: Collection[str] | None) -> list[Node]:
    """The nodes of a profile, without warm-up runs, the slowest first.

    layers: names of convolutions, which nodes keep; None keeps the names of all nodes.
    """
    by_index: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(TIME):
            by_index.setdefault(event["args"]["node_index"], []).append(event)
    times = {
        key: median(e["dur"] for e in group[latency.WARM :]) for key, group in by_index.items()
    }
    total = sum(times.values()) or 1.0
    rows = [_node(by_index[key][0], spent, total, layers) for key, spent in times.items()]
    return sorted(rows, key=lambda row: -row.ms)


def _node(
    event: Mapping[str, Any], spent: float, total: float, layers: Collection[str] | None
) -> Node:
    name = CHANGED.sub("", event["name"].removesuffix(TIME))
    kinds: Sequence[Mapping[str, Any]] = event["args"].get("input_type_shape") or [{}]
    operator = event["args"]["op_name"]
    layer = name if layers is None or name in layers else ""
    return Node(layer, operator, spent / 1000, spent / total, "float" in kinds[0])
