"""Genotype: the operation and the bit widths chosen for every slot of a search space."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from quantnas.errors import UsageError

from . import files, schema
from .search_space import Precision, Slot


@dataclass(frozen=True)
class Choice:
    """The operation chosen for one slot, with its bit widths."""

    op: str
    """Name of the operation."""
    weights: int
    """Bit width of the weights."""
    activations: int
    """Bit width of the input activations."""

    @property
    def precision(self) -> Precision:
        """Both bit widths of the choice."""
        return Precision(self.weights, self.activations)


@dataclass(frozen=True)
class Genotype:
    """One architecture of a search space: a choice for every slot."""

    space: str
    """Name of the search space."""
    choices: dict[str, Choice]
    """Slot name -> choice; slots that leave nothing to choose are included."""

    def to_json(self) -> str:
        """JSON text that `from_json` reads."""
        return json.dumps(asdict(self), indent=2)


def searched_precision(genotype: Genotype) -> dict[str, Precision]:
    """Slot name -> the bit widths that the search chose."""
    return {name: choice.precision for name, choice in genotype.choices.items()}


def uniform_precision(
    slots: Sequence[Slot], weights: int, activations: int = 8, ends: int = 8
) -> dict[str, Precision]:
    """Slot name -> bit widths, the same for all slots except those of `kept_precision`.

    weights, activations: bit widths of all other slots. ends: bit width of those of `end_names`.
    """
    inner, kept = Precision(weights, activations), kept_precision(slots, ends)
    return {slot.name: kept.get(slot.name, inner) for slot in slots}


def kept_precision(slots: Sequence[Slot], ends: int = 8) -> dict[str, Precision]:
    """Slot name -> bit widths of the slots that low bit widths would ruin.

    These are those of `end_names`, with `ends` bits, and all slots of an attention, with 8.
    """
    gates = _with_same_kernels(slots, {slot.name for slot in slots if slot.gate})
    kept = dict.fromkeys(gates, Precision(8, 8))
    return kept | dict.fromkeys(end_names(slots), Precision(ends, ends))


def end_names(slots: Sequence[Slot]) -> set[str]:
    """Names of the slots that read the image or make the pixels, and of those with their kernels.

    Where no slot is marked as such, these are the first and the last one.
    """
    marked = {slot.name for slot in slots if slot.end}
    return _with_same_kernels(slots, marked or {slots[0].name, slots[-1].name})


def _with_same_kernels(slots: Sequence[Slot], names: set[str]) -> set[str]:
    """The names, and those of all slots that share a kernel with one of them."""
    kernels = {slot.kernel or slot.name for slot in slots if slot.name in names}
    return {slot.name for slot in slots if (slot.kernel or slot.name) in kernels}


def from_json(text: str, source: str) -> Genotype:
    """Read the text that `Genotype.to_json` wrote.

    Raises UsageError, which names `source`, when the JSON is no genotype.
    """
    try:
        return schema.parse(Genotype, files.parse_json(text), source)
    except ValueError as error:
        raise UsageError(f"{source} holds no genotype: {error}.", "Check the file.") from error


def load(path: str | Path) -> Genotype:
    """Read a genotype from a JSON file. Raises DataError (file) or UsageError (contents)."""
    return schema.parse(Genotype, files.read_json(path), str(path))


def check(genotype: Genotype, slots: Iterable[Slot], space: str) -> None:
    """Raise UsageError, naming the first difference, unless the genotype fits the slots.

    space: name of the search space that the slots belong to, for the message.
    """
    remedy = f"Use the space it was searched in ('{genotype.space}'), or search again."
    slots_by_name = {slot.name: slot for slot in slots}
    for name in [*slots_by_name, *genotype.choices]:
        if name not in genotype.choices or name not in slots_by_name:
            owner = "the genotype" if name in genotype.choices else "the space"
            raise UsageError(
                f"The genotype does not fit the space '{space}': only {owner} has '{name}'.", remedy
            )
        choice, slot = genotype.choices[name], slots_by_name[name]
        if choice.op not in slot.ops or choice.precision not in slot.bit_widths:
            allowed = ", ".join(f"w{w.weights}a{w.activations}" for w in slot.bit_widths)
            raise UsageError(
                f"The genotype does not fit the space '{space}': '{name}' is {choice.op} with "
                f"w{choice.weights}a{choice.activations}, allowed are {', '.join(slot.ops)} with "
                f"{allowed}.",
                remedy,
            )


def choice_of(slot: Slot, op: int, width: int) -> Choice:
    """The choice at position `op` of the slot's operations and `width` of its bit widths."""
    bits = slot.bit_widths[width]
    return Choice(slot.ops[op], bits.weights, bits.activations)
