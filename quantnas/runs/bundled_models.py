"""Models that come with the package: `<name>.onnx` with its card `<name>.json`."""

from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from quantnas.config import schema
from quantnas.config.files import read_json
from quantnas.errors import UsageError

FOLDER = Path(str(resources.files("quantnas") / "assets" / "models"))
PREFERRED = ("set14", "set5", "b100")
"""Sets by which models are compared, the first that is in the card."""


@dataclass(frozen=True)
class CardScores:
    """Means over a set of photographs: PSNR-Y in dB, SSIM-Y."""

    psnr: float
    ssim: float
    bicubic_psnr: float
    bicubic_ssim: float


@dataclass(frozen=True)
class Card:
    """What is to be known about a bundled model."""

    name: str
    file: str
    sha256: str
    bytes: int
    scale: int
    space: str
    """Search space that it was found in."""
    luma_only: bool
    """Whether the network sees and corrects brightness only; colours are enlarged without it."""
    parameters: int
    bitops: dict[str, int]
    """Resolution -> BitOps."""
    bits: dict[str, tuple[int, int]]
    """Layer -> bits of its weights and of its input."""
    trained_on: str
    terms: str
    """Of the photographs that it was trained on."""
    recipe: str
    """How it was trained, in words."""
    minutes: float
    """That it took."""
    seed: int
    scores: dict[str, CardScores]
    """Set of photographs -> means."""
    protocol: str
    """How they were measured."""
    made_by: str
    """The command."""


def bundled() -> dict[str, Path]:
    """Name -> ONNX file of every model that comes with the package."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.onnx"))}


def read(name: str) -> Card:
    """The card of a bundled model. Raises UsageError when there is no such model."""
    names = bundled()
    if name not in names:
        raise UsageError(f"There is no bundled model called '{name}'.", offer(names))
    path = names[name].with_suffix(".json")
    return schema.parse(Card, read_json(path), str(path))


def offer(names: Collection[str]) -> str:
    """What to do where none of these was named."""
    return (
        f"Bundled are {', '.join(names)}."
        if names
        else "No model is bundled; give a run or a file."
    )


def best(scale: int) -> str:
    """The bundled model of a scale with the best PSNR. Raises UsageError when there is none."""
    cards = [read(name) for name in bundled()]
    fitting = [found for found in cards if found.scale == scale]
    if not fitting:
        raise UsageError(f"There is no bundled model of x{scale}.", offer(bundled()))
    return max(fitting, key=_quality).name


def _quality(found: Card) -> float:
    sets = [name for name in PREFERRED if name in found.scores] or list(found.scores)
    return found.scores[sets[0]].psnr if sets else 0.0
