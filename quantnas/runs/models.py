"""Models that can be evaluated: runs, their checkpoints, exported files, and bundled models.

The cards of bundled models are made here, so that their facts are read from the files themselves.
"""

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from quantnas.architectures import cost, onnx_survey
from quantnas.config import files, schema
from quantnas.errors import DataError, UsageError, missing
from quantnas.exporters import onnx_metadata
from quantnas.inference import tiling
from quantnas.inference.upscaler import Upscaler
from quantnas.onnx_import import file_forms, file_kinds, file_limits

from . import bundled_models, networks, run_folder, run_settings, step_results
from .bundled_models import Card, CardScores
from .run_folder import Run

KINDS = ("quantized", "trained", "float", "searched")
"""Checkpoints of a run, the most finished first; `searched` is not trained enough to be used."""


@dataclass(frozen=True)
class Model:
    """A super-resolution network in a file, and how to load it."""

    name: str
    what: str
    """Description of the file, in words."""
    scale: int
    file: Path
    cost: cost.Cost | None
    """The cost; None where a file of an older version does not state it in full."""
    network: Callable[[], tiling.Network]
    """Loads the network. Raises DataError when that fails."""
    run: Run | None = None
    """The run that the file belongs to; None for a lone file."""

    def upscaler(self) -> Upscaler:
        """The loaded network as an upscaler for scores, which do not depend on the memory.

        Photographs up to `tiling.LARGEST` stay whole where the receptive field is not limited; the
        tiles of other networks overlap by all of it.
        """
        return tiling.upscaler(replace(self.network(), largest=lambda: tiling.LARGEST))

    @property
    def is_float(self) -> bool:
        """Whether all weights and activations are in float."""
        layers = self.cost.layers if self.cost else ()
        return bool(layers) and all(row.weight_bits == row.act_bits == 32 for row in layers)


def resolve(text: str) -> Model:
    """The model that a text names: an ONNX file, a checkpoint, a bundled model, or a run folder.

    A run stands for its exported file, else for its quantized, trained or float checkpoint. Raises
    UsageError for a text that names nothing, DataError for a file of another kind.
    """
    path, shipped = Path(text), bundled_models.bundled()
    if path.suffix == ".onnx":
        inside = path.stem == "model" and (path.parent / "config.yaml").is_file()
        name = path.resolve().parent.name if inside else path.stem
        return _exported(path, name, f"ONNX file {path}")
    if path.suffix == ".safetensors":
        return _checkpoint(*_locate(path))
    if text in shipped:
        return _exported(shipped[text], text, f"bundled model {text}")
    if path.is_dir():
        return _of_run(run_folder.existing(path))
    if path.exists():
        file_kinds.require_no_checkpoint(path)
        raise DataError(
            f"{path} is neither an ONNX file (.onnx) nor a checkpoint (.safetensors).",
            "Give one of these, a run folder, or a bundled model.",
        )
    what = f"There is no run folder, file or bundled model '{text}'."
    raise UsageError(what, bundled_models.offer(shipped))


def resolve_all(texts: Sequence[str]) -> list[Model]:
    """The models that several texts name, under distinct names. Raises as `resolve`, `apart`."""
    return apart(texts, [resolve(text) for text in texts])


def apart(texts: Sequence[str], models: Sequence[Model]) -> list[Model]:
    """Give models distinct names, so that they can be compared; returns renamed copies.

    texts: the text that each was resolved from, empty for a model that came without one. Raises
    UsageError for different scales, and for a model that is listed twice.
    """
    for other in models[1:]:
        if other.scale != models[0].scale:
            raise UsageError(
                f"{texts[0] or models[0].what} is x{models[0].scale}, but {other.what} is "
                f"x{other.scale}.",
                "Compare models of one scale.",
            )
    twice = [str(file) for file, n in Counter(m.file.resolve() for m in models).items() if n > 1]
    if twice:
        raise UsageError(f"{twice[0]} is given twice.", "Name every model once.")
    return [replace(m, name=name) for m, name in zip(models, _names(texts, models), strict=True)]


def _names(texts: Sequence[str], models: Sequence[Model]) -> list[str]:
    """The models' names; equal ones become the shortest distinct ends of the models' paths."""
    count = Counter(model.name for model in models)
    paths = [Path(files.readable(text).removesuffix("/model.onnx")).parts for text in texts]
    ends = range(1, max(map(len, paths)) + 1)
    longer = ([str(Path(*path[-n:])) for path in paths] for n in ends)
    names = next((ends for ends in longer if len({*ends}) == len(ends)), texts)
    numbered = (f"{m.name}-{number}" for number, m in enumerate(models, 1))
    distinct = [name or other for name, other in zip(names, numbered, strict=True)]
    return [
        m.name if count[m.name] == 1 else name for m, name in zip(models, distinct, strict=True)
    ]


def _of_run(run: Run) -> Model:
    exported = run.folder / "model.onnx"
    name = run.folder.resolve().name
    if run.result("export") is not None and exported.exists():
        return _exported(exported, name, f"exported file {exported}", run)
    for kind in KINDS[:-1]:
        if (run.folder / "checkpoints" / f"{kind}.safetensors").exists():
            return _checkpoint(run, kind, name)
    raise DataError(
        f"{run.folder} holds no trained network yet.",
        f"Run `{shlex.join(['quantnas', 'train', str(run.folder)])}` first, or give a run that has "
        "it.",
    )


def _exported(path: Path, name: str, what: str, run: Run | None = None) -> Model:
    if not path.is_file():
        raise missing(path)
    if not onnx_metadata.exported_here(path):
        return _imported(path, name)
    stated = onnx_metadata.read_metadata(path)
    file_limits.require_small_constants(path)
    load = partial(tiling.load, path, stated.scale, stated.pixels)
    return Model(files.readable(name), what, stated.scale, path, stated.cost, load, run)


def _imported(path: Path, name: str) -> Model:
    """The model of a third party's ONNX file."""
    found = onnx_survey.survey(path)
    space, half = found.space, file_forms.HALF in found.notes
    load = partial(tiling.load, path, space.scale, space.pixels)
    return Model(
        files.readable(name),
        f"ONNX file {path}" + (" in half precision, counted in float32" if half else ""),
        space.scale,
        path,
        onnx_survey.float_cost(space),
        load,
    )


def _locate(path: Path) -> tuple[Run, str, str]:
    """Run, kind and name of a checkpoint. Raises DataError when it lies in no run folder."""
    if not path.is_file():
        raise missing(path)
    if path.stem not in KINDS or path.resolve().parent.name != "checkpoints":
        raise DataError(
            f"{path} is no checkpoint in a run folder: it says nothing about its architecture.",
            f"Give RUN/checkpoints/NAME.safetensors, where NAME is {', '.join(KINDS)}.",
        )
    run = run_folder.existing(
        path.parent.parent if path.parent.name else path.resolve().parent.parent
    )
    return run, path.stem, f"{run.folder.resolve().name} {path.stem}"


def _checkpoint(run: Run, kind: str, name: str) -> Model:
    space, net, totals = networks.checkpoint(run, kind)
    file = run.weights(kind)
    what, load = f"{kind} checkpoint {file}", partial(tiling.load, net, space.scale)
    return Model(files.readable(name), what, space.scale, file, totals, load, run)


# Bundled models


def facts(file: Path) -> dict[str, Any]:
    """The fields of a card that can be read from an exported file.

    Raises DataError for a file of an older version, which does not state its cost in full.
    """
    model = _exported(file, file.stem, str(file))
    if model.cost is None:
        raise DataError(f"{file} is of an older version.", "Export it again.")
    return {
        "sha256": files.sha256(file),
        "bytes": file.stat().st_size,
        "scale": model.scale,
        "parameters": model.cost.parameters,
        "bitops": model.cost.bitops,
        "bits": {row.name: (row.weight_bits, row.act_bits) for row in model.cost.layers},
    }


def make_card(
    source: Path, name: str, evaluation: Mapping[str, Any], texts: Mapping[str, Any]
) -> Card:
    """The card of an exported file, or of the run folder that holds it.

    `evaluation` is what `quantnas evaluate` wrote about this very file, `texts` the other fields
    of the card; a run folder supplies `space`, `luma_only`, `minutes`, `seed` and `made_by`.
    Raises UsageError for a missing or unknown field, DataError for the evaluation of another file.
    """
    file = source / "model.onnx" if source.is_dir() else source
    read = facts(file)
    labels = [k for k, m in evaluation["models"].items() if m["sha256"] == read["sha256"]]
    if not labels:
        raise DataError(f"The evaluation is not of {file}.", "Evaluate this file, and try again.")
    scores = {
        key: {
            field: group["models"][labels[0]]["mean"][field] for field in CardScores.__annotations__
        }
        for key, group in evaluation["sets"].items()
    }
    recorded = _recorded(run_folder.existing(source)) if source.is_dir() else {}
    rest = {"scores": scores, "protocol": evaluation["protocol"], "file": f"{name}.onnx"}
    card = {"name": name, **read, **rest, **recorded, **texts}
    return schema.parse(Card, card, f"card of {name}")


def _recorded(run: Run) -> dict[str, Any]:
    """The fields of a card that the run folder records."""
    space, _ = networks.architecture(run)
    spent = [run.result(step) or {} for step in ("search", "train", "quantize")]
    return {
        "space": space.name,
        "luma_only": space.colours == 1,
        "minutes": round(sum(float(step.get("seconds", 0)) for step in spent) / 60, 1),
        "seed": run_settings.load_config(run).seed,
        "made_by": shlex.join(step_results.environment(run.folder).get("command", [])),
    }


def bundle(card: Card, file: Path, folder: Path = bundled_models.FOLDER) -> Path:
    """Copy a file and its card into the folder of bundled models; the path of the copy."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / card.file
    files.copy(file, target)
    files.write_text(target.with_suffix(".json"), files.to_json(asdict(card)))
    return target
