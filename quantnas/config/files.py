"""Atomic file writes, names and paths that files state, and JSON.

An interrupted write leaves the previous file as it was. What a file states is not trusted: a name
stays in its folder (`inside`), and JSON is read by `parse_json` alone.
"""

import dataclasses
import hashlib
import json
import math
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from quantnas.errors import DataError, missing

LONGEST = 255
"""Most bytes of the name of a file or folder."""
LARGEST = 2**63
"""Absolute value from which on an integer in a JSON file is refused."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a new hidden file that replaces `path` when the `with` block ends.

    When the block raises, the new file is removed and `path` stays as it was. Several processes
    may replace the same file at the same time. What processes left that were killed while they did
    is removed. Raises OSError when `path` cannot be replaced.
    """
    begin = _begin_of_part(path)
    _remove_abandoned(path.parent, begin)
    part = path.with_name(f"{begin}{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _begin_of_part(path: Path) -> str:
    """The beginning of the hidden names under which this machine writes a file; it is short."""
    name = f"{path.name}\0{platform.node()}".encode("utf-8", "surrogateescape")
    return f".{hashlib.sha256(name).hexdigest()[:12]}-"


def _remove_abandoned(folder: Path, begin: str) -> None:
    """Remove the hidden files of a name whose processes have ended, as far as possible."""
    with suppress(OSError), os.scandir(folder) as entries:
        for name in [each.name for each in entries if each.name.startswith(begin)]:
            number = name.removeprefix(begin).partition("-")[0]
            if number.isdigit() and _has_ended(int(number)):
                (folder / name).unlink(missing_ok=True)


def _has_ended(process: int) -> bool:
    """Whether there is no process of that number here; False where the system cannot tell."""
    if os.name != "posix":  # elsewhere this signal would end the process
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


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


def is_writable(folder: Path) -> bool:
    """Whether a file can be made in a folder; nothing is left there."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def sha256(path: Path) -> str:
    """SHA-256 hash of a file's bytes, in hexadecimal. Raises OSError."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_plain_name(name: object) -> bool:
    """Whether a value can be the name of one file: UTF-8 text without separators, not too long."""
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & {"/", "\\", "\0"}:
        return False
    try:
        return len(name.encode()) <= LONGEST
    except UnicodeEncodeError:
        return False


def inside(folder: Path, name: object, source: Path, follow: bool = False) -> Path:
    """The path of the file `name` in `folder`, where the file `source` states the name.

    follow: whether a link may lead out of the folder, as for a network that git-annex or DVC keep
    elsewhere; never for what is written, or shown to others. Raises DataError for anything but a
    plain name, and for other links.
    """
    if is_plain_name(name):
        path = folder / str(name)
        try:
            if follow or path.resolve().is_relative_to(folder.resolve()):
                return path
        except (OSError, RuntimeError):  # links that lead in a circle
            pass
    raise DataError(
        f"{source} names {str(name)[:100]!r}, which does not lie in {folder}.",
        "Nothing outside of that folder is used; get the folder anew from where it was made.",
    )


def parse_json(text: str | bytes) -> Any:
    """Parse JSON. Raises ValueError for any other text.

    NaN, infinity, integers beyond 64 bits and deeply nested values are refused, too.
    """
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if abs(value) >= LARGEST:
        raise ValueError(f"{text[:20]}... has more than 64 bits")
    return value


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds an object. Raises DataError when it cannot be read as one."""
    data = read_json_value(path)
    if not isinstance(data, dict):
        raise DataError(f"{path} holds no JSON object.", "Check that it is the right file.")
    return data


def read_json_value(path: str | Path) -> Any:
    """Read a JSON file, whatever it holds. Raises DataError when it cannot be read."""
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read {path}: {error}.", "Check the path and the file.") from error


def readable(text: str) -> str:
    r"""The text as UTF-8 can hold it: bytes of a file name that are no UTF-8 become \udcff."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all, `readable`. Raises OSError."""
    with replacing(path) as part:
        part.write_text(readable(text), encoding="utf-8")


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
