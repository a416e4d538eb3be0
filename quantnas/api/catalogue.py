"""What comes with the package: search spaces and models."""

import itertools
import re
from typing import Any

from quantnas.config import search_space
from quantnas.runs import bundled_models
from quantnas.runs.bundled_models import Card

__all__ = ["Card", "bundled_cards", "card", "search_spaces"]


def bundled_cards() -> dict[str, Card]:
    """Name -> card of every bundled model."""
    return {name: bundled_models.read(name) for name in bundled_models.bundled()}


def card(name: str) -> Card:
    """The card of a bundled model. Raises UsageError when there is no such model."""
    return bundled_models.read(name)


def search_spaces() -> dict[str, dict[str, Any]]:
    """Name -> size, cost and purpose of every built-in search space, by name.

    `architectures` is 1 for a fixed network; `bitops` are those of the smallest and the largest
    architecture.
    """
    return {name: _facts(name) for name in sorted(search_space.builtin())}


def _facts(name: str) -> dict[str, Any]:
    from quantnas.architectures import cost, registry  # the cards need neither, and no torch

    space = search_space.load(name)
    extent = cost.extent(registry.slots(space), space.scale)
    ends = {end: extent[end].bitops["LR 32x32"] for end in ("smallest", "largest")}
    return {
        "scale": space.scale,
        "channels": space.channels,
        "cells": space.cells,
        "searched_edges": extent["searched_edges"],
        "architectures": extent["architectures"],
        "parameters": {end: extent[end].parameters for end in ends},
        "bitops": {"LR 32x32": ends},
        "about": _purpose(search_space.builtin()[name].read_text(encoding="utf-8")),
    }


def _purpose(text: str) -> str:
    """The comment at the top of a YAML file, up to its first full stop or colon."""
    comment = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    words = " ".join(line.lstrip("# ").rstrip() for line in comment)
    return re.split(r"[.:](?:\s|$)", words, maxsplit=1)[0]
