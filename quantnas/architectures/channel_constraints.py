"""Constraints of the published macro-architectures on the operations of their edges."""

import dataclasses

from quantnas.config.search_space import SearchSpace, Slot
from quantnas.errors import UsageError
from quantnas.nn import operations


def keep_joinable(space: SearchSpace, slot: Slot) -> Slot:
    """Return the slot without the operations that cannot join its input and output channels.

    `upsample` needs it: its 3*scale^2 outputs cannot be split into the groups of every operation
    at every scale. Raises UsageError when no operation is left.
    """
    joinable = tuple(op for op in slot.ops if _joins(op, slot))
    if not joinable:
        raise UsageError(
            f"Space '{space.name}': 'edges.{slot.kind}.ops' has no operation that turns "
            f"{slot.c_in} channels into the {slot.c_out} of scale {space.scale}.",
            "Add one without groups, such as conv3x3.",
        )
    return dataclasses.replace(slot, ops=joinable)


def _joins(op: str, slot: Slot) -> bool:
    try:
        operations.shapes(op, slot)
    except ValueError:
        return False
    return True


def refuse_identity(space: SearchSpace, *kinds: str) -> None:
    """Raise UsageError when an edge of these kinds, behind which is a batch norm, may be identity.

    A batch norm is folded into the convolution in front of it, which an identity does not have.
    """
    for kind in kinds:
        if "identity" in space.edges[kind].ops:
            raise UsageError(
                f"Space '{space.name}': 'edges.{kind}.ops' cannot have 'identity': a batch norm "
                "is folded into the convolutions of this edge.",
                "Leave the operation out.",
            )
