"""How the run of a verb begins: from a search space, another run, a genotype, or a file of weights.

Settings are given in layers. What a step goes on from is the lowest one, then come a configuration
and single settings.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from quantnas.architectures import onnx_survey, registry
from quantnas.config import files, genotype, layered_settings, schema, search_space
from quantnas.config.run_config import RunConfig
from quantnas.config.search_space import SearchSpace
from quantnas.errors import DataError, UsageError
from quantnas.progress import Progress
from quantnas.runs import run_folder, run_settings
from quantnas.runs.run_folder import Run
from quantnas.runs.watcher import SILENT, Watcher
from quantnas.training import processes

from . import new_run, pretrained

SHARED = {"search": ("search",), "train": ("train",), "run": ("search", "train")}
"""Verb -> its steps that several processes may share."""
RESUMABLE = ("run", "search", "train", "quantize")
"""Verbs whose runs can be continued."""
SOURCE = "configuration"
"""What errors call settings that come from no file."""
Config = RunConfig | Mapping[str, Any] | str | PathLike[str]
"""A configuration, which counts where it differs from the defaults; settings; or a YAML file."""


@dataclass(frozen=True)
class Request:
    """What a caller asks of a new run."""

    verb: str
    config: Config | None = None
    settings: Mapping[str, Any] | None = None
    """`search.epochs` -> 30, or section -> settings; they are a layer over `config`."""
    output: Path = Path("runs")
    """The run folder is made in output/verb."""
    name: str | None = None
    """Name of the run folder; none = a free one."""

    def given(self, setting: str) -> Any:
        """The value of a single setting; none where it is not given."""
        return layered_settings.flat(self.settings or {}).get(setting)

    def but(self, **changes: Any) -> "Request":
        """The same with other single settings, a dot in whose name is written `__`."""
        told = {name.replace("__", "."): value for name, value in changes.items()}
        return replace(self, settings=layered_settings.flat(self.settings or {}) | told)

    def over(self, base: Mapping[str, Any]) -> RunConfig:
        """The settings over those of `base`.

        What a layer asks for replaces its rivals below, as `layered_settings.layered` says. Raises
        UsageError for what cannot be, DataError for a file that cannot be read.
        """
        source = str(self.config) if isinstance(self.config, str | PathLike) else SOURCE
        layers = (base, _layer(self.config), self.settings or {})
        return layered_settings.layered(RunConfig(), *layers, source=source)


def _layer(config: Config | None) -> Mapping[str, Any]:
    """A configuration as settings: those of a `RunConfig` that differ from the defaults."""
    if config is None:
        return {}
    if isinstance(config, RunConfig):
        default = layered_settings.flat(asdict(RunConfig()))
        mine = layered_settings.flat(asdict(config))
        return {name: value for name, value in mine.items() if value != default[name]}
    return config if isinstance(config, Mapping) else schema.read_yaml(Path(config))


def from_space(request: Request, source: str | PathLike[str] | SearchSpace | None = None) -> Run:
    """A new run that begins with nothing, or with what its settings name.

    Raises as `new_run.fresh`, and UsageError as `together`.
    """
    with _path_of(source) as path:
        config = (request.but(space=path) if path else request).over({})
        return together(request.verb, config, lambda: _fresh(request, config))


def _fresh(request: Request, config: RunConfig, source: Run | None = None) -> Run:
    return new_run.fresh(request.verb, request.output, request.name, config, source)


@contextmanager
def _path_of(source: str | PathLike[str] | SearchSpace | None) -> Iterator[str | None]:
    """The name or file of a search space; one that is no file is written as one."""
    if not isinstance(source, SearchSpace):
        yield None if source is None else str(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{source.name}.yaml"
        file.write_text(search_space.to_yaml(source), encoding="utf-8")
        yield str(file)


def from_run(request: Request, source: Run) -> Run:
    """A new run that goes on from another one, which has done all steps before the verb.

    Raises UsageError for a scale, a space or a genotype other than the other run's; else as
    `new_run.fresh`.
    """
    run_folder.require(source, until=request.verb)
    config = run_settings.continued(
        source, request.over(run_settings.inherit(source, request.verb))
    )
    return together(request.verb, config, lambda: _fresh(request, config, source))


def to_train(request: Request, source: str | PathLike[str] | SearchSpace) -> Run:
    """A new run to train in: of a run that has searched, a genotype, or a space without choices.

    Raises UsageError for what is none of these; else as `from_run` and `from_space`.
    """
    if isinstance(source, SearchSpace):
        _require_decided(source)
        return from_space(request, source)
    path = Path(source)
    if path.is_dir():
        return from_run(request, run_folder.existing(path))
    if path.suffix == ".json":
        beside = path.parent / "space.yaml"
        named = request.given("space") or (
            str(beside) if beside.exists() else genotype.load(path).space
        )
        return from_space(request.but(space=named, genotype=str(path)))
    if str(source) not in search_space.builtin() and not path.exists():
        raise UsageError(
            f"There is no run folder, genotype or space '{source}'.",
            "Check the path, or choose a fixed network from `quantnas spaces`.",
        )
    _require_decided(search_space.load(str(source), request.given("scale")), str(source))
    return from_space(request, str(source))


def _require_decided(found: SearchSpace, name: str | None = None) -> None:
    """Raise UsageError for a space with open choices."""
    count = sum(slot.options > 1 for slot in registry.slots(found))
    if count:
        named = name or found.name
        raise UsageError(
            f"Space '{named}' leaves {count} choices open.",
            f"Search first: quantnas search {named}; then train the run that it made.",
        )


def to_quantize(request: Request, source: str | PathLike[str], watch: Watcher = SILENT) -> Run:
    """A new run to quantize in: of a trained run, float weights, or an ONNX file.

    What is found out about an ONNX file is told as the notes of a record, before the run begins.
    Raises DataError for a path that is not there; else as `from_run`, `from_weights`, `from_onnx`.
    """
    path = Path(source)
    if not path.exists():
        raise DataError(
            f"There is no {path}.",
            "Give the folder of a trained run, a safetensors file of weights, or an ONNX file.",
        )
    if path.is_dir():
        return from_run(request, run_folder.existing(path))
    return (from_onnx if path.suffix == ".onnx" else from_weights)(request, path, watch)


def from_weights(request: Request, weights: Path, watch: Watcher = SILENT) -> Run:
    """A new run that has not trained, but taken the float weights in a safetensors file.

    Without a space among the settings it is the one that the file names. Raises as `pretrained.adopt`.
    """
    pretrained.require_float(weights)
    named = pretrained.space_of(weights)
    if request.given("space") is None and named is not None:
        request = request.but(space=named[0], scale=request.given("scale") or named[1])
    config = request.but(train__start=str(weights)).over({})
    unnamed = request.given("space") is None and config.space == RunConfig.space
    if unnamed and config.genotype is None:
        raise UsageError(
            f"{weights} does not say which network its weights are of.",
            pretrained.instead(
                weights, "Give --space, and --genotype where it leaves choices open."
            ),
        )
    return _taken(_fresh(request, config), weights)


def from_onnx(request: Request, file: Path, watch: Watcher = SILENT) -> Run:
    """A new run with the float network of an ONNX file, imported.

    Raises as `onnx_survey.survey`, and UsageError where a space or a genotype is given besides.
    """
    for setting in ("space", "genotype"):
        if request.given(setting) is not None:
            raise UsageError(
                f"`{setting}` is given, but {file} brings its own network.", "Leave it out."
            )
    config = request.over({})
    found = onnx_survey.survey(file, config.pixels)
    watch(Progress("import", 1, 1, {}, tuple(onnx_survey.lines(found))))
    with _path_of(found.space) as path:
        run = _fresh(request, replace(config, space=str(path)))
    return _taken(run, file)


def _taken(run: Run, file: Path) -> Run:
    """A run that has begun, with the network in a file; when that fails, no run is left."""
    try:
        pretrained.adopt(run, run_settings.load_config(run), file)
    except BaseException:
        shutil.rmtree(run.folder)
        raise
    return run


def together(
    verb: str, config: RunConfig, begin: Callable[[], Run], before: Run | None = None
) -> Run:
    """What `begin` gives, with the other processes there where several share a step of the run.

    before: the run itself, if it was interrupted. Raises UsageError as `processes.check`, and for
    steps that want different numbers of processes.
    """
    left = [step for step in SHARED.get(verb, ()) if before is None or not before.result(step)]
    wanted = {step: getattr(config, step).processes for step in left}
    several = {step: number for step, number in wanted.items() if number > 1}
    if len(set(several.values())) > 1:
        told = " and ".join(f"`{step}.processes` is {n}" for step, n in several.items())
        raise UsageError(f"{told}.", "Give both the same number, or one of them 1.")
    number = max(wanted.values(), default=1)
    processes.launch(number, number > 1 and processes.device(config).type == "cuda")
    return begin()


def interrupted(path: str | PathLike[str], verb: str | None = None) -> tuple[str, Run]:
    """(the verb, the run) to be finished, with the other processes there where it has several.

    Without a verb it is the one that began the run. Raises DataError for what is no run folder,
    UsageError for a run of another verb.
    """
    run = run_folder.existing(Path(path))
    begun = _begun_by(run)
    verb = verb or (begun if begun in (*RESUMABLE, "export") else "run")
    if begun in RESUMABLE and begun not in (verb, "run"):
        raise UsageError(
            f"{run.folder} is a run of `quantnas {begun}`, not one of `quantnas {verb}`.",
            f"Continue it with: quantnas {begun} --resume {run.folder}; or go on from it in a "
            f"folder of its own: quantnas {verb} {run.folder}",
        )
    return verb, together(verb, run_settings.load_config(run), lambda: run, run)


def _begun_by(run: Run) -> str | None:
    """The verb that began a run, where that is known; older versions kept the command alone."""
    path = run.folder / "env.json"
    told = files.read_json(path) if path.exists() else {}
    words = told.get("command", [])
    verb: str | None = told.get("verb") or (words[1] if len(words) > 1 else None)
    return verb
