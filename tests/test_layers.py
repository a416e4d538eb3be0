"""Which module may import which: only strictly lower levels (the rule of the house, executable)."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "quantnas"
CLI = ROOT / "cli"

LAYERS = [
    {"errors", "checks", "bounds"},
    {"schema", "notation", "requirements", "standing"},
    {"space", "config"},
    {"genotype", "layered_settings"},
    {"runs"},
    {"quantizer", "metrics", "bicubic", "onnx_graph", "ops", "alphas", "team"}
    | {"tensorboard", "settings", "litert_graph", "machine", "resources"}
    | {"building", "onnx_source"},
    {"plan", "filling", "fitting", "adq", "relax", "images", "patches", "checkpoint", "crew"}
    | {"decisions", "cards"}
    | {"layouts", "tracing", "wiring", "onnx_weights", "float_twin"}
    | {"shape_arithmetic", "translate_resize", "trying"},
    {"ends", "distillation", "rfdn", "fusion", "picture"}
    | {"translate_layers", "translate_moves", "translate_pointwise"},
    {"conv", "basic", "edsr", "imdn", "rfdn_deploy", "rfdn_published", "plain"}
    | {"photographs", "board", "translations", "patterns", "elsewhere"},
    {"onnx_import"},
    {"layer_forms"},
    {"imported"},
    {"skeleton", "train", "store", "onnx_layers", "litert_layers", "reach"},
    {"supernet", "onnx_ops", "litert_operations", "parity", "conventions"},
    {"network", "cost"},
    {"survey", "objective", "budget", "quantize", "evaluate", "export", "foreign", "closed_form"}
    | {"saliency", "stored", "cells"},
    {"search", "allocation", "baselines", "retrain", "tiles", "litert", "qonnx_export"},
    {"random_search", "contest", "verify", "surgery", "report", "crops", "diagram", "trajectory"}
    | {"tables", "labels", "parts", "damage_plot", "seeds"},
    {"workspace", "phases", "difference", "front"},
    {"tasks", "models", "widths", "enlarging", "formats", "branching"},
    {"searching"},
    {"comparison", "origins", "latency", "runnable", "damage_measured", "slider"},
    {"training"},
    {"quantizing", "drop", "adopt", "profiling", "assisting", "beginning", "page_data"},
    {"page_text"},
    {"page"},
    {"pipeline", "doctor"},
    {"point"},
    {"workers", "cluster"},
    {"sweeping"},
    {"overview"},
]
LEVEL = {"__init__": -1} | {name: level for level, names in enumerate(LAYERS) for name in names}
PURE_DATA = 4  # up to this level: no tensors, no arrays, no graphs
HEAVY = {"torch", "numpy", "onnx", "onnxruntime", "matplotlib"}
TERMINAL = {"typer", "click", "rich", "cli", "quantnas.cli"}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path, folder: Path) -> str:
    return ".".join(path.relative_to(folder).with_suffix("").parts)


def imports(node: ast.AST, package: str) -> Iterator[str]:
    """Absolute dotted names that one import statement of a module in `package` may bring in.

    `from a import b` yields `a.b`: whether b is a module or a function is not asked here.
    """
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
        base = [*(parents if node.level else []), *(node.module or "").split(".")]
        yield from (".".join([*filter(None, base), alias.name]) for alias in node.names)


def siblings(names: Iterator[str]) -> set[str]:
    """Modules of quantnas among the names; a name of quantnas/__init__.py counts as `__init__`."""
    parts = [name.split(".") for name in names if name.split(".")[0] == "quantnas"]
    return {p[1] if len(p) > 1 and not p[1].startswith("__") else "__init__" for p in parts}


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


LIBRARY = {name_of(path, PACKAGE): parse(path) for path in sorted(PACKAGE.rglob("*.py"))}
COMMANDS = {name_of(path, CLI): parse(path) for path in sorted(CLI.rglob("*.py"))}
IMPORTS = {
    module: {name for node in ast.walk(tree) for name in imports(node, "quantnas")}
    for module, tree in LIBRARY.items()
}


def test_every_module_has_a_level():
    assert set(LIBRARY) == set(LEVEL), "LAYERS and the modules of quantnas/ differ"
    assert sum(map(len, LAYERS)) == len(LEVEL) - 1, "a module stands in two layers"


@pytest.mark.parametrize("module", sorted(LIBRARY))
def test_imports_point_down(module):
    level = LEVEL[module]
    known = siblings(iter(IMPORTS[module])) - {"cli"}  # cli: see the next test
    assert not {name for name in known if LEVEL.get(name, 99) >= level}


@pytest.mark.parametrize("module", sorted(LIBRARY))
def test_the_library_does_not_talk(module):
    assert not {name for name in IMPORTS[module] if starts_with(name, TERMINAL)}
    calls = (node.func for node in ast.walk(LIBRARY[module]) if isinstance(node, ast.Call))
    assert not [f.lineno for f in calls if isinstance(f, ast.Name) and f.id == "print"]


@pytest.mark.parametrize("module", sorted(m for m in LIBRARY if LEVEL.get(m, 99) <= PURE_DATA))
def test_data_is_pure(module):
    assert not {name for name in IMPORTS[module] if starts_with(name, HEAVY)}


@pytest.mark.parametrize("module", sorted(COMMANDS))
def test_commands_import_the_heavy_parts_inside_functions(module):
    names = {n for node in at_import_time(COMMANDS[module]) for n in imports(node, "quantnas.cli")}
    assert not {name for name in names if starts_with(name, HEAVY)}
    known = siblings(iter(names)) - {"cli", "search_spaces"}
    assert not {name for name in known if LEVEL.get(name, 99) > PURE_DATA}


def test_help_loads_nothing_heavy():
    code = "import sys, quantnas.cli.main; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "package", "found"),
    [
        ("from .space import load", "quantnas", {"space"}),
        ("from . import space, cost", "quantnas", {"space", "cost"}),
        ("from quantnas.space import load", "quantnas", {"space"}),
        ("from quantnas import space", "quantnas", {"space"}),
        ("import quantnas.space", "quantnas", {"space"}),
        ("from . import __version__", "quantnas", {"__init__"}),
        ("import quantnas", "quantnas", {"__init__"}),
        ("from .search import command", "quantnas.cli", {"cli"}),
        ("from ..search import search", "quantnas.cli", {"search"}),
        ("from .. import search", "quantnas.cli", {"search"}),
        ("from spaces import search", "quantnas", set()),
    ],
)
def test_every_form_of_import_is_seen(line, package, found):
    assert siblings(imports(ast.parse(line).body[0], package)) == found
