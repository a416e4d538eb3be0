"""The verbs that make runs: run, search, train, quantize, export, resume."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from torch import nn

from quantnas.config import files, quantities
from quantnas.config.layered_settings import together
from quantnas.config.run_config import RunConfig
from quantnas.config.search_space import SearchSpace
from quantnas.errors import VerificationError
from quantnas.evaluation import quantization_loss
from quantnas.evaluation.quantization_loss import Drop as Drop
from quantnas.onnx_import import module_export
from quantnas.pipeline import driver, extra_formats, helper_process, run_sources
from quantnas.pipeline.run_sources import Config, Request
from quantnas.runs import bundled_models, run_folder, run_settings
from quantnas.runs.watcher import SILENT, Watcher

Place = str | PathLike[str]
"""A path, or a run, which stands for its folder."""
Settings = Mapping[str, Any]
"""Setting -> value, as {"search.epochs": 30} or {"search": {"epochs": 30}}."""


@dataclass(frozen=True)
class Run(run_folder.Run):
    """A run folder; `result` says what its steps found. A run can be given in place of a path."""

    @classmethod
    def open(cls, folder: Place) -> "Run":
        """The run in a folder. Raises DataError where there is none."""
        return cls(run_folder.existing(Path(folder)).folder)

    @property
    def config(self) -> RunConfig:
        """The settings of the run, as they stand in its folder."""
        return run_settings.written(self)

    @property
    def drops(self) -> list[Drop]:
        """What quantization costs on each set of photographs, PSNR-Y in dB.

        Raises DataError for a run that is not quantized.
        """
        return quantization_loss.load(self)

    def export(self, path: Place | None = None, **form: Any) -> Path:
        """Export this run, as `quantnas.export` does with the same arguments."""
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

    Args:
        space: A built-in search space, a YAML file or a `SearchSpace`; by default that of `config`
            or, without one, rfdn_small.
        data: Folder of photographs to learn from; by default the bundled ones.
        target_bitops: BitOps that the found network shall have at `search.at`: 1e9 or "1.0G".
        bits: Bit widths, as in `quantize`; by default those that the search finds.
        config: Settings: a `RunConfig`, a mapping or the path of a YAML file.
        settings: Single settings over those of `config`, as `{"search.epochs": 30}`.
        output: Folder in which the run folder `run/<name>` is made.
        name: Name of the run folder, which must be new; by default a free one is chosen.
        watch: Is told how far the work is, and may stop it.

    Returns:
        The run, with `model.onnx` and `report.html` in its folder.

    Raises:
        UsageError: For settings that cannot be.
        DataError: For photographs that cannot be used.
        VerificationError: For a file that differs from the network.
        DivergedError: For a search that has diverged.

    Example:
        ```python
        quantnas.run("rfdn_small", data="my_photographs", target_bitops="1.0G")
        ```
    """
    arguments = {"data": data, "search.target_bitops": target_bitops, **_widths(bits)}
    request = _request("run", arguments, config, settings, output, name)
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
    """Search operations and bit widths for every edge of a search space.

    Args:
        space: A built-in search space, a YAML file or a `SearchSpace`; by default that of `config`
            or, without one, rfdn_small.
        data: Folder of photographs to learn from; by default the bundled ones.
        target_bitops: BitOps that the found network shall have at `search.at`: 1e9 or "1.0G".
        config: Settings: a `RunConfig`, a mapping or the path of a YAML file.
        settings: Single settings over those of `config`, as `{"search.epochs": 30}`.
        output: Folder in which the run folder `search/<name>` is made.
        name: Name of the run folder, which must be new; by default a free one is chosen.
        watch: Is told how far the work is, and may stop it.

    Returns:
        The run, with `genotype.json` in its folder.

    Raises:
        UsageError: For settings that cannot be.
        DataError: For photographs that cannot be used.
        DivergedError: For a search that has diverged.

    Example:
        ```python
        quantnas.search("rfdn_small", settings={"search.epochs": 30})
        ```
    """
    arguments = {"data": data, "search.target_bitops": target_bitops}
    request = _request("search", arguments, config, settings, output, name)
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
    """Train a decided architecture: first in float, then with rounding.

    Args:
        source: A run that has searched, a genotype (JSON), or a search space without choices: its
            name, its YAML file or a `SearchSpace`.
        data: Folder of photographs to learn from; by default those of the run, or the bundled ones.
        float_steps: Training steps in float.
        qat_steps: Training steps with rounding after that; 0 = only the grids are fitted.
        start: Initial weights: "searched", "scratch", "float" or a safetensors file.
        teacher: A trained run whose float network is distilled from, too; or "own", for the float
            network of this training.
        config: Settings: a `RunConfig`, a mapping or the path of a YAML file.
        settings: Single settings over those of `config`, as `{"search.epochs": 30}`.
        output: Folder in which the run folder `train/<name>` is made.
        name: Name of the run folder, which must be new; by default a free one is chosen.
        watch: Is told how far the work is, and may stop it.

    Returns:
        The run, with the float and the trained network in its folder.

    Raises:
        UsageError: For settings that cannot be, and for a space that leaves choices open.
        DataError: For photographs or a run that cannot be used.
        DivergedError: For a training that has diverged.

    Example:
        ```python
        quantnas.train("quicksrnet_small", data="my_photographs", float_steps=50_000)
        ```
    """
    arguments = {
        "data": data,
        "train.float_steps": float_steps,
        "train.qat_steps": qat_steps,
        "train.start": start,
        "train.teacher": teacher,
    }
    request = _request("train", arguments, config, settings, output, name)
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
    carry: str | None = None,
    max_drop: float | None = None,
    config: Config | None = None,
    settings: Settings | None = None,
    output: Place = "runs",
    name: str | None = None,
    watch: Watcher = SILENT,
) -> Run:
    """Quantize a trained float network to few bits.

    At most one of `bits`, `average_bits`, `target_bitops` and `target_size` is given; the last
    three choose the bit widths layer by layer, so that the damage is least within the budget.

    Args:
        model: A `torch.nn.Module` (N, C, H, W) -> (N, C, scale*H, scale*W) with 1 or 3 channels; a
            trained run; a safetensors file of float weights; or an ONNX file.
        bits: Bit width of the weights, 2, 3, 4 or 8, with activations at 8; or "w2a4".
        average_bits: Budget of bits per weight on average.
        target_bitops: Budget of BitOps at `quantize.at`: 4e9 or "4.0G".
        target_size: Budget of bytes of packed weights: 150e3 or "150K".
        calib: Folder of photographs to calibrate and retrain on; by default those of the run, or
            the bundled ones.
        method: "saliency", or the name of a baseline.
        steps: Steps of retraining after rounding; 0 = none.
        carry: How the tensors of a third-party network are carried between its convolutions:
            "integer" (8 bits, fastest), "float" (least loss), or "auto".
        max_drop: Loss of PSNR against the float network, dB, that is accepted on every set of
            photographs. Where bicubic beats the float network, it is what an error as large as that
            against the float network would take from bicubic's PSNR.
        config: Settings: a `RunConfig`, a mapping or the path of a YAML file.
        settings: Single settings over those of `config`, as `{"search.epochs": 30}`.
        output: Folder in which the run folder `quantize/<name>` is made.
        name: Name of the run folder, which must be new; by default a free one is chosen.
        watch: Is told how far the work is, and may stop it.

    Returns:
        The run; its `export` writes the file.

    Raises:
        UsageError: For settings that cannot be, and for a network that cannot be imported.
        DataError: For a network that does not enlarge images.
        QualityError: Where more than `max_drop` is lost; its `folder` is that of the finished run.
        PredictionError: A QualityError, where the error is more than ten times the predicted one or
            8 bits lose more than 1 dB; it names the layer that is to blame.

    Example:
        ```python
        quantnas.quantize(module, bits=2, calib="photographs").export("small.onnx")
        ```
    """
    arguments = {
        **_widths(bits),
        "quantize.average_bits": average_bits,
        "quantize.target_bitops": target_bitops,
        "quantize.target_size": target_size,
        "quantize.calib": calib,
        "quantize.method": method,
        "quantize.steps": steps,
        "quantize.carry": carry,
        "quantize.max_drop": max_drop,
    }
    request = _request("quantize", arguments, config, settings, output, name)
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
    plain: bool | None = None,
    size: str | None = None,
    output: Place = "runs",
    name: str | None = None,
    watch: Watcher = SILENT,
) -> Path:
    """Write a quantized network as ONNX, load that file, and compare it with torch.

    A `Run`, as `quantize` returns it, is exported in its own folder where neither a form nor a name
    is given. In all other cases a new run is made.

    Args:
        model: A quantized run, or its folder.
        path: Where the file is copied to; one that is there is overwritten.
        format: "onnx", or what is written besides and copied to `path`: "float", "qonnx" or
            "tflite".
        compat: Whether weights below 8 bits are stored as bytes and a table, for ONNX Runtime from
            1.16 on.
        uint8_io: Whether pixels go from 0 to 255 in and out.
        plain: Whether every convolution is written as its layer is, and not in the form that ONNX
            Runtime runs quickest.
        size: Low-resolution "HEIGHTxWIDTH", for a file that takes images of that size only.
        output: Folder in which the run folder `export/<name>` is made.
        name: Name of the run folder, which must be new; by default a free one is chosen.
        watch: Is told how far the work is, and may stop it.

    Returns:
        `path`, or the file in the run folder.

    Raises:
        UsageError: For a form that cannot be.
        DataError: For a run that is not quantized, and a path that cannot be written.
        VerificationError: For a file that differs from torch; it is left as `*.rejected.onnx`.

    Example:
        ```python
        quantnas.export("runs/quantize/rfdn_small", "small.onnx")
        ```
    """
    file = None if path is None else Path(path)
    if file is not None:
        files.require_writable(file)
    form = {
        "export.format": extra_formats.named_format(format, file),
        "export.compat": compat,
        "export.uint8_io": uint8_io,
        "export.plain": plain,
        "export.size": size,
    }
    has_form = any(value is not None for value in form.values())
    if isinstance(model, run_folder.Run) and not has_form and name is None:
        target = Run(model.folder)  # not as new: it stays when the export fails
    else:
        request = _request("export", form, None, None, output, name)
        begun = run_sources.from_run(request, run_folder.existing(Path(model)))
        target = Run(begun.folder, begun.new)
    try:
        driver.perform("export", target, watch)
    except VerificationError:
        for rejected in target.folder.glob("*.rejected.*"):
            if file is not None:
                files.copy(rejected, file.with_suffix(f".rejected{rejected.suffix}"))
        raise
    result = target.result("export") or {}
    name = (result.get("beside") or result).get("file")
    told = target.folder / "steps" / "export.json"
    made = files.inside(target.folder, name, told, follow=True)
    if file is None:
        return made
    files.copy(made, file)
    return file


def resume(run: Place, *, verb: str | None = None, watch: Watcher = SILENT) -> Run:
    """Finish an interrupted run, from its last saved state and with its own settings.

    Args:
        run: The run, or its folder.
        verb: The verb whose steps are finished; by default the one that began the run.
        watch: Is told how far the work is, and may stop it.

    Returns:
        The finished run.

    Raises:
        DataError: For a folder that is no run.
        UsageError: For a run of another verb.
        QuantnasError: Any error that the verb itself raises.

    Example:
        ```python
        quantnas.resume("runs/search/rfdn_small")
        ```
    """
    helper_process.join()
    verb, begun = run_sources.interrupted(run, verb)
    return _performed(verb, begun, watch)


def _request(
    verb: str,
    arguments: Mapping[str, Any],
    config: Config | None,
    settings: Settings | None,
    output: Place,
    name: str | None,
) -> Request:
    """The request for a new run, in which the arguments that were given win over the settings."""
    given = {
        key: fspath(value) if isinstance(value, PathLike) else value
        for key, value in arguments.items()
        if value is not None
    }
    layer = together(settings or {}, given)
    return Request(verb, config, layer, Path(output), name)


def _performed(verb: str, begun: run_folder.Run, watch: Watcher) -> Run:
    """Do the steps of a verb that are left in a run."""
    target = Run(begun.folder, begun.new)
    driver.perform(verb, target, watch)
    return target


def _widths(bits: int | str | None) -> dict[str, int]:
    """Bit widths such as 2 or "w2a4", as settings."""
    return {} if bits is None else quantities.bit_widths(str(bits), "`bits`")
