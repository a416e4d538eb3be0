"""The versions, machine and command line that a run folder records in env.json."""

import importlib.metadata
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantnas.training import processes


def environment(command: Sequence[str] | None = None) -> dict[str, Any]:
    """Versions, machine and command line; without `command`, the command line of this process.

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
    """The command line that started this process: quantnas itself, or a program that uses it."""
    program = Path(sys.argv[0])
    is_quantnas = program.stem == "quantnas" or program.parent.name == "cli"
    return ["quantnas", *sys.argv[1:]] if is_quantnas else ["python", *sys.argv]
