"""Files that are written where a caller says: refused before the work begins, and written whole."""

import shutil
import tempfile
from pathlib import Path

from .config import ExportConfig
from .errors import DataError, UsageError


def require_writable(file: Path) -> None:
    """Raise DataError when a file of that name cannot be written."""
    folder = file.parent
    if file.is_dir():
        raise DataError(f"{file} is a folder.", "Give the name of a file to -o.")
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.", "Make it first, or choose another -o.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"Nothing can be written into {folder}: {error.strerror}.", "Choose another -o."
        ) from error


def copy(source: Path, target: Path) -> None:
    """Copy a file whole or not at all."""
    part = target.with_name(f"{target.name}.part")
    shutil.copyfile(source, part)
    part.replace(target)


def form(format: str | None, file: Path | None) -> str | None:
    """The `export.format` of a file to be exported; its name says it, too.

    Raises UsageError where both say different things.
    """
    if file is None or (file.suffix == ".tflite") == (format == "tflite"):
        return format
    if file.suffix == ".tflite" and format is None:
        return "tflite"
    raise UsageError(
        f"-o is {file}, but the format is {format or ExportConfig.format}.",
        "Give -o a name that ends in .tflite for --format tflite, in .onnx for all others.",
    )
