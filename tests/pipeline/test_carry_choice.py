"""Checks the choice which tensors of an imported network are carried in 8 bits."""

import json
import os

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file

from quantnas.api import run_verbs
from quantnas.architectures import imported_onnx, onnx_survey, registry
from quantnas.config import genotype
from quantnas.config.run_config import QuantizeConfig, RunConfig
from quantnas.data import image_files
from quantnas.data.patches import Pair, Patches, Region
from quantnas.errors import UsageError
from quantnas.pipeline import carry_choice
from quantnas.quantization import carry
from quantnas.runs import networks, watcher
from quantnas.runs.run_folder import Run
from tests.onnx_import.chain_networks import CHANNELS, in_float, space_of

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def question(tmp_path, pixels):
    """A function (settings of `quantize`) -> a question about a small network."""
    space = space_of("leaky_relu", tmp_path)
    rng = np.random.default_rng(0)
    pair = Pair("it", *(rng.integers(0, 256, (n, n, 3), np.uint8) for n in (40, 80)))
    held = Patches((pair,), (Region(0, 0, 0, 40, 40),), 24, 0)
    precision = genotype.uniform_precision(registry.slots(space), 8)
    found, low = onnx_survey.genotype(space), pixels(4, 24, 20)

    def ask(**settings):
        config = RunConfig(quantize=QuantizeConfig(**settings))
        return carry_choice.Question(
            space, found, precision, in_float(space), low, [pixels(1, 30, 30)], held, config
        )

    return ask


def answered(question, monkeypatch=None, losses=None, times=None):
    """The choice; with `losses` and `times` in place of those that are measured."""
    if losses is not None:
        monkeypatch.setattr(carry_choice._Trial, "loss", lambda self, form, names: losses(names))
        monkeypatch.setattr(carry_choice._Trial, "times", lambda self: (dict(times), (128, 128)))
    steps = carry_choice.choose(question)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_all_tensors_or_none_are_carried_as_it_is_asked(question):
    asked = question(carry="integer")
    names = imported_onnx.carried(asked.space)
    found = answered(asked)
    assert found.tensors == names and not found.in_float and not found.forms
    assert found.damage.keys() == {*names} and found.mse > 0
    float_net = in_float(asked.space)
    found = answered(question(carry="float"))
    assert found == carry.Carry(in_float=names)
    assert all(map(torch.equal, float_net.parameters(), in_float(asked.space).parameters()))


def test_both_forms_are_measured(question):
    found = answered(question(carry="auto", carry_drop=50.0))
    assert found.forms.keys() == {"integer", "float", "chosen", "original"} and found.size == (
        128,
        128,
    )
    assert found.forms["integer"].loss > found.forms["float"].loss >= 0
    assert all(form.milliseconds > 0 for form in found.forms.values())
    assert found.forms["chosen"] in (found.forms["integer"], found.forms["float"])


FAST = {"integer": 1.0, "float": 3.0, "chosen": 1.5, "original": 2.0}


def test_the_costliest_tensors_are_freed_until_the_loss_is_small(question, monkeypatch):
    asked = question(carry="auto", train="none", carry_drop=0.15)
    count = len(imported_onnx.carried(asked.space))

    def loss(names):
        return 0.2 * len(names) / count

    found = answered(asked, monkeypatch, loss, FAST)
    assert 0 < len(found.in_float) < count and len(found.tensors) + len(found.in_float) == count
    price = imported_onnx.carried_costs(asked.space)
    worth = {name: damage / price[name] for name, damage in found.damage.items()}
    assert min(worth[n] for n in found.in_float) >= max(worth[n] for n in found.tensors)
    retrained = answered(question(carry="auto", carry_drop=0.15), monkeypatch, loss, FAST)
    assert retrained.tensors == imported_onnx.carried(asked.space)  # retraining regains it


def test_the_slower_form_is_never_chosen(question, monkeypatch):
    times = {"integer": 2.0, "float": 1.0, "original": 2.0}
    found = answered(question(carry="auto"), monkeypatch, lambda names: 0.0, times)
    assert not found.tensors and found.forms["chosen"] == found.forms["float"]


def test_nothing_is_freed_that_makes_the_file_slower_than_the_float_file(question, monkeypatch):
    asked, times = question(carry="auto", train="none"), FAST | {"chosen": 2.5}
    found = answered(asked, monkeypatch, lambda names: 0.01 * len(names), times)
    assert found.tensors == imported_onnx.carried(asked.space)
    assert found.forms["chosen"] == found.forms["integer"]


def test_the_float_network_is_not_equalised_for_nothing(question, monkeypatch):
    asked, times = question(carry="auto"), {"integer": 2.0, "float": 1.0, "original": 2.0}
    answered(asked, monkeypatch, lambda names: 0.0, times)
    plain = in_float(asked.space)
    assert all(map(torch.equal, asked.teacher.parameters(), plain.parameters()))


SETTINGS = {
    "quantize.steps": 6,
    "quantize.crops": 4,
    "quantize.batch": 2,
    "quantize.patch": 16,
    "quantize.carry": "integer",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with photographs and a network."""
    monkeypatch.chdir(tmp_path)
    os.mkdir("photos")
    for i, file in enumerate(image_files.bundled().train[:3]):
        image_files.write(tmp_path / "photos" / f"{i}.png", image_files.read(file)[40:140, 60:200])
    return tmp_path


class Stopped(watcher.Watcher):
    """A watcher that stops a run in its retraining."""

    def __call__(self, record):
        if record.phase == "quantize":
            raise InterruptedError


def quantized(folder, name, watch=watcher.SILENT, **settings):
    """A run that quantizes the network with PReLUs to 8 bits."""
    source = space_of("prelu", folder).source
    every = SETTINGS | {f"quantize.{key}": value for key, value in settings.items()}
    return run_verbs.quantize(
        source, bits=8, calib="photos", name=name, settings=every, watch=watch
    )


def test_a_retrained_chain_is_verified_with_the_slopes_that_it_learned(here):
    run = quantized(here, "it")
    stated = json.loads((run.folder / "carried.json").read_text())
    assert stated["tensors"] and not stated["in_float"]
    file = run.export("small.onnx")
    found = run.result("export")["verification"]
    assert found["integer_convolutions"] == found["convolutions"] == 6
    slopes = [
        {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        for path in (here / "prelu.onnx", file)
    ]
    learned = [name for name, value in slopes[0].items() if value.shape == (CHANNELS, 1, 1)]
    assert len(learned) == 2
    assert not any(np.array_equal(slopes[0][name], slopes[1][name]) for name in learned)


def test_a_stopped_run_goes_on_with_the_same_equalised_network(here):
    whole = quantized(here, "whole")
    with pytest.raises(InterruptedError):
        quantized(here, "stopped", Stopped())
    stopped = run_verbs.resume("runs/quantize/stopped", verb="quantize")
    for kind in ("quantized", "equalised"):
        one, other = (load_file(Run(each.folder).weights(kind)) for each in (whole, stopped))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_float_network_of_a_run_stays_as_it_was(here):
    run = Run(quantized(here, "it", steps=0).folder)
    plain, equalised = (load_file(run.weights(kind)) for kind in ("float", "equalised"))
    assert not torch.equal(plain["inner.head.0.weight"], equalised["inner.head.0.weight"])
    teacher, low = networks.teacher_of(run), torch.rand(1, 3, 20, 20)
    torch.testing.assert_close(
        teacher(low), networks.checkpoint(run, "float")[1](low), rtol=0, atol=1e-5
    )


def test_runs_of_earlier_versions_carry_everything_in_float(here):
    run = quantized(here, "it", steps=0, carry="float")
    (run.folder / "carried.json").unlink()
    assert run.export("small.onnx").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"carry": "bytes"}, "carry"),
        ({"carry_drop": -1.0}, "carry_drop"),
    ],
)
def test_bad_settings_are_refused(here, settings, words):
    with pytest.raises(UsageError, match=words):
        quantized(here, "it", **settings)
