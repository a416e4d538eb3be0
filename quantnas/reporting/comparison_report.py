"""Evaluation folder: tables and pictures of several models measured on the same photographs."""

import re
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from quantnas.config import files
from quantnas.data import bicubic, photographs
from quantnas.errors import DataError, QuantnasError, UsageError
from quantnas.evaluation import model_comparison, scoring, tables
from quantnas.evaluation.model_comparison import PhotoSet
from quantnas.evaluation.scoring import Score
from quantnas.inference.upscaler import Upscaler
from quantnas.progress import Progress
from quantnas.reporting.plots import error_map, pareto_front
from quantnas.runs import environment, run_folder
from quantnas.runs.models import Model, resolve


@contextmanager
def new_folder(output: Path, name: str | None, models: Sequence[Model]) -> Iterator[Path]:
    """Create the folder output/evaluate/name; it is removed when the evaluation fails."""
    default = slug(models[0].name) if len(models) == 1 else "comparison"
    made = run_folder.create(output, "evaluate", name, default)
    try:
        yield made.folder
    except BaseException:
        shutil.rmtree(made.folder)
        raise


def perform(
    models: Sequence[Model], sets: Sequence[PhotoSet], folder: Path, plot: bool, published: bool
) -> Generator[Progress, None, dict[str, Any]]:
    """Measure models on sets; write evaluation.json, evaluation.md and pictures into a folder.

    Returns the content of evaluation.json.
    """
    upscalers = {model.name: model.upscaler() for model in models}
    references = _float_networks(models, upscalers)
    table = yield from model_comparison.measure(upscalers, sets, models[0].scale, references)
    found = model_comparison.collect(models, sets, table)
    done = 0
    for group in sets:
        for model in models:
            name = f"difference-{slug(group.name)}-{slug(model.name)}.png"
            rows = table[group.name][model.name]
            _difference(model, upscalers[model.name], group, rows, folder / "plots" / name)
            found["sets"][group.name]["models"][model.name]["plot"] = name
            done += 1
            yield Progress("pictures", done, len(sets) * len(models), {})
    if plot:
        name = "front.png"
        pareto_front.draw(_panels(found, published), found["protocol"], folder / "plots" / name)
        found["plot"] = name
    found["environment"] = environment.environment()
    files.write_text(folder / model_comparison.FILE, files.to_json(found))
    files.write_text(folder / "evaluation.md", tables.markdown(folder.name, found))
    return found


def _float_networks(
    models: Sequence[Model], upscalers: Mapping[str, Upscaler]
) -> dict[str, Upscaler]:
    """Name of each quantized model whose run holds its float network -> that one as an upscaler."""
    loaded = {model.file.resolve(): upscalers[model.name] for model in models}
    references = {}
    for model in models:
        # the comparison with it is an extra: what is wrong with that checkpoint is no error here
        with suppress(QuantnasError):
            file = _float_checkpoint(model)
            if file is not None:
                loaded[file] = loaded.get(file) or _of_scale(file, model.scale).upscaler()
                references[model.name] = loaded[file]
    return references


def _float_checkpoint(model: Model) -> Path | None:
    """The float network that a model was quantized from; None where its run does not tell.

    A file that is not named by its run counts as the run's if the run has recorded its content.
    """
    run = model.run or run_folder.Run(model.file.parent)
    file = (run.folder / "checkpoints" / "float.safetensors").resolve()
    if model.is_float or not file.exists():
        return None
    exported = None if model.run else run.result("export") or {}
    known = exported is None or exported.get("sha256") == files.sha256(model.file)
    return file if known else None


def _of_scale(file: Path, scale: int) -> Model:
    """The model in a checkpoint. Raises DataError for another scale, and as `resolve`."""
    model = resolve(str(file))
    if model.scale != scale:
        raise DataError(
            f"{file} is x{model.scale}, not x{scale}.", "Give the checkpoint's own run."
        )
    return model


def _difference(
    model: Model, upscale: Upscaler, group: PhotoSet, rows: Sequence[Score], path: Path
) -> None:
    """Draw the error map of the photograph on which a model gains least over bicubic."""
    row = scoring.worst(rows)
    pair = photographs.read(group.photos[rows.index(row)], model.scale)
    views = {
        "bicubic": bicubic.upscale(pair.low, model.scale),
        model.name: upscale(pair.low),
        "original": pair.high,
    }
    most = f", the {tables.extreme(row.gain)} of {len(rows)} photographs" if len(rows) > 1 else ""
    title = (
        f"{row.image} ({group.name}, x{model.scale}): {model.name} is "
        f"{tables.beside_bicubic(row.gain)}{most}"
    )
    error_map.draw(views, model.scale, title, path)


def _panels(found: Mapping[str, Any], published: bool) -> list[pareto_front.Panel]:
    """Return the panels of the Pareto fronts from the result of `model_comparison.collect`."""
    panels = []
    for name, group in found["sets"].items():
        points = tuple(
            pareto_front.ParetoPoint(label, model["cost"]["bitops"][tables.AT],
                        group["models"][label]["mean"]["psnr"], model["float"])
            for label, model in found["models"].items()
        )  # fmt: skip
        title = f"{name} ({tables.photos(group)}), x{found['scale']}"
        beside = published and pareto_front.beside_published(name, found["scale"])
        panels.append(pareto_front.Panel(title, group["bicubic"]["psnr"], points, beside))
    return panels


def require_plot(models: Sequence[Model], sets: Sequence[PhotoSet], published: bool) -> None:
    """Raise UsageError unless costs are known and, with `published`, x4 Set14 is measured."""
    unknown = [model.what for model in models if model.cost is None]
    if unknown:
        raise UsageError(
            f"{unknown[0]} is of an older version and does not record its BitOps.",
            "Export it again, or leave --plot out.",
        )
    if published and models[0].scale != pareto_front.PUBLISHED_SCALE:
        raise UsageError(
            f"The published points are of x{pareto_front.PUBLISHED_SCALE}, but the models are of "
            f"x{models[0].scale}.",
            f"Leave --published out, or compare models of x{pareto_front.PUBLISHED_SCALE}.",
        )
    if published and not any(group.name.lower() == pareto_front.PUBLISHED_SET for group in sets):
        raise UsageError(
            "The published points are of Set14, and no set of that name is measured.",
            "Add --data with a folder named Set14, or leave --published out.",
        )


def slug(name: str) -> str:
    """Return a name in a form that can be part of a file name."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "it"
