"""Atomic file writes, and JSON: an interrupted write leaves the previous file as it was."""

import dataclasses
import hashlib
import json
import math
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantnas.errors import DataError, missing


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a new hidden file that replaces `path` when the `with` block ends.

    When the block raises, the new file is removed and `path` stays as it was. Several processes
    may replace the same file at the same time. Raises OSError when `path` cannot be replaced.
    """
    part = path.with_name(f".{secrets.token_hex(6)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file whole or not at all. Raises OSError."""
    with replacing(path) as part:
        part.write_bytes(content)


def copy(source: Path, target: Path) -> None:
    """Copy the content of a file whole or not at all. Raises OSError."""
    with replacing(target) as part:
        shutil.copyfile(source, part)


def require_writable(file: Path) -> None:
    """Raise DataError when the path `file` cannot be written; nothing is left there."""
    folder = file.parent
    if file.is_dir():
        raise DataError(f"{file} is a folder.", "Give the name of a file.")
    if not folder.exists():
        raise missing(folder, "folder")
    if not folder.is_dir():
        raise DataError(f"{folder} is a file, not a folder.", "Choose another folder.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"Nothing can be written into {folder}: {error.strerror}.", "Choose another folder."
        ) from error


def sha256(path: Path) -> str:
    """SHA-256 hash of a file's bytes, in hexadecimal. Raises OSError."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds an object. Raises DataError when it cannot be read as one."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read {path}: {error}.", "Check the path and the file.") from error
    if not isinstance(data, dict):
        raise DataError(f"{path} holds no JSON object.", "Check that it is the right file.")
    return data


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all. Raises OSError."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def to_json(data: Any) -> str:
    """Convert data, dataclasses included, to indented JSON text; see `plain`."""
    return json.dumps(plain(data), indent=2) + "\n"


def plain(data: Any) -> Any:
    """Convert data to what JSON can hold: dataclasses to objects, NaN and infinity to null."""
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        data = dataclasses.asdict(data)
    if isinstance(data, dict):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
