"""Models that come with the package: each is `<name>.onnx` with a model card `<name>.json`."""

from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from quantnas.config import schema
from quantnas.config.files import read_json
from quantnas.errors import UsageError

FOLDER = Path(str(resources.files("quantnas") / "assets" / "models"))
AT = "LR 32x32"
"""Resolution at which the BitOps of every card are stated."""
PREFERRED = ("set14", "set5", "b100")
"""Test sets that rank models by PSNR; the first one that a card has counts."""


@dataclass(frozen=True)
class CardScores:
    """Mean PSNR-Y in dB and mean SSIM-Y over a set of photographs, of a model and of bicubic."""

    psnr: float
    ssim: float
    bicubic_psnr: float
    bicubic_ssim: float


@dataclass(frozen=True)
class Card:
    """The model card of a bundled model: its file, cost, training and scores."""

    name: str
    file: str
    sha256: str
    bytes: int
    scale: int
    space: str
    """Name of the search space that the architecture comes from."""
    luma_only: bool
    """Whether the network sees and corrects luma only; chroma is enlarged without it."""
    parameters: int
    bitops: dict[str, int]
    """Resolution -> BitOps."""
    bits: dict[str, tuple[int, int]]
    """Layer -> (weight bits, activation bits), the latter those of its input."""
    trained_on: str
    terms: str
    """Licence terms of the training photographs."""
    recipe: str
    """Description of the training, in words."""
    minutes: float
    """Time that search, training and quantization took, minutes."""
    seed: int
    scores: dict[str, CardScores]
    """Set of photographs -> mean scores."""
    protocol: str
    """Measuring protocol of the scores."""
    made_by: str
    """Command line that made the model."""

    def __post_init__(self) -> None:
        if AT not in self.bitops:
            raise ValueError(f"`bitops` lacks '{AT}', at which models are listed; it must be there")


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
    """The remedy of an error about an unknown model: a sentence that lists the bundled ones."""
    return (
        f"Bundled are {', '.join(names)}."
        if names
        else "No model is bundled; give a run or a file."
    )


def best(scale: int) -> str:
    """The bundled model of a scale with the best PSNR. Raises UsageError when there is none."""
    cards = [read(name) for name in bundled()]
    fitting = [card for card in cards if card.scale == scale]
    if not fitting:
        raise UsageError(f"There is no bundled model of x{scale}.", offer(bundled()))
    return max(fitting, key=_quality).name


def _quality(card: Card) -> float:
    sets = [name for name in PREFERRED if name in card.scores] or list(card.scores)
    return card.scores[sets[0]].psnr if sets else 0.0
