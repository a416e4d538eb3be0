"""Checks the Python API: its verbs, what a watcher sees and stops, and what is refused."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import quantnas
from quantnas import api
from quantnas.api import catalogue, information, model_verbs, reports, run_verbs
from quantnas.config import search_space
from quantnas.config.run_config import QuantizeConfig, RunConfig
from quantnas.data import image_files
from quantnas.errors import DataError, QualityError, QuantnasError, UsageError
from quantnas.evaluation import quantization_loss
from quantnas.pipeline import steps
from quantnas.pipeline.run_sources import Request
from quantnas.runs import watcher
from quantnas.sweeps import scheduler
from quantnas.sweeps.progress import Overview, Standing

FEW = {"quantize.steps": 2, "quantize.crops": 2, "quantize.batch": 2, "quantize.patch": 12}
SEARCH = {"epochs": 2, "warmup_epochs": 1, "steps_per_epoch": 2, "batch": 2, "patch": 12}
TRAIN = {"float_steps": 2, "qat_steps": 2, "batch": 2, "patch": 12}


class Upscaler(nn.Module):
    """A third-party network: batch norm, PReLU, a residual, and the enlarged input added."""

    def __init__(self, channels: int = 3, mode: str = "nearest") -> None:
        super().__init__()
        self.mode = mode
        self.head = nn.Conv2d(channels, 8, 3, padding=1)
        self.act = nn.PReLU(8)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.tail = nn.Conv2d(8, 4 * channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.head(x))
        large = nn.functional.pixel_shuffle(self.tail(y + self.body(y)), 2)
        return large + nn.functional.interpolate(x, scale_factor=2, mode=self.mode)


class Told(watcher.Watcher):
    """A watcher that keeps the events, and may raise after some records of a phase."""

    def __init__(self, phase: str = "", after: int = 0) -> None:
        self.events: list[str] = []
        self.phase, self.left = phase, after

    def begin(self, run):
        self.events.append(f"begin {run.folder.name}")

    def __call__(self, record):
        self.events += [] if record.phase in self.events else [record.phase]
        if record.phase == self.phase:
            self.left -= 1
            if self.left == 0:
                raise InterruptedError(self.phase)

    def finish(self, step, seconds):
        self.events.append(f"{step} {'before' if seconds is None else 'now'}")

    def end(self):
        self.events.append("end")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with two photographs in `photos`."""
    monkeypatch.chdir(tmp_path)
    y, x = np.mgrid[:96, :120]
    for k in range(2):
        waves = [np.sin(y / (3 + k + c)) + np.cos(x / (4 + c)) for c in range(3)]
        image = (np.stack(waves, -1) * 50 + 128).astype(np.uint8)
        image_files.write(tmp_path / "photos" / f"{k}.png", image)
    return tmp_path


@pytest.fixture
def spaces(here, tiny):
    """Quick settings for all steps, with the two photographs to evaluate on."""
    return {"eval_data": "photos", "search": SEARCH, "train": TRAIN, **FEW}


# The package


def test_the_package_offers_the_verbs_and_loads_nothing():
    code = "import sys, quantnas; print(dir(quantnas)); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"'{name}'" in done.stdout for name in quantnas.__all__)
    assert all(hasattr(api, name) for name in quantnas.__all__)
    assert quantnas.benchmark is model_verbs.benchmark
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = quantnas.nothing


def test_every_verb_is_documented_with_an_example():
    for name in quantnas.__all__:
        verb = getattr(api, name)
        if not isinstance(verb, type):
            text = inspect.getdoc(verb)
            assert f"\nExample:\n    ```python\n    quantnas.{name}(" in text, name
            assert all(f"\n{head}:\n" in text for head in ("Args", "Returns", "Raises")), name
            described = re.findall(r"^    (\w+): \S", text, re.M)
            assert set(inspect.signature(verb).parameters) <= set(described), name


# Settings


def test_arguments_win_over_settings_and_these_over_the_configuration(here):
    config = RunConfig(seed=3, quantize=QuantizeConfig(minutes=5.0, rate=0.1))
    asked = Request("run", config, {"seed": 4, "quantize.steps": 9}).over({"scale": 2})
    assert (asked.seed, asked.scale, asked.quantize.rate) == (4, 2, 0.1)
    assert (asked.quantize.steps, asked.quantize.minutes) == (9, None)
    Path("c.yaml").write_text("seed: 5\nsearch: {epochs: 9}\n")
    asked = Request("run", "c.yaml", {"search": {"batch": 4}}).over({})
    assert (asked.seed, asked.search.epochs, asked.search.batch) == (5, 9, 4)
    assert Request("run", {"search.epochs": 9}).over({}).search.epochs == 9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"bits": 2, "average_bits": 3}, "`bits` and `average_bits` are both given"),
        ({"bits": 5}, "'bits' cannot be 5"),
        ({"bits": "w2"}, "`bits` cannot be 'w2'"),
        ({"settings": {"quantize.stepps": 2}}, "unknown key 'quantize.stepps'"),
        ({"settings": {"space": "espcn"}}, "`space` is given, but .* brings its own network"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_made(here, arguments, words):
    with pytest.raises(UsageError, match=words):
        run_verbs.quantize(Upscaler(), **arguments)
    assert not Path("runs").exists()


# Modules


@pytest.mark.parametrize(("channels", "mode"), [(3, "nearest"), (1, "bicubic")])
def test_a_module_becomes_a_verified_file(here, capfd, channels, mode):
    torch.manual_seed(0)
    net, told = Upscaler(channels, mode), Told()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    run = run_verbs.quantize(net, bits=2, calib="photos", settings=FEW, watch=told)
    file = run.export("small.onnx")
    assert file == Path("small.onnx") and run.folder == Path("runs/quantize/Upscaler")
    assert net.training and all(map(torch.equal, before.values(), net.state_dict().values()))
    assert told.events[:2] == ["import", "begin Upscaler"] and "quantize now" in told.events
    assert told.events[-1] == "end" and "evaluate held-out" in told.events
    assert run.result("export")["verification"]["max_steps"] <= 2
    model = model_verbs.load(file)
    assert model.scale == 2 and not model.is_float
    assert model.cost.layers[1].weight_bits == 2
    low = np.zeros((6, 9, channels), np.uint8) if channels == 3 else np.zeros((6, 9), np.uint8)
    assert model_verbs.upscale(low, file).shape == (12, 18, *low.shape[2:])
    assert capfd.readouterr() == ("", "")


def test_modules_are_measured_beside_files(here):
    torch.manual_seed(0)
    nets = [Upscaler(), Upscaler()]
    found = model_verbs.evaluate([*nets, "plain-x2"], "photos", name="mine")
    assert found.folder == Path("runs/evaluate/mine")
    assert [*found.result["models"]] == ["Upscaler-1", "Upscaler-2", "plain-x2"]
    assert found.result["models"]["Upscaler-1"]["what"] == "module Upscaler"
    assert found.psnr("plain-x2") > 20 > found.psnr("Upscaler-1", "photos") - 10
    assert json.loads((found.folder / "evaluation.json").read_text())["scale"] == 2
    times = model_verbs.benchmark(nets[0], size=(24, 32), rounds=3, per_layer=True)
    assert times.result.rows[0].name == "Upscaler" and times.layers["Upscaler"]
    grey = model_verbs.benchmark(Upscaler(1), size=(24, 32), rounds=3)
    assert grey.result.rounds == 3
    assert model_verbs.load(nets[0]).upscaler()(np.zeros((6, 9, 3), np.uint8)).shape == (12, 18, 3)


class Fixed(nn.Module):
    """A module that adds a number which depends on the content of the image."""

    def forward(self, x):
        return nn.functional.interpolate(x, scale_factor=2) + float(x.sum())


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nn.Linear(3, 3), "The module Linear cannot enlarge an image: "),
        (nn.Conv2d(4, 4, 3), "The module Conv2d cannot enlarge an image: "),
        (nn.Conv2d(3, 3, 3, padding=1), "it does not enlarge them"),
        (Fixed(), "The module Fixed computes something else as ONNX at 56x40 pixels"),
    ],
)
def test_modules_that_cannot_be_taken_are_refused(here, net, words):
    with pytest.raises(DataError, match=words):
        run_verbs.quantize(net, bits=4)
    assert not Path("runs").exists()


# Runs


def test_all_verbs_in_a_row(here, tiny, spaces):
    found = run_verbs.search(tiny, config=spaces, name="a")
    assert found.folder == Path("runs/search/a") and found.result("search")
    assert json.loads((found.folder / "env.json").read_text())["verb"] == "search"
    trained = run_verbs.train(found, float_steps=3)
    assert trained.folder == Path("runs/train/a") and trained.result("train")
    small = run_verbs.quantize(trained, bits="w2a4", steps=1)
    file = run_verbs.export(small.folder, "b.onnx", compat=True, name="b")
    assert file.exists() and not small.result("export")
    assert (Path("runs/export/b") / "model.onnx").read_bytes() == file.read_bytes()
    assert run_verbs.export(small) == small.folder / "model.onnx"
    assert model_verbs.load(small).run.folder == small.folder
    given = run_verbs.train(found.folder / "genotype.json", config=spaces, name="given")
    assert given.result("train")
    with pytest.raises(UsageError, match=r"Space 'tiny' leaves \d+ choices open"):
        run_verbs.train(tiny)
    with pytest.raises(DataError, match="The step 'train' has not finished"):
        run_verbs.quantize(found, bits=2)


@pytest.mark.slow
def test_a_whole_run(here, tiny, spaces):
    told = Told()
    run = run_verbs.run(tiny, config=spaces, watch=told)
    assert (run.folder / "report.html").exists() and (run.folder / "model.onnx").exists()
    assert [e for e in told.events if e.endswith("now")] == [
        f"{step} now" for step in ("search", "train", "quantize", "export", "evaluate", "report")
    ]


@pytest.mark.parametrize("phase", ["float", "rounded"])
def test_what_a_watcher_stops_goes_on_bit_for_bit(here, source, phase):
    how = {"settings": {"train": TRAIN | {"float_steps": 4, "qat_steps": 4}}}
    one = run_verbs.train(source, name="one", **how)
    with pytest.raises(InterruptedError):
        run_verbs.train(source, name="two", watch=Told(phase, after=2), **how)
    two = run_verbs.Run(Path("runs/train/two"))
    assert two.resumable and two.result("train") is None
    told = Told()
    assert run_verbs.resume(two.folder, watch=told) == two
    assert told.events[:2] == ["begin two", "search before"] and "train now" in told.events
    for name in ("float", "trained"):
        first, second = (load_file(run.weights(name)) for run in (one, two))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    with pytest.raises(UsageError, match="is a run of `quantnas train`"):
        run_verbs.resume(two, verb="quantize")


def test_a_quantization_is_stopped_and_finished(here):
    torch.manual_seed(0)
    settings = FEW | {"quantize.steps": 4}
    with pytest.raises(InterruptedError):
        run_verbs.quantize(Upscaler(), bits=4, settings=settings, watch=Told("quantize", after=2))
    run = run_verbs.resume("runs/quantize/Upscaler")
    assert run.result("quantize") and (run.folder / "drop.json").exists()


def test_a_result_that_is_too_bad_is_kept_and_its_folder_named(here, source, monkeypatch):
    monkeypatch.setattr(
        quantization_loss, "load", lambda run: [quantization_loss.Drop("a", 20.0, 30.0, 10.0, 1)]
    )
    with pytest.raises(QualityError, match="Quantization costs 10") as error:
        run_verbs.quantize(source, bits=2, max_drop=0.0, settings=FEW)
    kept = run_verbs.Run(error.value.folder)
    assert kept.result("quantize") and kept.export("kept.onnx").exists()


def test_a_folder_in_which_nothing_was_made_is_removed(here, tiny, spaces, monkeypatch):
    def refuse(run, config):
        raise DataError("No.", "Yes.")
        yield

    monkeypatch.setitem(steps.STEPS, "search", refuse)
    told = Told()
    with pytest.raises(DataError, match="No"):
        run_verbs.search(tiny, config=spaces, watch=told)
    assert not Path("runs/search/tiny").exists() and told.events == ["begin tiny", "end"]


def test_a_run_stays_when_its_export_fails(here, source, monkeypatch):
    def refuse(run, config):
        raise UsageError("No.", "Yes.")
        yield

    run = run_verbs.quantize(source, bits=8, settings=FEW | {"quantize.steps": 0})
    monkeypatch.setitem(steps.STEPS, "export", refuse)
    with pytest.raises(UsageError):
        run.export("a.onnx")
    assert run.result("quantize") and not Path("a.onnx").exists()
    with pytest.raises(UsageError):
        run.export("a.onnx", compat=True)
    assert not [*Path("runs/export").iterdir()]


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: run_verbs.quantize("nothing"), DataError, "There is no nothing"),
        (lambda: run_verbs.quantize("plain-x2", bits=2), DataError, "is quantized already"),
        (lambda: model_verbs.load("nothing"), UsageError, "no run folder, file or bundled model"),
        (
            lambda: run_verbs.train("nothing"),
            UsageError,
            "no run folder, genotype or space 'nothing'",
        ),
        (lambda: run_verbs.resume("photos"), DataError, "photos is not a run folder"),
        (lambda: run_verbs.export("photos"), DataError, "photos is not a run folder"),
        (lambda: run_verbs.export("runs", "no/a.onnx"), DataError, "folder 'no' does not exist"),
        (
            lambda: run_verbs.export("runs", "a.tflite", format="float"),
            UsageError,
            "the format is float",
        ),
        (
            lambda: model_verbs.evaluate(["plain-x2", "plain-x3"]),
            UsageError,
            "Compare models of one scale",
        ),
        (lambda: model_verbs.benchmark("plain-x2", threads=0), UsageError, "must be at least 1"),
        (lambda: model_verbs.upscale(np.zeros((4, 4, 4), np.uint8)), UsageError, "shape 4 x 4 x 4"),
        (lambda: model_verbs.upscale(np.zeros((4, 4, 3))), UsageError, "The image is float64"),
    ],
)
def test_what_cannot_be_is_an_error_of_the_project(here, act, error, words):
    with pytest.raises(error, match=words):
        act()
    assert not Path("runs").exists()


def test_bundled_models_upscale_colour_and_grey(here):
    low = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    large = model_verbs.upscale(low)
    assert large.shape == (40, 60, 3) and large.dtype == np.uint8
    model = model_verbs.load("plain-x2")
    assert np.array_equal(model_verbs.upscale(low, model), large)
    grey = model_verbs.upscale(low[:, :, 0], model)
    assert grey.shape == (40, 60)
    assert int(np.abs(model_verbs.upscale(low, model, tile=12).astype(int) - large).max()) <= 1


# Files, reports, sweeps


def test_photographs_in_folders_are_enlarged_into_files(here):
    made = api.upscale_files("photos", "large")
    assert [(before, after) for _, before, after in made.done] == [((96, 120), (192, 240))] * 2
    assert not made.failed and len([*Path("large").glob("*_x2.png")]) == 2
    with pytest.raises(UsageError, match="exists already"):
        api.upscale_files(["photos"], "large")
    assert api.upscale_files("photos", "large", skip_existing=True).done == ()
    with pytest.raises(UsageError, match=r"`scale` is 3, but .* enlarges x2"):
        api.upscale_files("photos", "large", model="plain-x2", scale=3, overwrite=True)


def test_a_page_is_named_as_one_and_overwrites_no_other_file_unasked(here):
    with pytest.raises(UsageError, match=r"`output` page\.txt is no page"):
        api.report("photos", "page.txt")
    Path("a.html").write_text("mine")
    assert reports.would_overwrite("photos", "a.html") == Path("a.html")
    assert reports.would_overwrite("photos", None) is None
    with pytest.raises(DataError, match="photos is not a run folder"):
        api.report("photos")


class Followed(api.SweepWatcher):
    """A watcher that keeps the events of a sweep."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def plan(self, points):
        self.events.append([point.name for point in points])

    def begin(self, folder):
        self.events.append(folder.name)

    def __call__(self, overview):
        self.events.append(overview.count("failed"))

    def end(self):
        self.events.append("end")


def test_a_watcher_is_told_of_a_sweep_and_its_tables_are_written(here, tiny, spaces, monkeypatch):
    Path("tiny.yaml").write_text(search_space.to_yaml(tiny), encoding="utf-8")
    failed = Standing("seed1", "failed", 0.0, {}, "It is odd.", "Take an even one.")
    overview = Overview((Standing("seed0", "waiting", 0.0, {}), failed), 0.0, None)
    monkeypatch.setattr(scheduler, "perform", lambda folder, engine: (_ for _ in [overview]))
    watch = Followed()
    made = api.sweep("tiny.yaml", {"seed": [0, 1]}, config=spaces, name="both", watch=watch)
    assert watch.events == [["seed0", "seed1"], "both", 1, "end"]
    assert made.folder == Path("runs/sweep/both").resolve() and made.table.exists()
    assert (made.failed, made.best, made.page) == ((failed,), None, None)
    again = api.resume_sweep("runs/sweep/both", watch=watch)
    assert again == made
    with pytest.raises(UsageError, match="Nothing varies"):
        api.sweep("tiny.yaml")
    with pytest.raises(DataError, match="is no folder of a sweep"):
        api.resume_sweep("photos")


def test_what_a_network_costs_is_described(here):
    facts = information.describe("plain-x2", size=(10, 20))
    assert facts["scale"] == 2 and facts["totals"]["LR 10x20"]["low_resolution"] == (10, 20)
    assert facts["cost"].parameters == catalogue.card("plain-x2").parameters
    with pytest.raises(UsageError, match="`scale` is given, but plain-x2 has a scale"):
        information.describe("plain-x2", scale=3)


def test_an_error_names_the_module_and_not_a_temporary_file(tmp_path):
    module = nn.Conv2d(3, 3, 3, padding=1)
    with pytest.raises(QuantnasError, match=r"^The module Conv2d ") as error:
        api.quantize(module, bits=2, output=tmp_path)
    assert ".onnx" not in error.value.cause
