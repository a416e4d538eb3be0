"""The registry of macro-architectures (`SKELETONS`), and the checks that a space fits its own."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import nn

from quantnas.config import genotype
from quantnas.config.genotype import Genotype
from quantnas.config.search_space import FloatLayer, SearchSpace, Slot
from quantnas.errors import UsageError
from quantnas.nn import operations
from quantnas.nn.layer_factory import LayerFactory

from . import imported_onnx
from .basic import Basic, basic_slots
from .edsr import Edsr, edsr_slots
from .imdn import Imdn, imdn_slots
from .imported_onnx import ImportedNetwork, imported_slots
from .plain_stacks import STACKS, Plain
from .rfdn import Rfdn, rfdn_slots
from .rfdn_deploy import RfdnDeploy, rfdn_deploy_slots
from .rfdn_published import RfdnPublished, rfdn_published_slots

SKELETONS: dict[str, tuple[type[nn.Module], Callable[[SearchSpace], Iterable[Slot]]]] = {
    "basic": (Basic, basic_slots),
    "edsr": (Edsr, edsr_slots),
    "imdn": (Imdn, imdn_slots),
    "onnx": (ImportedNetwork, imported_slots),
    "rfdn": (Rfdn, rfdn_slots),
    "rfdn_deploy": (RfdnDeploy, rfdn_deploy_slots),
    "rfdn_published": (RfdnPublished, rfdn_published_slots),
    **{name: (Plain, slots) for name, slots in STACKS.items()},
}
"""Name of each skeleton -> (module class, function that makes its slots).

A class states the `kinds` of its searched edges, the `smallest` side of an image that it takes in
pixels, and the numbers of `colours` that it can read, unless that is always three.
"""


def slots(space: SearchSpace) -> tuple[Slot, ...]:
    """All slots of a search space; the first and the last are its first and last convolution.

    Raises UsageError, naming the place in the YAML file and what is allowed there, when the space
    names an unknown skeleton, other kinds of edges than the skeleton has, or an operation that is
    unknown or cannot join its channels.
    """
    if space.skeleton not in SKELETONS:
        raise UsageError(
            f"Space '{space.name}': 'skeleton' cannot be '{space.skeleton}'.",
            f"Use {', '.join(SKELETONS)}.",
        )
    kind, make_slots = SKELETONS[space.skeleton]
    if space.colours not in getattr(kind, "colours", (3,)):
        raise UsageError(
            f"Space '{space.name}': 'colours' cannot be {space.colours} with skeleton "
            f"'{space.skeleton}'.",
            "Leave it out.",
        )
    required = set(kind.kinds)  # type: ignore[attr-defined]
    if set(space.edges) != required:
        raise UsageError(
            f"Space '{space.name}': 'edges' has {', '.join(sorted(space.edges)) or 'nothing'}.",
            f"Skeleton '{space.skeleton}' wants exactly {', '.join(sorted(required))}"
            f"{_difference(required, set(space.edges))}.",
        )
    _require_known(space)
    result = tuple(make_slots(space))
    _require_fitting(space, result)
    return result


def _require_known(space: SearchSpace) -> None:
    for name, edge in space.edges.items():
        for i, op in enumerate(edge.ops):
            if op not in operations.OPS:
                raise UsageError(
                    f"Space '{space.name}': 'edges.{name}.ops.{i}' cannot be '{op}'.",
                    f"Use {', '.join(operations.OPS)}.",
                )


def _require_fitting(space: SearchSpace, slots: Sequence[Slot]) -> None:
    for slot in slots:
        for i, op in enumerate(slot.ops):
            try:
                operations.shapes(op, slot)
            except ValueError as error:
                raise UsageError(
                    f"Space '{space.name}': 'edges.{slot.kind}.ops.{i}' cannot be '{op}' on the "
                    f"edge {slot.name}: {error}.",
                    "Change `channels`, or leave the operation out.",
                ) from error


def _difference(required: set[str], stated: set[str]) -> str:
    missing, unknown = sorted(required - stated), sorted(stated - required)
    parts = [f"{', '.join(missing)} is missing"] if missing else []
    parts += [f"{', '.join(unknown)} is unknown"] if unknown else []
    return f": {'; '.join(parts)}"


def smallest(space: SearchSpace) -> int:
    """Least length of a low-resolution image's shorter side that the skeleton takes, pixels."""
    side: int = SKELETONS[space.skeleton][0].smallest  # type: ignore[attr-defined]
    return max(side, space.pixels.smallest)


def float_layers(space: SearchSpace) -> tuple[FloatLayer, ...]:
    """Layers that stay in float whatever the slots are; only imported networks have them."""
    return imported_onnx.float_layers(space) if space.source else ()


def build(space: SearchSpace, factory: LayerFactory) -> nn.Module:
    """Build the skeleton of a space with the layers that `factory` makes.

    Raises UsageError as `slots` does.
    """
    slots(space)
    return SKELETONS[space.skeleton][0](space, factory)


def known_genotype(space: SearchSpace, file: Path | None) -> Genotype | None:
    """The architecture that needs no search: that in `file`, or the only one of its space.

    None when a search must decide. Raises as `genotype.load` and `genotype.check`.
    """
    all_slots = slots(space)
    if file is not None:
        loaded = genotype.load(file)
        genotype.check(loaded, all_slots, space.name)
        return loaded
    if any(slot.options > 1 for slot in all_slots):
        return None
    return Genotype(space.name, {slot.name: genotype.choice_of(slot, 0, 0) for slot in all_slots})
