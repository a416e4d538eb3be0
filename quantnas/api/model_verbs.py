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
from quantnas.evaluation import latency, model_comparison, node_profile, processor
from quantnas.inference import tiling
from quantnas.onnx_import import module_export
from quantnas.progress import Progress
from quantnas.reporting import comparison_report
from quantnas.runs import models
from quantnas.runs.models import Model
from quantnas.runs.watcher import SILENT, Watcher, follow

Place = str | PathLike[str]
"""A path, or a run, which stands for its folder."""
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

    def psnr(self, model: str | None = None, photographs: str | None = None) -> float:
        """Mean PSNR-Y of a model on a set, dB; of the first one where nothing is named."""
        name = photographs or next(iter(self.result["sets"]))
        rows = self.result["sets"][name]["models"]
        return float(rows[model or next(iter(rows))]["mean"]["psnr"])


@dataclass(frozen=True)
class Benchmark:
    """Times of models, and the machine on which they were taken."""

    machine: processor.Machine
    result: latency.Result
    notes: list[str]
    """What the figures mean, in sentences."""
    layers: dict[str, list[node_profile.Node]]
    """Model -> what takes the time inside it; empty unless that was asked for."""


def load(model: Network) -> Model:
    """A network that can be evaluated, benchmarked and used, with its scale and cost.

    model: of a run its exported file is taken, else its quantized, trained or float checkpoint. A
    `torch.nn.Module` is exported and imported, as in `quantize`.

    Raises UsageError for what names nothing, DataError for a file that is not what it should be.

    Example: quantnas.load("plain-x2").scale
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

    model: each as in `load`; all of one scale.
    data: folders of photographs; none = those that the run of the models held out, else the bundled
    held-out ones.
    plot: draw PSNR over BitOps; published: with published networks of x4 on Set14 beside.

    Returns the scores, which are written with tables and pictures into a folder of their own.
    Raises as `load`, DataError for photographs that cannot be used, UsageError for models of two
    scales.

    Example: quantnas.evaluate(["plain-x2", "small.onnx"], ["Set5", "Set14"]).psnr("small")
    """
    with ExitStack() as files:
        found = _together(model, files)
        folders = [data] if isinstance(data, str | PathLike) else data
        sets = model_comparison.choose(found, [fspath(folder) for folder in folders])
        if plot or published:
            comparison_report.require_plot(found, sets, published)
        with comparison_report.new_folder(Path(output), name, found) as folder:
            steps = comparison_report.perform(found, sets, folder, plot or published, published)
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

    model: one or several, each as in `load`, but no checkpoint.
    size: (height, width) of the low-resolution image; none = 180x320, or that of the file.
    threads: that ONNX Runtime computes with.
    seconds: for every model, its float network included; rounds: a number of rounds instead.
    per_layer: measure what takes the time inside every model, too.

    Returns times in milliseconds, and ratios: below 1, a model is faster than its float network.
    Raises UsageError for numbers that cannot be and models that are no ONNX files, DataError for
    one that does not run.

    Example: quantnas.benchmark("plain-x2", size=(270, 480)).result.rows[0].ratio
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

    image: (H, W, 3) RGB or (H, W) grey, uint8.
    model: as in `load`.
    tile: side of the parts in which it is computed, pixels of `image`; 0 = as a whole, none = for
    1 GB of memory. overlap: pixels that a part sees of its neighbours; none = as far as the network
    looks.

    Returns (scale*H, scale*W, 3) or (scale*H, scale*W), uint8. Raises UsageError for an array of
    another form, DataError for an image that the network cannot take; else as `load`.

    Example: quantnas.upscale(np.asarray(PIL.Image.open("photo.png").convert("RGB")))
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
    """The model that is meant; the file of a module is there as long as `files` are open."""
    if isinstance(model, Model):
        return model
    if not isinstance(model, nn.Module):
        return models.resolve(fspath(model))
    title = type(model).__name__
    found = models.resolve(str(files.enter_context(module_export.exported(model))))
    return replace(found, name=title, what=f"module {title}")


def _together(model: Network | Sequence[Network], files: ExitStack) -> list[Model]:
    """Models to be compared, under different names. Raises UsageError for different scales."""
    one = isinstance(model, Model | nn.Module | str | PathLike)
    given: list[Any] = [model] if one else [*model]  # type: ignore[misc]
    labels = [fspath(m) if isinstance(m, str | PathLike) else "" for m in given]
    return models.apart(labels, [_resolved(m, files) for m in given])


def _benchmark(
    found: Sequence[Model], setting: latency.Setting, per_layer: bool
) -> Generator[Progress, None, tuple[latency.Result, dict[str, list[node_profile.Node]]]]:
    result = yield from latency.measure(found, setting)
    layers: dict[str, list[node_profile.Node]] = {}
    for model in found if per_layer else ():
        layers[model.name] = yield from node_profile.measure(model, result.size, result.threads)
    return result, layers
