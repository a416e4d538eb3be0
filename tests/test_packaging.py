"""pyproject.toml lists packages, data and versions by hand (folders are mapped); keep it honest."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import quantnas

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
FOLDERS = {name: ROOT / folder for name, folder in SETUPTOOLS["package-dir"].items()}
REQUIREMENTS = [
    Requirement(line)
    for group in (
        PYPROJECT["project"]["dependencies"],
        *PYPROJECT["project"]["optional-dependencies"].values(),
    )
    for line in group
]


def pins() -> dict[str, str]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (s.split("==") for s in lines)}


def shipped(package: str) -> set[Path]:
    patterns = SETUPTOOLS["package-data"].get(package, [])
    return {path for pattern in patterns for path in FOLDERS[package].glob(pattern)}


def test_every_package_folder_is_declared():
    found = {
        ".".join([name, *init.parent.relative_to(folder).parts])
        for name, folder in FOLDERS.items()
        for init in folder.rglob("__init__.py")
    }
    assert found == set(SETUPTOOLS["packages"])


def test_the_version_can_be_read_without_running_the_package():
    assert SETUPTOOLS["dynamic"]["version"] == {"attr": "quantnas.__version__"}
    tree = ast.parse((ROOT / "quantnas" / "__init__.py").read_text(encoding="utf-8"))
    assigned = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert assigned == [quantnas.__version__]
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", quantnas.__version__)


@pytest.mark.parametrize("package", sorted(FOLDERS))
def test_every_data_file_is_shipped(package):
    files = {path for path in FOLDERS[package].rglob("*") if path.is_file()}
    data = {path for path in files if path.suffix != ".py" and path.parent.name != "__pycache__"}
    assert data == shipped(package)


def test_the_photographs_are_shipped_with_their_licences():
    photographs = ROOT / "quantnas" / "assets" / "photographs"
    assert len({path for path in shipped("quantnas") if path.suffix == ".png"}) == 16
    assert photographs / "LICENSES.md" in shipped("quantnas")
    assert all((ROOT / name).is_file() for name in PYPROJECT["project"]["license-files"])


def test_there_are_search_spaces_to_ship():
    assert shipped("quantnas.search_spaces")


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda r: r.name)
def test_every_dependency_is_pinned_within_its_bounds(requirement):
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_pins_carry_no_build_suffix():
    assert not {name for name, version in pins().items() if "+" in version}
