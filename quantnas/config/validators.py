"""Checks of the values of settings: numbers, sizes, and batches that several processes share."""

import math
import os
from typing import Any

from .files import LONGEST

MOST = 1e18
"""Number from which on a setting is refused."""
LONGEST_PATH = 4095
"""Most characters of a path."""


def require(config: Any, least: float, *names: str) -> None:
    """Raise ValueError unless the fields `names` of `config` are at least `least`.

    Numbers from `MOST` on, NaN and infinity are refused, too.
    """
    for name in names:
        value = getattr(config, name)
        if not value >= least or not math.isfinite(value):
            raise ValueError(f"`{name}` is {value}, it must be a number of at least {least:g}")
        if value >= MOST:
            raise ValueError(f"`{name}` is {value:g}, it must be a number below {MOST:g}")


def require_paths(config: Any, *names: str) -> None:
    """Raise ValueError for fields, each a path, several or none, that no file can have as path."""
    for name in names:
        value = getattr(config, name)
        for path in (value,) if isinstance(value, str) else value or ():
            try:
                parts = os.fsencode(path).split(b"/")
            except UnicodeEncodeError as error:
                raise ValueError(f"`{name}` is no path of a file; it must be UTF-8") from error
            if "\0" in path or max(map(len, parts)) > LONGEST or len(path) > LONGEST_PATH:
                raise ValueError(f"`{name}` is no path of a file; it must be shorter")


def require_shares(config: Any) -> None:
    """Raise ValueError unless the batch of `config` divides evenly among its processes."""
    require(config, 1, "processes")
    if config.batch % config.processes:
        raise ValueError(
            f"`batch` is {config.batch}, no multiple of {config.processes} `processes`"
        )


def resolution(at: str, name: str = "at") -> tuple[int, int]:
    """Parse a size in pixels: 32x48 -> (height, width).

    Raises ValueError, with the name of the setting, for any other text.
    """
    height, cross, width = at.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) * int(width)):
        raise ValueError(f"`{name}` is height x width; it must be written as 32x32")
    return int(height), int(width)
