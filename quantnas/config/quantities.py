"""How people write quantities: 2.0G BitOps, w2a4 bits."""

import re

from quantnas.errors import UsageError

UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def number(text: str, name: str) -> float:
    """2.0G -> 2e9. Raises UsageError, with the option's or setting's name, for what is no number
    of that form."""
    found = re.fullmatch(r"(\d+\.?\d*(?:e\+?\d+)?|\.\d+)([kmgt]?)", text.strip(), re.IGNORECASE)
    value = float(found[1]) * UNITS[found[2].upper()] if found else 0.0
    if not 0 < value < float("inf"):
        raise UsageError(
            f"{name} cannot be '{text}'.",
            "Write a number above 0, with K, M, G or T behind it if you like: 2.0G, 500M, 2e9.",
        )
    return value


def widths(text: str, name: str) -> dict[str, int]:
    """2 or w2a4 -> settings. Raises UsageError for what is no number of that form."""
    found = re.fullmatch(r"(\d)|w(\d)a(\d)", text.strip(), re.IGNORECASE)
    if not found:
        raise UsageError(
            f"{name} cannot be '{text}'.", "Write 2, 3, 4 or 8, or both as in w2a4 (2, 3, 4, 8)."
        )
    return {"bits": int(found[1] or found[2]), "act_bits": int(found[3] or 8)}
