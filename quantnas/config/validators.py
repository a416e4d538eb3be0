"""Checks of the values of settings: numbers, sizes, and batches that several processes share."""

import math
from typing import Any


def require(config: Any, least: float, *names: str) -> None:
    """Raise ValueError unless the fields `names` of `config` are finite and at least `least`."""
    for name in names:
        value = getattr(config, name)
        if not (value >= least and math.isfinite(value)):
            raise ValueError(f"`{name}` is {value}, it must be a number of at least {least:g}")


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
