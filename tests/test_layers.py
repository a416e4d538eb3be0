"""Which package may import which: only those before it (the rule of the house, executable)."""

import ast
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = (
    *("errors", "progress", "config", "data", "nn", "onnx_import", "architectures", "inference"),
    *("training", "nas", "quantization", "exporters", "runs", "evaluation", "reporting"),
    *("pipeline", "sweeps", "diagnostics", "api", "cli"),
)
"""Every package imports only from itself and from those before it."""
STRANGERS = {
    "nas": {"quantization", "exporters"},
    "quantization": {"nas", "exporters"},
    "exporters": {"training", "nas", "quantization"},
}
"""Package -> those that it knows nothing of, although some stand before it."""
HEAVY = {"torch", "numpy", "onnx", "onnxruntime", "matplotlib", "brevitas"}
TERMINAL = {"typer", "click", "rich", "cli", "quantnas.cli"}
PLAIN = {"errors", "progress", "config"}
"""Packages of plain data: no tensors, no arrays, no graphs."""
LIGHT = {"quantnas.runs.watcher", "quantnas.api.sweep_watcher"}
"""Modules that a command may import before it is called, although their package has heavy ones."""
BELOW_COMMANDS = {*PLAIN, "api"}
"""Packages that a command knows, beside `quantnas.runs.watcher`: all else is behind the API."""


def dotted(path: Path) -> str:
    """quantnas/nas/alphas.py -> quantnas.nas.alphas; cli/ lies in quantnas once installed."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "quantnas" else ("quantnas", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    dotted(path): path
    for folder in ("quantnas", "cli", "search_spaces")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
LIBRARY = sorted(name for name in TREES if not name.startswith("quantnas.cli"))
COMMANDS = sorted(name for name in TREES if name.startswith("quantnas.cli"))


def imported(node: ast.AST, module: str) -> Iterator[str]:
    """Absolute dotted names that one statement of a module imports; `from a import b` is a.b."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parents = module.split(".")
        is_package = module in FILES and FILES[module].name == "__init__.py"
        parents = parents[: len(parents) + is_package - node.level] if node.level else []
        base = [*parents, *filter(None, (node.module or "").split("."))]
        yield from (".".join([*base, alias.name]) for alias in node.names)


def every_import(module: str) -> set[str]:
    return {name for node in ast.walk(TREES[module]) for name in imported(node, module)}


def module_of(name: str) -> str | None:
    """The module of this project that a dotted name stands for or lies in; else None."""
    parent = name.rpartition(".")[0]
    return name if name in FILES else parent if parent in FILES else None


def package_of(module: str) -> str:
    """quantnas.nas.alphas -> nas; the top of the library counts as nothing."""
    return [*module.split("."), ""][1]


def starts_with(name: str, roots: set[str]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def at_import_time(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported: no function bodies, no `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import_time(child)


GRAPH = {
    module: {found for name in every_import(module) if (found := module_of(name))}
    - {module, "quantnas"}  # which offers the API lazily, and else holds the version alone
    for module in TREES
}
GRAPH["quantnas"] = set()
"""The top of the library names the API for type checkers alone, and loads it when it is used."""


def cycle_from(start: str) -> list[str] | None:
    """The modules on a way from one module back to itself, or None."""
    came, stack = {start: ""}, [start]
    while stack:
        at = stack.pop()
        for follower in GRAPH[at]:
            if follower == start:
                way = [at]
                while came[way[-1]]:
                    way.append(came[way[-1]])
                return way
            if follower not in came:
                came[follower] = at
                stack.append(follower)
    return None


def test_every_package_has_a_place_in_the_order():
    packages = {package_of(module) for module in TREES} - {"", "search_spaces"}
    assert packages == set(ORDER)


@pytest.mark.parametrize("module", sorted(TREES))
def test_packages_import_only_from_those_before_them(module):
    mine = package_of(module)
    if mine in ("", "search_spaces"):
        assert {package_of(name) for name in GRAPH[module]} <= {"", "api"}
        return
    allowed = set(ORDER[: ORDER.index(mine) + 1]) | {"", "search_spaces"}
    used = {package_of(other) for other in GRAPH[module]}
    assert not used - allowed
    assert not used & STRANGERS.get(mine, set())


@pytest.mark.parametrize("module", sorted(TREES))
def test_no_module_imports_itself_by_way_of_others(module):
    assert cycle_from(module) is None


@pytest.mark.parametrize("module", LIBRARY)
def test_the_library_does_not_talk(module):
    assert not {name for name in every_import(module) if starts_with(name, TERMINAL)}
    calls = (node.func for node in ast.walk(TREES[module]) if isinstance(node, ast.Call))
    assert not [f.lineno for f in calls if isinstance(f, ast.Name) and f.id == "print"]


@pytest.mark.parametrize("module", sorted(m for m in LIBRARY if package_of(m) in PLAIN))
def test_plain_data_imports_nothing_heavy(module):
    assert not {name for name in every_import(module) if starts_with(name, HEAVY)}


@pytest.mark.parametrize("module", COMMANDS)
def test_commands_import_the_heavy_parts_inside_functions(module):
    names = {n for node in at_import_time(TREES[module]) for n in imported(node, module)}
    assert not {name for name in names if starts_with(name, HEAVY)}
    found = {module for name in names if (module := module_of(name))}
    assert {package_of(m) for m in found - LIGHT} <= {*PLAIN, "cli", ""}


@pytest.mark.parametrize("module", COMMANDS)
def test_commands_call_the_python_api_and_nothing_below_it(module):
    below = {other for other in GRAPH[module] if other != "quantnas.runs.watcher"}
    assert {package_of(other) for other in below} <= {*BELOW_COMMANDS, "cli", ""}


@pytest.mark.parametrize(
    "code",
    [
        "import quantnas.cli.main",
        "import quantnas",
        "import quantnas.api",
        "from quantnas.config import files",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_used(code):
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "module", "found"),
    [
        ("from .alphas import Alphas", "quantnas.nas.supernet", {"quantnas.nas.alphas"}),
        ("from . import alphas, x", "quantnas.nas.supernet", {"quantnas.nas.alphas"}),
        ("from ..config import genotype", "quantnas.nas.supernet", {"quantnas.config.genotype"}),
        ("from quantnas.nas import alphas", "quantnas.api", {"quantnas.nas.alphas"}),
        ("import quantnas.nas.alphas", "quantnas.api", {"quantnas.nas.alphas"}),
        ("from . import options", "quantnas.cli.main", {"quantnas.cli.options"}),
        ("from spaces import search", "quantnas.api", set()),
    ],
)
def test_every_form_of_import_is_seen(line, module, found):
    names = imported(ast.parse(line).body[0], module)
    assert found == {name for name in map(module_of, names) if name and name.count(".") > 1}


def test_a_cycle_is_found():
    chain = ["a", "b", "c"]
    ring = {a: {b} for a, b in itertools.pairwise([*chain, "a"])}
    GRAPH.update(ring)
    assert cycle_from("a") == ["c", "b", "a"]
    for name in ring:
        del GRAPH[name]
