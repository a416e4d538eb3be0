"""Genotype: what was chosen, slot by slot. Pure data, JSON in and out; no torch."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from quantnas.errors import UsageError

from . import files, schema
from .search_space import Precision, Slot


@dataclass(frozen=True)
class Choice:
    """One operation, and the bits of its weights and input activations."""

    op: str
    weights: int
    activations: int

    @property
    def precision(self) -> Precision:
        return Precision(self.weights, self.activations)


@dataclass(frozen=True)
class Genotype:
    """The decided form of a search space."""

    space: str
    choices: dict[str, Choice]
    """Slot name -> choice, for every slot, those with nothing to choose included."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def searched_precision(genotype: Genotype) -> dict[str, Precision]:
    """Slot name -> the bits that the search decided."""
    return {name: c.precision for name, c in genotype.choices.items()}


def uniform_precision(
    slots: Sequence[Slot], weights: int, activations: int = 8, ends: int = 8
) -> dict[str, Precision]:
    """Slot name -> the same bits for all but those that `kept_precision` keeps."""
    inner, kept = Precision(weights, activations), kept_precision(slots, ends)
    return {slot.name: kept.get(slot.name, inner) for slot in slots}


def kept_precision(slots: Sequence[Slot], ends: int = 8) -> dict[str, Precision]:
    """Slot name -> its bits, of those that few bits would ruin: first, last and all of attention.

    ends: bits of the first and the last one.
    """
    kept = {slot.name: Precision(8, 8) for slot in slots if slot.gate}
    return kept | {slot.name: Precision(ends, ends) for slot in (slots[0], slots[-1])}


def from_json(text: str, source: str) -> Genotype:
    """What `Genotype.to_json` wrote; `source` names it in the UsageError."""
    return schema.parse(Genotype, json.loads(text), source)


def load(path: str | Path) -> Genotype:
    """The genotype in a JSON file. Raises DataError (file) or UsageError (contents)."""
    return schema.parse(Genotype, files.read_json(path), str(path))


def check(genotype: Genotype, slots: Iterable[Slot], space: str) -> None:
    """Raise UsageError, naming the first difference, unless the genotype fits the slots."""
    remedy = f"Use the space it was searched in ('{genotype.space}'), or search again."
    wanted = {slot.name: slot for slot in slots}
    for name in [*wanted, *genotype.choices]:
        if name not in genotype.choices or name not in wanted:
            where = "the genotype" if name in genotype.choices else "the space"
            raise UsageError(
                f"The genotype does not fit the space '{space}': only {where} has '{name}'.", remedy
            )
        choice, slot = genotype.choices[name], wanted[name]
        if choice.op not in slot.ops or choice.precision not in slot.widths:
            allowed = ", ".join(f"w{w.weights}a{w.activations}" for w in slot.widths)
            raise UsageError(
                f"The genotype does not fit the space '{space}': '{name}' is {choice.op} with "
                f"w{choice.weights}a{choice.activations}, allowed are {', '.join(slot.ops)} with "
                f"{allowed}.",
                remedy,
            )


def choice_of(slot: Slot, op: int, width: int) -> Choice:
    """The choice with these positions in the slot's lists."""
    bits = slot.widths[width]
    return Choice(slot.ops[op], bits.weights, bits.activations)
