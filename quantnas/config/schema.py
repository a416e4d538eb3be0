"""Strict conversion of dictionaries and YAML files to frozen dataclasses; errors name the key.

The dataclasses need no library; pydantic checks them here and is imported only for that.
"""

import dataclasses
import difflib
import re
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml

from quantnas.errors import DataError, UsageError

T = TypeVar("T")
UNKNOWN = "unexpected_keyword_argument"


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises DataError (missing or unreadable file) or UsageError (not YAML, not a mapping).
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {path}: {error}.", "Check the path.") from error
    except yaml.YAMLError as error:
        raise UsageError(
            f"{path} is not valid YAML: {' '.join(str(error).split())}.", "Mend that line."
        ) from error
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no mapping of keys to values.", "Write `key: value` lines.")
    return data


def parse(cls: type[T], data: dict[str, Any], source: str) -> T:
    """Convert the mapping `data` to the dataclass `cls`, nested dataclasses included.

    Raises UsageError for an unknown key (naming the allowed ones), a missing key or a bad value;
    `source` names the origin of the data in the message.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

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
    if problem["type"] == "value_error":  # raised by a dataclass in __post_init__
        place = f"'{path}': " if path else ""
        cause, *must = re.split(r"[,;] (?=it must|one is)", reason.rstrip("."), maxsplit=1)
        remedy = must[0] if must else "change that"
        return UsageError(f"{source}: {place}{cause}.", f"{remedy[0].upper()}{remedy[1:]}.")
    return UsageError(
        f"{source}: '{path}' cannot be {problem['input']!r}.", f"{reason.rstrip('.')}."
    )


def _nested(cls: Any, parents: list[str]) -> Any:
    """The dataclass that the keys `parents` lead to, starting from `cls`."""
    for name in parents:
        if not dataclasses.is_dataclass(cls):  # dict[str, Edge]: any key is allowed
            cls = get_args(cls)[1]
            continue
        cls = {field.name: field.type for field in dataclasses.fields(cls)}[name]
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
    try:
        data[key] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"'{value}' is not valid YAML.", "Mend or quote it.") from error
