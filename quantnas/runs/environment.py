"""Versions, machine and command that a run folder keeps in env.json."""

import importlib.metadata
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantnas.training import processes


def environment(command: Sequence[str] | None = None) -> dict[str, Any]:
    """Versions, machine and command line, that of this process where none is given.

    A process that was not started by `quantnas` is recorded as `python PROGRAM ARGUMENTS`.
    """
    packages = ("quantnas", "torch", "numpy", "onnx", "onnxruntime")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "versions": versions,
        "platform": platform.platform(),
        "cpu_count": processes.cores(),
        "command": list(command or _command()),
    }


def _command() -> list[str]:
    """The command line of quantnas, or of the program that uses it, by which this process began."""
    program = Path(sys.argv[0])
    ours = program.stem == "quantnas" or program.parent.name == "cli"
    return ["quantnas", *sys.argv[1:]] if ours else ["python", *sys.argv]
