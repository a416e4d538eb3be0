"""The verbs that make runs: run, search, train, quantize, export, resume.

What their arguments have in common stands in `api`.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from torch import nn

from quantnas.config import files, quantities
from quantnas.config.layered_settings import together
from quantnas.config.search_space import SearchSpace
from quantnas.errors import UsageError, VerificationError
from quantnas.onnx_import import module_export
from quantnas.pipeline import driver, extra_formats, helper_process, run_sources
from quantnas.pipeline.run_sources import Config, Request
from quantnas.runs import bundled_models, run_folder
from quantnas.runs.watcher import SILENT, Watcher

Place = str | PathLike[str]
"""A path, or a run, which stands for its folder."""
Settings = Mapping[str, Any]
"""Setting -> value, as {"search.epochs": 30} or {"search": {"epochs": 30}}."""


@dataclass(frozen=True)
class Run(run_folder.Run):
    """A run folder; `result` says what its steps found. It can be given in place of its path."""

    def export(self, path: Place | None = None, **form: Any) -> Path:
        """`quantnas.export` of this run."""
        return export(self, path, **form)


def run(
    space: Place | SearchSpace | None = None,
    *,
    data: Place | None = None,
    target_bitops: float | str | None = None,
    bits: int | str | None = None,
    config: Config | None = None,
    settings: Settings | None = None,
    output: Place = "runs",
    name: str | None = None,
    watch: Watcher = SILENT,
) -> Run:
    """Search, train, quantize, export, evaluate and report, from photographs to a verified file.

    space: a built-in search space, a YAML file or a `SearchSpace`; none = that of `config`, by
    default rfdn_small.
    data: folder of photographs to learn from; none = the bundled ones.
    target_bitops: BitOps that the found network shall have at `search.at`: 1e9 or "1.0G".
    bits: as in `quantize`; none = those that the search finds.

    Returns the run, with `model.onnx` and `report.html` in its folder. Raises UsageError for
    settings that cannot be, DataError for photographs that cannot be used, VerificationError for a
    file that differs from the network, DivergedError for a search that has diverged.

    Example: quantnas.run("rfdn_small", data="my_photographs", target_bitops="1.0G")
    """
    given = {"data": data, "search.target_bitops": _number(target_bitops), **_widths(bits)}
    request = _request("run", given, config, settings, output, name)
    helper_process.join()
    return _performed("run", run_sources.from_space(request, space), watch)


def search(
    space: Place | SearchSpace | None = None,
    *,
    data: Place | None = None,
    target_bitops: float | str | None = None,
    config: Config | None = None,
    settings: Settings | None = None,
    output: Place = "runs",
    name: str | None = None,
    watch: Watcher = SILENT,
) -> Run:
    """Search operations and bit widths for every edge of a space; arguments and errors as `run`.

    Returns the run, with `genotype.json` in its folder.

    Example: quantnas.search("rfdn_small", settings={"search.epochs": 30})
    """
    given = {"data": data, "search.target_bitops": _number(target_bitops)}
    request = _request("search", given, config, settings, output, name)
    helper_process.join()
    return _performed("search", run_sources.from_space(request, space), watch)


def train(
    source: Place | SearchSpace,
    *,
    data: Place | None = None,
    float_steps: int | None = None,
    qat_steps: int | None = None,
    start: Place | None = None,
    teacher: Place | None = None,
    config: Config | None = None,
    settings: Settings | None = None,
    output: Place = "runs",
    name: str | None = None,
    watch: Watcher = SILENT,
) -> Run:
    """Train a decided network: first in float, then with rounding.

    source: a run that has searched, a genotype (JSON), or a space without choices: its name, its
    YAML file or a `SearchSpace`.
    data: folder of photographs to learn from; none = those of the run, or the bundled ones.
    float_steps, qat_steps: steps in float, and with rounding after that.
    start: weights to begin with, "searched", "scratch", "float" or a safetensors file.
    teacher: a trained run whose float network is learned from, too; or "own".

    Returns the run. Raises as `run`.

    Example: quantnas.train("quicksrnet_small", data="my_photographs", float_steps=50_000)
    """
    given = {
        "data": data,
        "train.float_steps": float_steps,
        "train.qat_steps": qat_steps,
        "train.start": start,
        "train.teacher": teacher,
    }
    request = _request("train", given, config, settings, output, name)
    helper_process.join()
    return _performed("train", run_sources.to_train(request, source), watch)


def quantize(
    model: Place | nn.Module,
    *,
    bits: int | str | None = None,
    average_bits: float | None = None,
    target_bitops: float | str | None = None,
    target_size: float | str | None = None,
    calib: Place | None = None,
    method: str | None = None,
    steps: int | None = None,
    max_drop: float | None = None,
    config: Config | None = None,
    settings: Settings | None = None,
    output: Place = "runs",
    name: str | None = None,
    watch: Watcher = SILENT,
) -> Run:
    """Put a trained float network on few bits.

    model: a `torch.nn.Module` (N, C, H, W) -> (N, C, scale*H, scale*W) with 1 or 3 channels; a
    trained run; a safetensors file of float weights; or an ONNX file.
    bits: 2, 3, 4 or 8 for weights, with activations at 8; or "w2a4". Instead, bits are chosen
    layer by layer within average_bits (bits per weight), target_bitops ("4.0G", counted at
    `quantize.at`) or target_size (bytes of packed weights, "150K").
    calib: folder of photographs to calibrate and retrain on; none = those of the run, or the
    bundled ones.
    method: "saliency", or a baseline.
    steps: of retraining after rounding; 0 = none.
    max_drop: dB below the float network that are accepted on every set of photographs.

    Returns the run; its `export` writes the file. Raises UsageError for settings that cannot be and
    for a network that cannot be imported, DataError for one that does not enlarge images, and
    QualityError, whose `folder` is that of the finished run, where more than max_drop is lost.

    Example: quantnas.quantize(module, bits=2, calib="photographs").export("small.onnx")
    """
    ways = {
        **_widths(bits),
        "quantize.average_bits": average_bits,
        "quantize.target_bitops": _number(target_bitops),
        "quantize.target_size": _number(target_size),
    }
    _require_one({key: value for key, value in ways.items() if key != "act_bits"})
    given = {
        **ways,
        "quantize.calib": calib,
        "quantize.method": method,
        "quantize.steps": steps,
        "quantize.max_drop": max_drop,
    }
    request = _request("quantize", given, config, settings, output, name)
    with ExitStack() as temporary:
        if isinstance(model, nn.Module):
            model = temporary.enter_context(module_export.exported(model))
        file = bundled_models.bundled().get(fspath(model), model)
        begun = run_sources.to_quantize(request, file, watch)
    return _performed("quantize", begun, watch)


def export(
    model: Place,
    path: Place | None = None,
    *,
    format: str | None = None,
    compat: bool | None = None,
    uint8_io: bool | None = None,
    size: str | None = None,
    output: Place = "runs",
    name: str | None = None,
    watch: Watcher = SILENT,
) -> Path:
    """Write a quantized network as ONNX, load that file, and compare it with torch.

    model: a quantized run. A `Run`, as `quantize` returns it, is exported in its own folder where
    neither a form nor a name is given; of the folder of a run, and in another form, a new run is
    made.
    path: where the file is copied to; one that is there is overwritten.
    format: "onnx", or what is written besides and copied to `path`: "float", "qonnx" or "tflite".
    compat: weights below 8 bits as bytes and a table, for ONNX Runtime from 1.16 on.
    uint8_io: pixels from 0 to 255 in and out.
    size: low-resolution "HEIGHTxWIDTH", if the file shall take images of that size alone.

    Returns the path, or the file in the run folder. Raises UsageError for a form that cannot be,
    DataError for a run that is not quantized and a path that cannot be written, VerificationError
    for a file that differs from torch; that one is left as `*.rejected.onnx`.

    Example: quantnas.export("runs/quantize/rfdn_small", "small.onnx")
    """
    file = None if path is None else Path(path)
    if file is not None:
        files.require_writable(file)
    form = {
        "export.format": extra_formats.named_format(format, file),
        "export.compat": compat,
        "export.uint8_io": uint8_io,
        "export.size": size,
    }
    asked = any(value is not None for value in form.values())
    if isinstance(model, run_folder.Run) and not asked and name is None:
        target = replace(model, new=False)  # it stays when the export fails
    else:
        request = _request("export", form, None, None, output, name)
        target = run_sources.from_run(request, run_folder.existing(Path(model)))
    try:
        driver.perform("export", target, watch)
    except VerificationError:
        for rejected in target.folder.glob("*.rejected.*"):
            if file is not None:
                files.copy(rejected, file.with_suffix(f".rejected{rejected.suffix}"))
        raise
    result = target.result("export") or {}
    made = target.folder / (result.get("beside") or result)["file"]
    if file is None:
        return made
    files.copy(made, file)
    return file


def resume(run: Place, *, verb: str | None = None, watch: Watcher = SILENT) -> Run:
    """Finish an interrupted run, from its last saved state and with its own settings.

    verb: the one whose steps are to be finished; none = that which began the run.

    Returns the run. Raises DataError for what is no run folder, UsageError for a run of another
    verb, else as the verb.

    Example: quantnas.resume("runs/search/rfdn_small")
    """
    helper_process.join()
    found, begun = run_sources.interrupted(run, verb)
    return _performed(found, begun, watch)


def _request(
    verb: str,
    given: Mapping[str, Any],
    config: Config | None,
    settings: Settings | None,
    output: Place,
    name: str | None,
) -> Request:
    """What is asked of a new run: the arguments that were given over the settings."""
    told = {
        key: fspath(value) if isinstance(value, PathLike) else value
        for key, value in given.items()
        if value is not None
    }
    layer = together(settings or {}, told)
    return Request(verb, config, layer, Path(output), name)


def _performed(verb: str, begun: run_folder.Run, watch: Watcher) -> Run:
    mine = Run(begun.folder, begun.new)
    driver.perform(verb, mine, watch)
    return mine


def _widths(bits: int | str | None) -> dict[str, int]:
    """2 or "w2a4" as settings."""
    return {} if bits is None else quantities.widths(str(bits), "`bits`")


def _number(text: float | str | None) -> float | None:
    """2e9 or "2.0G"."""
    return quantities.number(text, "The number") if isinstance(text, str) else text


def _require_one(ways: Mapping[str, Any]) -> None:
    """Raise UsageError when bits are given in two ways."""
    given = [name.rpartition(".")[2] for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"`{given[0]}` and `{given[1]}` are both given.", "Give one of them.")
