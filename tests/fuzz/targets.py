"""What reads the mutated files: commands where they are quick, else functions of the library.

A target has the files of the world that are mutated, and readers. Every reader gets the folder of
the world and the path of the mutated file, and may raise nothing but errors of the project.
"""

import base64
import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from quantnas.api import sweeps
from quantnas.architectures import network, registry
from quantnas.cli.main import main
from quantnas.config import search_space
from quantnas.data import image_files, photographs
from quantnas.evaluation import layer_damage, quantization_loss
from quantnas.onnx_import import importer, layer_analysis, parity
from quantnas.pipeline import initial_weights, new_run, pretrained, run_sources
from quantnas.reporting import html_charts, html_data, html_page, run_report
from quantnas.reporting.plots import inline_svg
from quantnas.runs import bundled_models, models, networks, resumable, run_folder, run_settings
from quantnas.sweeps import results_table, scheduler
from quantnas.training import checkpoint
from tests.fuzz import world as sound

Reader = Callable[[Path, Path], object]


@dataclass(frozen=True)
class Target:
    """Files of one kind, and what reads them."""

    files: tuple[str, ...]
    """Patterns of the files that are mutated, relative to the world."""
    readers: tuple[Reader, ...]


def command(*words: object) -> None:
    """Run a command of the tool without its output; its errors are raised."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main([*map(str, words), "--debug"])
        except SystemExit as end:
            if end.code not in (0, None, 2):
                raise AssertionError(f"exit code {end.code}") from end


def info(world: Path, file: Path) -> None:
    command("info", file)


def info_json(world: Path, file: Path) -> None:
    command("info", file, "--json", "--at", "20x30")


# Settings


def settings(world: Path, file: Path) -> None:
    request = run_sources.Request("run", config=file)
    new_run.prepare("run", request.over({}))


def dry_run(world: Path, file: Path) -> None:
    command("sweep", "--config", file, "--dry-run")


# Networks


def enlarge(world: Path, file: Path) -> None:
    low = np.full((12, 10, 3), 90, np.uint8)
    models.resolve(str(file)).upscaler()(low)


def upscale(world: Path, file: Path) -> None:
    out = world / "large.png"
    out.unlink(missing_ok=True)
    command("upscale", world / "photos" / "rgb.png", "-m", file, "-o", out)


def imported(world: Path, file: Path) -> None:
    found = importer.load(file)
    parity.check(found, file)
    layer_analysis.parts(found, search_space.Pixels())
    layer_analysis.require_several(found)


def weights(world: Path, file: Path) -> None:
    pretrained.require_float(file)
    pretrained.space_of(file)
    space = search_space.load(str(world / "space.yaml"))
    genotype = registry.known_genotype(space, world / "genotype.json")
    assert genotype is not None
    net = network.build(space, genotype, None)
    network.load(net, file, space)
    initial_weights.read_weights(net, file, space)


def card(world: Path, file: Path) -> None:
    with mock.patch.object(bundled_models, "FOLDER", world / "models"):
        command("models")
        command("models", "--json")


# Runs


def settings_of_run(world: Path, file: Path) -> None:
    run = run_folder.existing(_run(world, file))
    run_settings.load_config(run)
    run_sources.interrupted(run.folder)


def records(world: Path, file: Path) -> None:
    run = run_folder.Run(_run(world, file))
    run.records()
    run.forget("float", 3)
    assert isinstance(run.spent, float)
    resumable.threads_of(run, "float")


def drops(world: Path, file: Path) -> None:
    quantization_loss.load(run_folder.Run(_run(world, file)))


def damages(world: Path, file: Path) -> None:
    run = run_folder.Run(_run(world, file))
    layer_damage.predictions(run)
    layer_damage.load(run)


def network_of_run(world: Path, file: Path) -> None:
    run = run_folder.Run(_run(world, file))
    networks.quantized(run)
    networks.checkpoint(run, "float")


def text_report(world: Path, file: Path) -> None:
    run = run_folder.Run(_run(world, file))
    run_folder.require(run, until="report")
    run_report.markdown(run_report.collect(run))


def page_of_run(world: Path, file: Path) -> None:
    with contextlib.ExitStack() as patches:
        if file.name not in DRAWN:
            patches.enter_context(without_charts())
        _page(world, _run(world, file))


def without_charts() -> contextlib.AbstractContextManager[object]:
    """Leave the charts of a run out of pages, which take half a second each."""
    charts = dict.fromkeys(("curves", "alphas", "damage"))
    return mock.patch.object(html_charts, "of_run", return_value=charts)


def info_on_run(world: Path, file: Path) -> None:
    command("info", _run(world, file))


def model_of_run(world: Path, file: Path) -> None:
    models.resolve(str(_run(world, file)))


def _run(world: Path, file: Path) -> Path:
    """The run folder in which a file lies."""
    return world / file.relative_to(world).parts[0]


def _page(world: Path, folder: Path) -> None:
    page = world / "page.html"
    with mock.patch.object(inline_svg, "inline", return_value="<svg></svg>"):
        html_page.write(html_data.find([folder]), page)
    begin = base64.b64encode(sound.SECRET.encode()).decode()[:24]
    assert begin not in page.read_text(encoding="utf-8"), "the page holds a file from outside"


# Sweeps


class Idle:
    """An engine that never has room."""

    def room(self) -> bool:
        return False

    def start(self, job: object) -> None:
        raise AssertionError("a point was started without room for it")

    def ended(self) -> Iterator:
        return iter(())

    def stop(self) -> None:
        pass


def overview(world: Path, file: Path) -> None:
    steps = scheduler.perform(scheduler.existing(world / "sweep"), Idle())
    next(steps)
    steps.close()


def table(world: Path, file: Path) -> None:
    results_table.write(scheduler.existing(world / "sweep"))


def best_point(world: Path, file: Path) -> None:
    folder = scheduler.existing(world / "sweep")
    rows = results_table.rows(folder)
    assert sweeps.Sweep(folder, (), rows, folder / "sweep.md", None).failed == ()


def page_of_sweep(world: Path, file: Path) -> None:
    with without_charts():
        _page(world, world / "sweep")


# Photographs, and saved states


def photograph(world: Path, file: Path) -> None:
    height, width = image_files.size(file)
    assert image_files.read(file).shape == (height, width, 3)


def photograph_for_training(world: Path, file: Path) -> None:
    photographs.read(photographs.Photograph(file), 2)


def state(world: Path, file: Path) -> None:
    checkpoint.load(file, sound.parts())


RUN = (
    "config.yaml", "space.yaml", "env.json", "genotype.json", "precision.json", "damage.json",
    "damage_measured.json", "drop.json", "threads.json", "metrics.jsonl", "crops/crops.json",
    "steps/*.json",
)  # fmt: skip

DRAWN = ("metrics.jsonl", "damage_measured.json", "space.yaml")
"""Files of a run from which charts are drawn."""

TARGETS: dict[str, Target] = {
    "settings": Target(("settings.yaml",), (settings,)),
    "grid": Target(("grid.yaml",), (dry_run,)),
    "space": Target(("space.yaml",), (info, info_json)),
    "genotype": Target(("genotype.json",), (info, info_json)),
    "exported": Target(("own.onnx",), (info, info_json, enlarge, upscale)),
    "imported": Target(("foreign.onnx",), (imported, enlarge)),
    "weights": Target(("float.safetensors",), (weights,)),
    "card": Target(("models/card.json",), (card,)),
    "run": Target(
        tuple(f"finished/{name}" for name in RUN),
        (
            settings_of_run,
            records,
            drops,
            damages,
            network_of_run,
            text_report,
            page_of_run,
            info_on_run,
            model_of_run,
        ),
    ),
    "interrupted": Target(
        tuple(f"interrupted/{name}" for name in ("*.yaml", "*.json", "*.jsonl", "checkpoints/*")),
        (settings_of_run, records),
    ),
    "sweep": Target(
        (
            "sweep/sweep.yaml",
            "sweep/failed/*.json",
            "sweep/points/seed1/progress.json",
            "sweep/points/seed1/config.yaml",
            "sweep/points/seed1/steps/*.json",
        ),
        (overview, table, best_point, page_of_sweep),
    ),
    "photograph": Target(("photos/*",), (photograph, photograph_for_training)),
    "state": Target(("state.resume",), (state,)),
}
OFTEN = [name for name in TARGETS if name not in ("exported", "imported", "run", "sweep")] * 2
"""Targets that take little time."""
