"""How the tensors of an imported network are carried between its convolutions, as a run's file."""

from dataclasses import dataclass, field
from pathlib import Path

from quantnas.config import schema
from quantnas.config.files import read_json, to_json, write_text

FILE = "carried.json"
"""The file in a run folder; runs of earlier versions carry everything in float and have none."""

TEACHER = "equalised"
"""Kind of the checkpoint of the float network whose channels were equalised for carried tensors."""


@dataclass(frozen=True)
class CarriedForm:
    """One way to carry the tensors, as it was measured before least squares and retraining."""

    milliseconds: float
    """Processor time of the file for one image of `Carry.size`, on one thread of ONNX Runtime."""
    loss: float
    """Loss of PSNR against the float network on validation patches, dB."""


@dataclass(frozen=True)
class Carry:
    """The tensors that lie on grids of 8 bits, and why it is these."""

    tensors: tuple[str, ...] = ()
    """Names in the file of the tensors that are carried in 8 bits."""
    in_float: tuple[str, ...] = ()
    """Names of those that could be, but are carried in float."""
    damage: dict[str, float] = field(default_factory=dict)
    """Tensor -> predicted mean squared error of the output from its rounding, pixels in [0, 1]."""
    size: tuple[int, int] | None = None
    """(height, width) of the low-resolution image for which the forms were timed."""
    forms: dict[str, CarriedForm] = field(default_factory=dict)
    """`integer`, `float`, `chosen` and `original`, the float file -> what was measured; empty where
    nothing was compared."""

    @property
    def mse(self) -> float:
        """Predicted mean squared error of the output from all carried tensors together."""
        return sum(self.damage.get(name, 0.0) for name in self.tensors)


def save(carry: Carry, folder: Path) -> None:
    """Write how tensors are carried into a run folder."""
    write_text(folder / FILE, to_json(carry))


def load(folder: Path) -> Carry:
    """Read what `save` wrote; everything is in float where there is no such file."""
    path = folder / FILE
    return schema.parse(Carry, read_json(path), str(path)) if path.exists() else Carry()
