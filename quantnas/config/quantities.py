"""Parsers for quantities as people write them: 2.0G BitOps, w2a4 bit widths."""

import re

from quantnas.errors import UsageError

UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
"""Suffix of a number -> its factor."""


def number(text: str, name: str) -> float:
    """Parse a number with a unit: 2.0G -> 2e9.

    Raises UsageError, with the name of the option or setting, for any other text.
    """
    match = re.fullmatch(r"(\d+\.?\d*(?:e\+?\d+)?|\.\d+)([kmgt]?)", text.strip(), re.IGNORECASE)
    value = float(match[1]) * UNITS[match[2].upper()] if match else 0.0
    if not 0 < value < float("inf"):
        raise UsageError(
            f"{name} cannot be '{text}'.",
            "Write a number above 0, with K, M, G or T behind it if you like: 2.0G, 500M, 2e9.",
        )
    return value


def bit_widths(text: str, name: str) -> dict[str, int]:
    """Parse bit widths, 2 or w2a4, into the settings `bits` and `act_bits`.

    Raises UsageError, with the name of the option or setting, for any other text.
    """
    match = re.fullmatch(r"(\d)|w(\d)a(\d)", text.strip(), re.IGNORECASE)
    if not match:
        raise UsageError(
            f"{name} cannot be '{text}'.", "Write 2, 3, 4 or 8, or both as in w2a4 (2, 3, 4, 8)."
        )
    return {"bits": int(match[1] or match[2]), "act_bits": int(match[3] or 8)}
