"""Begins runs from a search space, another run, a genotype, or a file of weights.

Settings come in layers: those of the run that is continued are the lowest one, a configuration lies
above them, and single settings on top.
"""

import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from quantnas.architectures import onnx_survey, registry
from quantnas.config import genotype, layered_settings, schema, search_space
from quantnas.config.run_config import RunConfig
from quantnas.config.search_space import Pixels, SearchSpace
from quantnas.data import image_files
from quantnas.errors import DataError, UsageError
from quantnas.onnx_import import file_kinds
from quantnas.progress import Progress
from quantnas.runs import run_folder, run_settings, step_records, step_results
from quantnas.runs.run_folder import Run
from quantnas.runs.watcher import SILENT, Watcher
from quantnas.training import processes

from . import new_run, pretrained

SHARED = {"search": ("search",), "train": ("train",), "run": ("search", "train")}
"""Verb -> those of its steps that several processes may share."""
RESUMABLE = ("run", "search", "train", "quantize")
"""Verbs whose runs can be continued."""
SOURCE = "configuration"
"""Name in errors of settings that come from no file."""
Config = RunConfig | Mapping[str, Any] | str | PathLike[str]
"""A `RunConfig`, of which only differences from the defaults count; settings; or a YAML file."""


@dataclass(frozen=True)
class Request:
    """A request for a new run."""

    verb: str
    config: Config | None = None
    settings: Mapping[str, Any] | None = None
    """`search.epochs` -> 30, or section -> its settings; they are a layer over `config`."""
    output: Path = Path("runs")
    """Folder in whose subfolder `verb` the run folder is created."""
    name: str | None = None
    """Name of the run folder; None: a free one is chosen."""

    def given(self, setting: str) -> Any:
        """The value of a single setting; None where it is not given."""
        return layered_settings.flat(self.settings or {}).get(setting)

    def but(self, **changes: Any) -> "Request":
        """The request with other single settings; `train__start` stands for `train.start`."""
        changed = {name.replace("__", "."): value for name, value in changes.items()}
        return replace(self, settings=layered_settings.flat(self.settings or {}) | changed)

    def over(self, base: Mapping[str, Any]) -> RunConfig:
        """The configuration that results from layering the request over the settings of `base`.

        A setting replaces its rivals in lower layers, as `layered_settings.layered` says. Raises
        UsageError for impossible settings, DataError for a file that cannot be read.
        """
        source = str(self.config) if isinstance(self.config, str | PathLike) else SOURCE
        layers = (base, _layer(self.config), self.settings or {})
        return layered_settings.layered(RunConfig(), *layers, source=source)


def _layer(config: Config | None) -> Mapping[str, Any]:
    """The settings of a configuration; of a `RunConfig`, those that differ from the defaults."""
    if config is None:
        return {}
    if isinstance(config, RunConfig):
        default = layered_settings.flat(asdict(RunConfig()))
        settings = layered_settings.flat(asdict(config))
        return {name: value for name, value in settings.items() if value != default[name]}
    return config if isinstance(config, Mapping) else schema.read_yaml(Path(config))


def from_space(request: Request, source: str | PathLike[str] | SearchSpace | None = None) -> Run:
    """Begin a run that continues no other one; its settings may name a genotype and weights.

    Raises as `new_run.fresh`, and UsageError as `together`.
    """
    with _path_of(source) as path:
        config = (request.but(space=path) if path else request).over({})
        return together(request.verb, config, lambda: _fresh(request, config))


def _fresh(
    request: Request,
    config: RunConfig,
    source: Run | None = None,
    complete: Callable[[Run, RunConfig], None] | None = None,
) -> Run:
    return new_run.fresh(request.verb, request.output, request.name, config, source, complete)


@contextmanager
def _path_of(source: str | PathLike[str] | SearchSpace | None) -> Iterator[str | None]:
    """The name or path of a search space; a `SearchSpace` is written to a temporary file."""
    if not isinstance(source, SearchSpace):
        yield None if source is None else str(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{source.name}.yaml"
        file.write_text(search_space.to_yaml(source), encoding="utf-8")
        yield str(file)


def from_run(request: Request, source: Run) -> Run:
    """Begin a run that continues another one, which has finished all steps before the verb.

    Raises UsageError for a scale, a space or a genotype other than the other run's; else as
    `new_run.fresh`.
    """
    run_folder.require(source, until=request.verb)
    step_records.require_weights(source)
    config = run_settings.continued(
        source, request.over(run_settings.inherit(source, request.verb))
    )
    pixels = run_settings.space_of(source).pixels
    config = _for_one_size(config, pixels, config.quantize.patch)
    return together(request.verb, config, lambda: _fresh(request, config, source))


def to_train(request: Request, source: str | PathLike[str] | SearchSpace) -> Run:
    """Begin a run to train in, from a searched run, a genotype, or a space without choices.

    Raises UsageError for any other source; else as `from_run` and `from_space`.
    """
    if isinstance(source, SearchSpace):
        _require_decided(source)
        return from_space(request, source)
    path = Path(source)
    if path.is_dir():
        return from_run(request, run_folder.existing(path))
    if path.suffix == ".json":
        neighbour = path.parent / "space.yaml"
        space = request.given("space") or (
            str(neighbour) if neighbour.exists() else genotype.load(path).space
        )
        return from_space(request.but(space=space, genotype=str(path)))
    if str(source) not in search_space.builtin() and not path.exists():
        raise UsageError(
            f"There is no run folder, genotype or space '{source}'.",
            "Check the path, or choose a fixed network from `quantnas spaces`.",
        )
    _require_decided(search_space.load(str(source), request.given("scale")), str(source))
    return from_space(request, str(source))


def _require_decided(space: SearchSpace, name: str | None = None) -> None:
    """Raise UsageError for a space with open choices."""
    count = sum(slot.options > 1 for slot in registry.slots(space))
    if count:
        named = name or space.name
        raise UsageError(
            f"Space '{named}' leaves {count} choices open.",
            f"Search first: quantnas search {shlex.quote(named)}; then train the run that it made.",
        )


def to_quantize(request: Request, source: str | PathLike[str], watch: Watcher = SILENT) -> Run:
    """Begin a run to quantize in, from a trained run, float weights, or an ONNX file.

    The facts about an ONNX file reach the watcher as notes of a record, before the run begins.
    Raises DataError for a missing path; else as `from_run`, `from_weights`, `from_onnx`.
    """
    path = Path(source)
    if not path.exists():
        raise DataError(
            f"There is no {path}.",
            "Give the folder of a trained run, a safetensors file of weights, or an ONNX file.",
        )
    if path.is_dir():
        return from_run(request, run_folder.existing(path))
    file_kinds.require_no_checkpoint(path)
    return (from_onnx if path.suffix == ".onnx" else from_weights)(request, path, watch)


def from_weights(request: Request, weights: Path, watch: Watcher = SILENT) -> Run:
    """Begin a run with the pre-trained float weights in a safetensors file, in place of a training.

    Without a space among the settings, it is the one that the file names. Raises as
    `pretrained.adopt`, and UsageError where neither names a space.
    """
    pretrained.require_float(weights)
    stated = pretrained.space_of(weights)
    if request.given("space") is None and stated is not None:
        request = request.but(space=stated[0], scale=request.given("scale") or stated[1])
    config = request.but(train__start=str(weights)).over({})
    unnamed = request.given("space") is None and config.space == RunConfig.space
    if unnamed and config.genotype is None:
        raise UsageError(
            f"{weights} does not say which network its weights are of.",
            pretrained.instead(
                weights, "Give --space, and --genotype where it leaves choices open."
            ),
        )
    return _fresh(request, config, complete=partial(pretrained.adopt, weights=weights))


def from_onnx(request: Request, file: Path, watch: Watcher = SILENT) -> Run:
    """Begin a run with the imported network of an ONNX file.

    Raises as `onnx_survey.survey`, and UsageError where a space or a genotype is given too.
    """
    for setting in ("space", "genotype"):
        if request.given(setting) is not None:
            raise UsageError(
                f"`{setting}` is given, but {file} brings its own network.", "Leave it out."
            )
    config = request.over({})
    _require_images(config)
    survey = onnx_survey.survey(file, config.pixels)
    watch(Progress("import", 1, 1, {}, tuple(onnx_survey.lines(survey))))
    config = _for_one_size(config, survey.space.pixels, request.given("quantize.patch"))
    with _path_of(survey.space) as path:
        complete = partial(pretrained.adopt, weights=file)
        return _fresh(request, replace(config, space=str(path)), complete=complete)


def _require_images(config: RunConfig) -> None:
    """Raise DataError for a folder of photographs that does not exist or holds no images.

    It is called before a network is imported, which takes long.
    """
    for folder in (config.quantize.calib, config.data, config.eval_data, *config.benchmarks):
        if folder is not None:
            image_files.find(folder)


def _for_one_size(config: RunConfig, pixels: Pixels, asked: int | None) -> RunConfig:
    """The settings with calibration crops that fit a network which takes images of one size.

    asked: the crops that are asked for, pixels; smaller ones are extended. None: whole images.
    """
    if pixels.only is None:
        return config
    most = min(pixels.only) - 2 * pixels.border
    patch = most if asked is None else min(asked, most)
    return replace(config, quantize=replace(config.quantize, patch=patch))


def together(
    verb: str, config: RunConfig, begin: Callable[[], Run], before: Run | None = None
) -> Run:
    """Launch the other processes if several share a step, then begin or continue a run.

    before: the run itself, if it was interrupted. Raises UsageError as `processes.check`, and for
    steps with different numbers of processes above 1.
    """
    left = [step for step in SHARED.get(verb, ()) if before is None or not before.result(step)]
    counts = {step: getattr(config, step).processes for step in left}
    several = {step: number for step, number in counts.items() if number > 1}
    if len(set(several.values())) > 1:
        numbers = " and ".join(f"`{step}.processes` is {n}" for step, n in several.items())
        raise UsageError(f"{numbers}.", "Give both the same number, or one of them 1.")
    number = max(counts.values(), default=1)
    processes.launch(number, number > 1 and processes.device(config).type == "cuda")
    return begin()


def interrupted(path: str | PathLike[str], verb: str | None = None) -> tuple[str, Run]:
    """The (verb, run) to be continued; launches the other processes if several share a step.

    The verb is by default the one that began the run. Raises DataError for a folder that holds no
    run, UsageError for a run of another verb.
    """
    run = run_folder.existing(Path(path))
    begun = _begun_by(run)
    verb = verb or (begun if begun in (*RESUMABLE, "export") else "run")
    where = shlex.quote(str(run.folder))
    if begun in RESUMABLE and begun not in (verb, "run"):
        goes_on = verb in ("train", "quantize")  # the other verbs begin with a search space
        other = f"; or go on from it in a folder of its own: quantnas {verb} {where}"
        raise UsageError(
            f"{run.folder} is a run of `quantnas {begun}`, not one of `quantnas {verb}`.",
            f"Continue it with: quantnas {begun} --resume {where}{other if goes_on else ''}",
        )
    return verb, together(verb, run_settings.load_config(run), lambda: run, run)


def _begun_by(run: Run) -> str | None:
    """The verb that began a run; None if env.json does not tell."""
    there = (run.folder / "env.json").exists()
    record = step_results.environment(run.folder) if there else {}
    words = record.get("command", [])  # all that older versions recorded
    verb: str | None = record.get("verb") or (words[1] if len(words) > 1 else None)
    return verb
