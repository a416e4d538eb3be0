"""The files by which a run tells its results, as the keys and types that are read from them.

`schema.check` compares a file with them, so that a damaged one is an error and no surprise where
its values are used. Files may hold further keys, and those of earlier versions lack some.
"""

from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from quantnas.config import files, schema
from quantnas.errors import DataError

Counts = dict[str, float]
"""Resolution -> number."""


class Photographs(TypedDict):
    """How many photographs a step used, and which were left out."""

    used: int
    too_small: int
    damaged: list[str]


class Best(TypedDict):
    """The best network that a search decided on its way."""

    epoch: int
    psnr: float
    bitops: float


class Search(TypedDict):
    """The result of the step `search`."""

    seconds: float
    kept: NotRequired[str]
    share_decided: NotRequired[float | None]
    best: NotRequired[Best | None]
    trial: NotRequired[list[dict[str, float | None]] | None]
    bitops: NotRequired[float | Counts]
    bitops_at: NotRequired[Counts]
    photographs: NotRequired[Photographs]


class Train(TypedDict):
    """The result of the step `train`."""

    seconds: float
    psnr_patches_float: NotRequired[float | None]
    psnr_patches_rounded: NotRequired[float | None]
    photographs: NotRequired[Photographs]


class Reached(TypedDict):
    """What a quantized network costs."""

    weight_bytes: int
    bitops: float
    average_bits: float | None


class InFloat(TypedDict):
    """A layer that stays in float."""

    name: str
    op: str
    share: float


class Cut(TypedDict):
    """The values of a tensor that lie beyond its grid on held-out photographs."""

    tensor: str
    bits: int
    share: float


class Quantize(TypedDict):
    """The result of the step `quantize`."""

    seconds: float
    bits: NotRequired[int | str | None]
    limit: NotRequired[float | None]
    act_bits: NotRequired[int | str | None]
    psnr_to_float: NotRequired[float | None]
    psnr_to_float_plain_rounding: NotRequired[float | None]
    psnr_to_float_before_training: NotRequired[float | None]
    psnr_to_float_predicted: NotRequired[float | None]
    carried: NotRequired[str | None]
    kept_bits: NotRequired[str | None]
    reached: NotRequired[Reached]
    in_float: NotRequired[list[InFloat]]
    cut: NotRequired[list[Cut]]
    photographs: NotRequired[Photographs]


class Layer(TypedDict):
    """A row of the table of layers."""

    name: str
    op: str
    shape: list[int]
    weight_bits: int
    act_bits: int
    macs: float


class Cost(TypedDict):
    """The cost of the exported file."""

    parameters: int
    weight_bytes: int
    macs: Counts
    bitops: Counts
    layers: list[Layer]


class Unoptimised(TypedDict):
    """The comparison of a file that runs without optimisation."""

    max_steps: int


class Verification(TypedDict):
    """The comparison of the exported file with torch."""

    images: int
    max_steps: int
    psnr: float | None
    share_different: float
    convolutions: int
    integer_convolutions: int
    slower: NotRequired[dict[str, str]]
    sensitivity: NotRequired[float | None]
    unoptimised: NotRequired[Unoptimised | None]


class Quality(TypedDict):
    """PSNR-Y of the exported file on crops, dB."""

    file: float | None
    bicubic: float | None
    photographs: int
    side: int


class Beside(TypedDict):
    """A further file of an export."""

    file: str
    bytes: int
    compared: str


class Export(TypedDict):
    """The result of the step `export`."""

    file: NotRequired[str]
    bytes: int
    sha256: NotRequired[str]
    psnr: NotRequired[Quality | None]
    beside: NotRequired[Beside]
    verification: Verification
    cost: Cost


class Score(TypedDict):
    """The scores on one photograph, or their mean."""

    image: str
    psnr: float
    ssim: float
    bicubic_psnr: float
    bicubic_ssim: float
    to_float: NotRequired[float | None]


class SetScores(TypedDict):
    """The scores on one set of photographs."""

    file: list[Score]
    mean: Score
    float: list[Score]
    float_mean: Score


class Evaluate(TypedDict):
    """The result of the step `evaluate`."""

    protocol: str
    scale: int
    sets: dict[str, SetScores]


class Report(TypedDict):
    """The result of the step `report`."""

    files: NotRequired[list[str]]


KINDS: dict[str, Any] = {
    "search": Search,
    "train": Train,
    "quantize": Quantize,
    "export": Export,
    "evaluate": Evaluate,
    "report": Report,
}
"""Step -> the keys and types of its result."""


AT = "LR 32x32"
"""Resolution at which every cost is stated."""


def check_whole(step: str, result: dict[str, Any], source: str) -> None:
    """Raise DataError, naming the file `source`, unless a step's result is whole and consistent."""
    schema.check(KINDS[step], result, source)
    wrong = None
    if step == "export":
        cost = result["cost"]
        if AT not in cost["bitops"] or not cost["macs"].keys() <= cost["bitops"].keys():
            wrong = "its costs lack a resolution"
        if not all(row["shape"] for row in cost["layers"]):
            wrong = "a layer has no shape"
    if step == "evaluate":
        if not result["sets"]:
            wrong = "it has no scores"
        for name, found in result["sets"].items():
            if len(found["file"]) != len(found["float"]):
                wrong = f"the scores on '{name}' are of different photographs"
    if wrong:
        raise DataError(f"{source} is damaged: {wrong}.", "Take the file from a copy.")


class Environment(TypedDict):
    """The versions, machine and command line in env.json."""

    versions: NotRequired[dict[str, str]]
    command: NotRequired[list[str]]
    verb: NotRequired[str]


class SearchSettings(TypedDict):
    """The settings of a search that its pictures show."""

    at: NotRequired[str]
    target_bitops: NotRequired[float | None]
    warmup_epochs: NotRequired[int]
    steps_per_epoch: NotRequired[int]


class TrainSettings(TypedDict):
    """The settings of a training that a report reads."""

    start: NotRequired[str]


class Settings(TypedDict):
    """The settings in config.yaml that a report reads."""

    space: str
    seed: int
    search: NotRequired[SearchSettings]
    train: NotRequired[TrainSettings]


class BitWidths(TypedDict):
    """The bit widths of a slot in precision.json."""

    weights: int
    activations: int


class Predicted(TypedDict):
    """The predicted damage of a slot in damage.json."""

    slot: str
    options: list[BitWidths]
    mse: list[float]


class Record(TypedDict):
    """What every line of metrics.jsonl has."""

    phase: str
    step: int


class Check(TypedDict):
    """The network that a search decided at a step."""

    psnr: float | None


class SearchRecord(Record):
    """A line of metrics.jsonl about a gradient search."""

    loss: float | None
    psnr: float | None
    entropy: float | None
    decided: float | None
    bitops: float
    decided_bitops: float
    probabilities: dict[str, list[float | None]]
    check: Check | None


def environment(folder: Path) -> dict[str, Any]:
    """The content of a run's env.json. Raises DataError when it is missing or damaged."""
    path = folder / "env.json"
    data = files.read_json(path)
    schema.check(Environment, data, str(path))
    return data


def settings(folder: Path, partial: bool = False) -> dict[str, Any]:
    """The content of a run's config.yaml, as reports show it.

    partial: the space and the seed may be missing. Raises DataError or UsageError when it is
    missing or damaged.
    """
    path = folder / "config.yaml"
    data = schema.read_yaml(path)
    schema.check(Settings, data, str(path), partial)
    return data


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, without lines that a killed process left incomplete."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [row for row in map(record, lines) if row is not None]


def record(line: str) -> dict[str, Any] | None:
    """A line of a `metrics.jsonl`; None for an incomplete line, and for other text."""
    try:
        row: dict[str, Any] = files.parse_json(line)
        schema.check(Record, row, "a line")
    except (ValueError, DataError):
        return None
    return row
