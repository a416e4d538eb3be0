"""The verbs that use networks: load, evaluate, benchmark and upscale."""

import atexit
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from quantnas.errors import UsageError
from quantnas.evaluation import latency, model_comparison, node_profile, processor, tables
from quantnas.evaluation.latency import Row, Spread
from quantnas.evaluation.node_profile import Node
from quantnas.evaluation.processor import Machine
from quantnas.inference import tiling
from quantnas.onnx_import import module_export
from quantnas.progress import Progress
from quantnas.reporting import comparison_report
from quantnas.runs import models
from quantnas.runs.models import Model
from quantnas.runs.watcher import SILENT, Watcher, follow

from .run_verbs import Place

__all__ = [
    "Benchmark",
    "Evaluation",
    "Machine",
    "Node",
    "Row",
    "Spread",
    "benchmark",
    "evaluate",
    "load",
    "upscale",
]

Network = Model | nn.Module | Place
"""A loaded model, a module, a run, a checkpoint in one, an ONNX file, or a bundled model's name."""
Image = NDArray[np.uint8]
"""(H, W, 3) RGB or (H, W) grey, from 0 to 255."""

_kept = ExitStack()  # files of loaded modules, until the process ends
atexit.register(_kept.close)


@dataclass(frozen=True)
class Evaluation:
    """Scores of models on sets of photographs, and the folder with their tables and pictures."""

    folder: Path
    result: dict[str, Any]
    """What evaluation.json holds: `models` and `sets`, with the scores of every photograph."""

    @property
    def model_table(self) -> tables.Rows:
        """The models and what they cost, as rows of cells; the first row is the head."""
        return tables.models(self.result)

    @property
    def mean_table(self) -> tables.Rows:
        """Mean PSNR-Y and SSIM-Y of bicubic and of every model on every set, as rows of cells."""
        return tables.means(self.result)

    def image_table(self, photographs: str) -> tables.Rows:
        """The scores of every photograph of a set, and their mean, as rows of cells."""
        return tables.images(self.result, photographs)

    def worst(self, photographs: str) -> list[str]:
        """A sentence about the worst photograph of every model on a set."""
        return list(tables.worst(self.result, photographs))

    def psnr(self, model: str | None = None, photographs: str | None = None) -> float:
        """Mean PSNR-Y of a model on a set, dB; by default of the first model on the first set."""
        name = photographs or next(iter(self.result["sets"]))
        rows = self.result["sets"][name]["models"]
        return float(rows[model or next(iter(rows))]["mean"]["psnr"])


@dataclass(frozen=True)
class Benchmark:
    """Times of models, and the machine on which they were taken."""

    machine: Machine
    result: latency.Result
    notes: list[str]
    """What the figures mean, in sentences."""
    layers: dict[str, list[Node]]
    """Model -> time of every operator inside it; empty without `per_layer`."""


def load(model: Network) -> Model:
    """Load a network that can be evaluated, benchmarked and used, with its scale and cost.

    Args:
        model: A run, a checkpoint in one, an ONNX file, the name of a bundled model, or a
            `torch.nn.Module`. Of a run the exported file is taken, or else its quantized, trained
            or float checkpoint; a module is exported and imported, as in `quantize`.

    Returns:
        The model, with its `name`, `scale` and `cost`.

    Raises:
        UsageError: For a name that stands for nothing.
        DataError: For a file that is damaged or of another kind.

    Example:
        ```python
        quantnas.load("plain-x2").scale
        ```
    """
    return _resolved(model, _kept)


def evaluate(
    model: Network | Sequence[Network],
    data: Place | Sequence[Place] = (),
    *,
    plot: bool = False,
    published: bool = False,
    output: Place = "runs",
    name: str | None = None,
    watch: Watcher = SILENT,
) -> Evaluation:
    """Measure PSNR-Y and SSIM-Y of one or several models, with bicubic beside them.

    Args:
        model: One or several models, each as in `load`, all of one scale.
        data: Folders of photographs; by default the held-out set of the models' run, or else the
            bundled held-out photographs.
        plot: Whether PSNR over BitOps is drawn.
        published: Whether that is drawn with the published networks of x4 on Set14 beside.
        output: Folder in which the folder `evaluate/<name>` is made.
        name: Name of that folder, which must be new; by default a free one is chosen.
        watch: Is told how far the work is, and may stop it.

    Returns:
        The scores, which are written with tables and pictures into a folder of their own.

    Raises:
        UsageError: As `load`, and for models of different scales.
        DataError: As `load`, and for photographs that cannot be used.

    Example:
        ```python
        quantnas.evaluate(["plain-x2", "small.onnx"], ["Set5", "Set14"]).psnr("small")
        ```
    """
    with ExitStack() as files:
        compared = _together(model, files)
        folders = [data] if isinstance(data, str | PathLike) else data
        sets = model_comparison.choose(compared, [fspath(folder) for folder in folders])
        if plot or published:
            comparison_report.require_plot(compared, sets, published)
        with comparison_report.new_folder(Path(output), name, compared) as folder:
            steps = comparison_report.perform(compared, sets, folder, plot or published, published)
            return Evaluation(folder, follow(steps, watch))


def benchmark(
    model: Network | Sequence[Network],
    *,
    size: tuple[int, int] | None = None,
    threads: int = 1,
    seconds: float = 10.0,
    rounds: int | None = None,
    per_layer: bool = False,
    watch: Watcher = SILENT,
) -> Benchmark:
    """Time models in ONNX Runtime, each beside the same network in float.

    Args:
        model: One or several models, each as in `load`, but no checkpoint.
        size: (height, width) of the low-resolution image; by default 180x320, or the only size that
            the file takes.
        threads: Threads of ONNX Runtime.
        seconds: Time to measure every model with its float network.
        rounds: Number of rounds, instead of `seconds`.
        per_layer: Whether the time of every operator inside the models is measured, too.
        watch: Is told how far the work is, and may stop it.

    Returns:
        Times in milliseconds, and ratios: below 1, a model is faster than its float network.

    Raises:
        UsageError: For numbers that cannot be, and models that are no ONNX files.
        DataError: For a model that does not run.

    Example:
        ```python
        quantnas.benchmark("plain-x2", size=(270, 480)).result.rows[0].ratio
        ```
    """
    try:
        setting = latency.Setting(size, threads, seconds, rounds)
    except ValueError as error:
        raise UsageError(f"{error}.", "Leave it out for the usual value.") from error
    with ExitStack() as files:
        steps = _benchmark(_together(model, files), setting, per_layer)
        result, layers = follow(steps, watch)
    here = processor.here()
    return Benchmark(here, result, latency.notes(result, here), layers)


def upscale(
    image: Image,
    model: Network = "plain-x2",
    *,
    tile: int | None = None,
    overlap: int | None = None,
) -> Image:
    """Enlarge an image.

    Args:
        image: (H, W, 3) RGB or (H, W) grey, uint8.
        model: A model, as in `load`.
        tile: Side of the tiles in which the image is computed, pixels of `image`; 0 = as a whole,
            by default what fits into 1 GB of memory.
        overlap: Pixels that a tile sees of its neighbours; by default the receptive field.

    Returns:
        The enlarged image, (scale*H, scale*W, 3) or (scale*H, scale*W), uint8.

    Raises:
        UsageError: As `load`, and for an array of another shape or type.
        DataError: As `load`, and for an image that the network cannot take.

    Example:
        ```python
        quantnas.upscale(np.asarray(PIL.Image.open("photo.png").convert("RGB")))
        ```
    """
    grey = image.ndim == 2
    if image.dtype != np.uint8 or not (grey or (image.ndim == 3 and image.shape[2] == 3)):
        shape = " x ".join(map(str, image.shape))
        raise UsageError(
            f"The image is {image.dtype} of the shape {shape}.",
            "Give uint8 of the shape height x width x 3, or height x width.",
        )
    low = np.stack([image] * 3, axis=2) if grey else image
    with ExitStack() as files:
        network = _resolved(model, files).network()
        large = tiling.upscaler(network, tiling.Tiling(tile, overlap))(low)
    return large.mean(axis=2).round().astype(np.uint8) if grey else large


def _resolved(model: Network, files: ExitStack) -> Model:
    """The model that is meant; the file of a module exists as long as `files` are open."""
    if isinstance(model, Model):
        return model
    if not isinstance(model, nn.Module):
        return models.resolve(fspath(model))
    title = type(model).__name__
    loaded = models.resolve(str(files.enter_context(module_export.exported(model))))
    return replace(loaded, name=title, what=f"module {title}")


def _together(model: Network | Sequence[Network], files: ExitStack) -> list[Model]:
    """The models to compare, under different names. Raises UsageError for different scales."""
    one = isinstance(model, Model | nn.Module | str | PathLike)
    networks: list[Any] = [model] if one else [*model]  # type: ignore[misc]
    labels = [fspath(m) if isinstance(m, str | PathLike) else "" for m in networks]
    return models.apart(labels, [_resolved(m, files) for m in networks])


def _benchmark(
    compared: Sequence[Model], setting: latency.Setting, per_layer: bool
) -> Generator[Progress, None, tuple[latency.Result, dict[str, list[Node]]]]:
    """Progress of the timing; its result, and with `per_layer` the operators of every model."""
    result = yield from latency.measure(compared, setting)
    layers: dict[str, list[Node]] = {}
    for model in compared if per_layer else ():
        layers[model.name] = yield from node_profile.measure(model, result.size, result.threads)
    return result, layers
