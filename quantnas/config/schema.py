"""Strict conversion of dictionaries and YAML files to frozen dataclasses; errors name the key.

The dataclasses need no library; pydantic checks them here and is imported only for that.
"""

import dataclasses
import difflib
import re
import reprlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml

from quantnas.errors import DataError, UsageError

from .files import readable

T = TypeVar("T")
UNKNOWN = "unexpected_keyword_argument"
MOST = 1_000_000
"""Number of keys and values that a YAML text may hold."""
PLAIN = (str, int, float, type(None))
"""Types of the keys and of the single values of a YAML text, as JSON has them."""
_SHORT = reprlib.Repr()  # of a value in a message, whatever a file makes it
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 200, 200


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises DataError (missing or unreadable file) or UsageError (not YAML, not a mapping).
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {path}: {error}.", "Check the path.") from error
    data = parse_yaml(text, str(path), "Mend that line.")
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no mapping of keys to values.", "Write `key: value` lines.")
    return data


def parse_yaml(text: str, source: str, remedy: str) -> Any:
    """Parse YAML that holds plain data. Raises UsageError, which names `source`, for other text."""
    try:
        data = yaml.safe_load(text)
    except RecursionError as error:
        raise UsageError(f"{source} is nested too deeply.", "Write fewer brackets.") from error
    except Exception as error:  # beside its own errors yaml raises those of int, date and others
        reason = " ".join(str(error).split()).rstrip(".")[:300]
        raise UsageError(f"{source} is not valid YAML: {reason}.", remedy) from error
    _require_plain(data, source)
    return data


def _require_plain(data: Any, source: str) -> None:
    """Raise UsageError for data that JSON cannot hold, such as dates, or that are endless.

    Data are endless that contain themselves or, by references, very many values.
    """
    left, count = [data], 0
    while left:
        value, count = left.pop(), count + 1
        if count > MOST:
            raise UsageError(
                f"{source} contains itself, or more than {MOST} values.",
                "Write it without references (`&` and `*`).",
            )
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value
        elif not isinstance(value, PLAIN):
            kind = type(value).__name__
            raise UsageError(
                f"{source} holds {_SHORT.repr(value)}, a value of the kind '{kind}'.",
                "Put text into quotation marks.",
            )


def check(kind: Any, data: Any, source: str, partial: bool = False) -> None:
    """Raise DataError unless data of a file has the keys and types of the TypedDict `kind`.

    Further keys are allowed. partial: keys at the top may be missing. `source` names the file.
    """
    from pydantic import ValidationError

    try:
        _adapter(kind).validate_python(data, strict=True)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            place = ".".join(map(str, problem["loc"]))
            missing = problem["type"] == "missing"
            if missing and partial and len(problem["loc"]) == 1:
                continue
            what = f"'{place}' is missing" if missing else f"'{place}': {problem['msg']}"
            raise DataError(
                f"{source} is damaged, or of another version: {what}.",
                "Take the file from a copy, or do the step that wrote it again in a new run.",
            ) from error


@lru_cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def parse(cls: type[T], data: dict[str, Any], source: str) -> T:
    """Convert the mapping `data` to the dataclass `cls`, nested dataclasses included.

    Raises UsageError for an unknown key (naming the allowed ones), a missing key or a bad value;
    `source` names the origin of the data in the message.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    if not isinstance(data, dict):  # of a file; pydantic would take an instance as well
        raise UsageError(f"{source} holds no mapping of keys to values.", "Check the file.")

    def forbid(kind: Any) -> None:
        for inner in get_args(kind):  # dict[str, Edge]
            forbid(inner)
        if dataclasses.is_dataclass(kind):
            kind.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[union-attr]
            for field in dataclasses.fields(kind):
                forbid(field.type)

    forbid(cls)
    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError as error:
        problems = sorted(error.errors(), key=lambda p: p["type"] != UNKNOWN)  # unknown keys first
        raise _explained(cls, problems[0], source) from error
    except UnicodeEncodeError as error:  # instead of a reason in which text is not UTF-8
        raise _refused(readable(error.object), source) from error


def _explained(cls: type, problem: Any, source: str) -> UsageError:
    """The UsageError for the first problem that pydantic reports."""
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == UNKNOWN:
        *parents, key = problem["loc"]
        names = [field.name for field in dataclasses.fields(_nested(cls, parents))]
        near = difflib.get_close_matches(str(key), names, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        return UsageError(
            f"{source}: unknown key '{path}'.", f"{hint}Allowed here: {', '.join(names)}."
        )
    if problem["type"] in ("missing", "missing_argument"):
        return UsageError(f"{source}: the key '{path}' is missing.", "Add it.")
    reason = problem["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
    if problem["type"] == "value_error":
        return _refused(reason, f"{source}: '{path}'" if path else source)
    return UsageError(
        f"{source}: '{path}' cannot be {_SHORT.repr(problem['input'])}.", f"{reason.rstrip('.')}."
    )


def _refused(reason: str, place: str) -> UsageError:
    """The UsageError for the reason that a dataclass gave in `__post_init__`."""
    cause, *must = re.split(r"[,;] (?=it must|one is)", reason.rstrip("."), maxsplit=1)
    remedy = must[0] if must else "change that"
    return UsageError(f"{place}: {cause}.", f"{remedy[0].upper()}{remedy[1:]}.")


def _nested(cls: Any, parents: Sequence[str | int]) -> Any:
    """The type that the keys and positions `parents` lead to, starting from `cls`."""
    for name in parents:
        if dataclasses.is_dataclass(cls):
            cls = {field.name: field.type for field in dataclasses.fields(cls)}[str(name)]
        else:  # tuple[Measured, ...] or dict[str, Edge]: any position or key is allowed
            cls = get_args(cls)[0 if isinstance(name, int) else 1]
    return cls


def assign(data: dict[str, Any], setting: str) -> None:
    """Put the setting `section.key=value`, its value in YAML, into the nested mapping `data`.

    The mapping is changed in place. Raises UsageError when the setting has another form.
    """
    path, equals, value = setting.partition("=")
    if not equals or not path:
        raise UsageError(f"'{setting}' is not a setting.", "Write it as section.key=value.")
    *sections, key = path.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise UsageError(
                f"'{path}' names a key inside a plain value.", "Check the names of its sections."
            )
    data[key] = parse_yaml(value, f"'{value}'", "Mend or quote it.")
