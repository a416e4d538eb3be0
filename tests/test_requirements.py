"""Checks what is said of installed packages, with metadata and versions that are made up."""

import importlib
import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest

import quantnas
from quantnas import requirements
from quantnas.checks import Check, fatal, summary
from quantnas.requirements import Declared, Package

PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
TOLD = Declared(
    quantnas.__version__,
    ">=3.11",
    (
        "torch>=2.6",
        'tomli>=1; python_version < "3"',
        'cuttlefish<0.14,>=0.13; extra == "fish"',
        'old>=1; python_version < "3" and extra == "fish"',
        'squid>=2; extra == "fish"',
        'pytest>=8; extra == "dev"',
    ),
    ("fish", "dev"),
)
HERE = {"torch": "2.13.0+cpu", "cuttlefish": "0.13.4", "squid": "2.0"}


def of(**changes: str | None) -> dict[str, Check]:
    """Topic -> what is said when these versions are there, not those of `HERE`."""
    there = HERE | changes
    checks = requirements.judged(TOLD, requirements.packages(TOLD, there.get))
    for check in checks:
        assert check.finding.endswith(".") and (check.verdict == "ok" or check.remedy)
    return {check.topic: check for check in checks}


def test_all_there():
    found = of()
    assert [*found] == ["quantnas", "Python", "packages", "extra fish"]
    assert {check.verdict for check in found.values()} == {"ok"}
    assert found["packages"].finding == "torch 2.13.0+cpu."
    assert found["extra fish"].finding == "cuttlefish 0.13.4, squid 2.0."


def test_a_package_that_is_missing_is_the_end_of_everything():
    check = of(torch=None)["torch"]
    assert (check.verdict, check.fatal) == ("problem", True)
    assert check.remedy == "Install it with: pip install 'torch>=2.6'"


def test_a_version_outside_the_declared_ones_is_a_problem():
    check = of(torch="2.5.1")["torch"]
    assert (check.verdict, check.fatal) == ("problem", False)
    assert check.finding == "torch 2.5.1 is installed, but quantnas needs >=2.6."
    check = of(cuttlefish="0.14.0")["extra fish"]
    assert (check.verdict, check.fatal) == ("problem", False)
    assert "cuttlefish 0.14.0 is installed, but <0.14,>=0.13 needed" in check.finding
    assert check.remedy == "Install it with: pip install 'quantnas[fish]'"


@pytest.mark.parametrize("version", ["2.7.0a0+git1234", "2.14.0.dev20260101", "mine"])
def test_builds_of_ones_own_will_do(version):
    assert of(torch=version)["packages"].verdict == "ok"


def test_a_missing_extra_is_a_note_with_the_command():
    check = of(squid=None, cuttlefish=None)["extra fish"]
    assert (check.verdict, check.fatal) == ("note", False)
    assert check.finding == "cuttlefish, squid are not installed."
    assert check.remedy == "Install it with: pip install 'quantnas[fish]'"


def test_what_a_missing_extra_is_for():
    told = Declared("1", "", ('ai-edge-litert>=2; extra == "litert"',), ("litert",))
    *_, check = requirements.judged(told, requirements.packages(told, lambda name: None))
    assert "is not installed, which `export --format tflite` needs" in check.finding
    assert requirements.PURPOSES.keys() <= PROJECT["optional-dependencies"].keys()


def test_python_and_quantnas_themselves():
    assert requirements.python(">=3.11", "3.12.1").verdict == "ok"
    assert requirements.python(">=3.11", "3.10.9").verdict == "problem"
    first, second = requirements.judged(None, [])
    assert first.verdict == "note" and "not installed" in first.finding and second.verdict == "ok"
    first, *_ = requirements.judged(Declared("9.9.9", "", (), ()), [])
    assert first.verdict == "note" and "9.9.9 is installed" in first.finding


def test_a_package_under_another_name_counts(monkeypatch):
    def version(name: str) -> str:
        if name != "onnxruntime-gpu":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.25.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(
        importlib.metadata, "packages_distributions", lambda: {"onnxruntime": ["onnxruntime-gpu"]}
    )
    assert requirements.installed("onnxruntime") == "1.25.0"
    assert requirements.installed("onnx") is None


def test_what_is_declared_is_read_from_what_is_installed():
    assert requirements.declared("no-such-package") is None
    found = requirements.declared("onnxruntime")
    assert found is not None and found.version == importlib.metadata.version("onnxruntime")
    mine = requirements.declared()
    if mine is None:
        pytest.skip("quantnas is not installed")
    packages = requirements.packages(mine)
    assert {p.extra for p in packages} - {None} == {*mine.extras} - {"dev"}
    assert {p.name for p in packages} >= {"torch", "onnxruntime", "lightning-fabric"}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("libgomp.so.1: cannot open\n"), "imported: OSError: libgomp.so.1: cannot open."),
        (ImportError(), "imported: ImportError."),
    ],
)
def test_a_package_that_is_there_and_broken(monkeypatch, error, words):
    def refuse(name: str) -> None:
        if name == "onnx":
            raise error

    monkeypatch.setattr(importlib, "import_module", refuse)
    rows = [Package("onnx", ">=1.20", "1.23.2", True), Package("torch", "", None, False)]
    (check,) = requirements.broken([*rows, Package("numpy", "", "2", True)])
    assert check.topic == "onnx" and check.fatal and check.finding.endswith(words)
    assert check.remedy == "Try: pip install --force-reinstall 'onnx>=1.20'"


def test_nothing_else_is_looked_at_when_something_is_broken(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    _, checks = requirements.examine()
    assert fatal(checks) and checks[-1] == requirements.REST
    monkeypatch.setattr(requirements, "declared", lambda: None)
    _, checks = requirements.examine()
    assert fatal(checks) and "is not installed, so" in checks[0].finding
    monkeypatch.setitem(sys.modules, "packaging", None)
    _, (check,) = requirements.examine()
    assert check.fatal and "packaging" in check.finding


def test_the_summary_counts():
    ok, note, bad = (Check("x", v, "x.", "y.") for v in ("ok", "note", "problem"))
    assert summary([]) == summary([ok]) == "all is well"
    assert summary([ok, note]) == "1 note"
    assert summary([bad, ok, note, bad, note]) == "2 problems, 2 notes"
    dead = Check("x", "problem", "x.", "y.", fatal=True)
    assert summary([dead, note]) == "1 problem, 1 note; `quantnas run` cannot work here"
