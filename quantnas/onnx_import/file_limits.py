"""Judges how large a file's network becomes, before anything in it is computed or inlined.

A file of few bytes can ask for gigabytes: by constants that operators make of a shape, and by
functions that call functions.
"""

from collections.abc import Callable, Container, Iterable
from functools import cache
from pathlib import Path

import onnx

from quantnas.errors import DataError

from . import subgraphs

MOST_NODES = 100_000
"""Largest number of operators after functions are inlined."""

Key = tuple[str, str, str]
"""Domain, name and overload of a function."""


def require_few_nodes(model: onnx.ModelProto, path: Path) -> None:
    """Raise DataError unless the functions of a model can be inlined to a network of usual size."""
    functions = {_key(f.domain, f.name, f.overload): f for f in model.functions}
    open_calls: list[Key] = []

    @cache
    def size(key: Key) -> int:
        if key in open_calls:
            raise DataError(
                f"{path} has a function, '{key[1]}', that calls itself.",
                "Export the network without it.",
            )
        open_calls.append(key)
        count = _count(functions[key].node, functions, size)
        open_calls.pop()
        return count

    total = _count(model.graph.node, functions, size)
    if total > MOST_NODES:
        raise DataError(
            f"{path} would have {total:,} operators with its functions written out, more than the "
            f"{MOST_NODES:,} that are read.",
            "Export the network without functions.",
        )


def require_small_constants(path: Path) -> None:
    """Raise DataError for a file whose functions or constants would take too much memory.

    The constants are computed within the limit, since only their values tell the sizes of others.
    """
    model = onnx.load(path, load_external_data=False)
    require_few_nodes(model, path)
    stored = [tensor.name for tensor in model.graph.initializer]
    constant, rest = subgraphs.parted(model.graph.node, stored)
    made = {name for node in constant for name in node.output}
    read = {name for node in rest for name in node.input if name in made}
    try:
        subgraphs.constants(model, sorted(read))
    except DataError as error:
        raise DataError(f"{path}: {error.cause}", error.remedy) from error
    except Exception:  # what cannot be computed is told where the file is loaded as a whole
        return


def _count(
    nodes: Iterable[onnx.NodeProto], functions: Container[Key], size: Callable[[Key], int]
) -> int:
    """Number of operators that some nodes become, those of inner graphs included."""
    count = 0
    for node in nodes:
        key = _key(node.domain, node.op_type, node.overload)
        count += size(key) if key in functions else 1
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                count += _count(graph.node, functions, size)
    return count


def _key(domain: str, name: str, overload: str) -> Key:
    return domain, name, overload
