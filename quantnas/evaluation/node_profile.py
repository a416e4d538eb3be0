"""Which nodes of a file take the time, as ONNX Runtime's own profile tells."""

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
"""End of the name of an event that is a node's run."""
ROUNDS = 10
"""Runs that are counted."""
CHANGED = re.compile(r"_token_\d+$")
"""What ONNX Runtime puts behind the name of a node that it has changed."""


@dataclass(frozen=True)
class Node:
    """One node of the graph that runs."""

    layer: str
    """Name of its convolution; empty for what is none."""
    operator: str
    """As it runs, not as the file has it."""
    ms: float
    """Median."""
    share: float
    """Of the sum over all nodes."""
    in_float: bool
    """Whether what it reads first is float."""


def measure(
    model: Model, size: tuple[int, int], threads: int
) -> Generator[Progress, None, list[Node]]:
    """Progress over the rounds; the nodes as the generator's result, the costliest first.

    Raises DataError as `latency.measure`.
    """
    with tempfile.TemporaryDirectory() as folder:
        chosen = {"enable_profiling": True, "profile_file_prefix": str(Path(folder) / "profile")}
        run = latency.session(model.file, threads, model.what, **chosen)
        once = latency.runner(run, size, model.what)
        for done in range(1, latency.WARM + ROUNDS + 1):
            once()
            yield Progress(f"layers {model.name}", done, latency.WARM + ROUNDS, {})
        events = json.loads(Path(run.end_profiling()).read_text(encoding="utf-8"))
    layers = [row.name for row in model.cost.layers] if model.cost else None
    return nodes(events, layers)


def nodes(events: Iterable[Mapping[str, Any]], layers: Collection[str] | None) -> list[Node]:
    """The nodes of a profile, without the runs that warmed up; `layers`: names that are shown."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(TIME):
            found.setdefault(event["args"]["node_index"], []).append(event)
    times = {key: median(e["dur"] for e in group[latency.WARM :]) for key, group in found.items()}
    total = sum(times.values()) or 1.0
    rows = [_node(found[key][0], spent, total, layers) for key, spent in times.items()]
    return sorted(rows, key=lambda row: -row.ms)


def _node(
    event: Mapping[str, Any], spent: float, total: float, layers: Collection[str] | None
) -> Node:
    name = CHANGED.sub("", event["name"].removesuffix(TIME))
    kinds: Sequence[Mapping[str, Any]] = event["args"].get("input_type_shape") or [{}]
    operator = event["args"]["op_name"]
    known = name if layers is None or name in layers else ""
    return Node(known, operator, spent / 1000, spent / total, "float" in kinds[0])
