"""Checks the judgement of installed packages, with made-up metadata and versions."""

import importlib
import importlib.metadata
import platform
import sys
import tomllib
from pathlib import Path

import pytest

import quantnas
from quantnas.diagnostics import packages
from quantnas.diagnostics.findings import Check, fatal, summary
from quantnas.diagnostics.packages import Package

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
REQUIRES = (
    "torch>=2.6",
    'tomli>=1; python_version < "3"',
    'cuttlefish<0.14,>=0.13; extra == "fish"',
    'old>=1; python_version < "3" and extra == "fish"',
    'squid>=2; extra == "fish"',
    'pytest>=8; extra == "dev"',
)
HERE = {"torch": "2.13.0+cpu", "cuttlefish": "0.13.4", "squid": "2.0"}


def of(**changes: str | None) -> dict[str, Check]:
    """Topic -> check, when `changes` replace some of the installed versions `HERE`."""
    there = HERE | changes
    checks = [*packages.judged(packages.packages(REQUIRES, ["fish", "dev"], there.get))]
    for check in checks:
        assert check.finding.endswith(".") and (check.verdict == "ok" or check.remedy)
    return {check.topic: check for check in checks}


def test_all_there():
    found = of()
    assert [*found] == ["versions"] and found["versions"].verdict == "ok"
    told = f"quantnas {quantnas.__version__}, Python {platform.python_version()}, "
    assert found["versions"].finding == f"{told}torch 2.13.0+cpu, cuttlefish 0.13.4, squid 2.0."


def test_a_package_that_is_missing_is_the_end_of_everything():
    found = of(torch=None)
    assert (found["torch"].verdict, found["torch"].fatal) == ("problem", True)
    assert found["torch"].remedy == "Install it with: pip install 'torch>=2.6'"
    assert "torch" not in found["versions"].finding


def test_a_version_outside_the_declared_ones_is_a_problem():
    check = of(torch="2.5.1")["torch"]
    assert (check.verdict, check.fatal) == ("problem", False)
    assert check.finding == "torch 2.5.1 is installed, but quantnas needs >=2.6."
    check = of(cuttlefish="0.14.0")["cuttlefish"]
    assert (check.verdict, check.fatal) == ("problem", False)
    assert check.finding == "cuttlefish 0.14.0 is installed, but quantnas needs <0.14,>=0.13."
    assert check.remedy == "Install it with: pip install 'quantnas[fish]'"


@pytest.mark.parametrize("version", ["2.7.0a0+git1234", "2.14.0.dev20260101"])
def test_builds_of_ones_own_will_do(version):
    assert "torch" not in of(torch=version)


def test_a_missing_extra_is_a_note_with_the_command():
    check = of(squid=None)["squid"]
    assert (check.verdict, check.fatal) == ("note", False)
    assert check.finding == "squid is not installed; the extra fish needs it."
    assert check.remedy == "Install it with: pip install 'quantnas[fish]'"


def test_what_a_missing_extra_is_for():
    line = 'ai-edge-litert>=2; extra == "litert"'
    *_, check = packages.judged(packages.packages([line], ["litert"], lambda name: None))
    assert check.finding == "ai-edge-litert is not installed; `export --format tflite` needs it."
    assert {*packages.PURPOSES} == {*PROJECT["optional-dependencies"]} - {"dev", "docs"}


def test_a_package_under_another_name_counts(monkeypatch):
    def version(name: str) -> str:
        if name != "onnxruntime-gpu":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.25.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(
        importlib.metadata, "packages_distributions", lambda: {"onnxruntime": ["onnxruntime-gpu"]}
    )
    assert packages.installed("onnxruntime") == "1.25.0"
    assert packages.installed("onnx") is None


def test_what_is_declared_is_read_from_what_is_installed(monkeypatch):
    """The package onnxruntime stands in for quantnas, which the tests need not install."""
    monkeypatch.setattr(packages, "NAME", "onnxruntime")
    found, checks = packages.examine()
    assert "numpy" in {package.name for package in found if package.extra is None}
    assert all(package.version == packages.installed(package.name) for package in found)
    assert packages.NOT_INSTALLED not in checks


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
    (check,) = packages.broken([*rows, Package("numpy", "", "2", True)])
    assert check.topic == "onnx" and check.fatal and check.finding.endswith(words)
    assert check.remedy == "Try: pip install --force-reinstall 'onnx>=1.20'"


def test_nothing_else_is_looked_at_when_something_is_broken(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    _, checks = packages.examine()
    assert fatal(checks) and checks[-1] == packages.REST


def test_a_checkout_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(packages, "NAME", "no-such-package")
    found, checks = packages.examine()
    assert not fatal(checks) and checks[0] == packages.NOT_INSTALLED
    assert [package.name for package in found] == [*packages.LOADED]
    monkeypatch.setattr(packages, "installed", lambda name: None)
    _, checks = packages.examine()
    assert fatal(checks) and checks[-1] == packages.REST


def test_the_summary_counts():
    ok, note, bad = (Check("x", v, "x.", "y.") for v in ("ok", "note", "problem"))
    assert summary([]) == summary([ok]) == "all is well"
    assert summary([ok, note]) == "1 note"
    assert summary([bad, ok, note, bad, note]) == "2 problems, 2 notes"
    dead = Check("x", "problem", "x.", "y.", fatal=True)
    assert summary([dead, note]) == "1 problem, 1 note; `quantnas run` cannot work here"
