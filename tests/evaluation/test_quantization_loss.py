"""Checks the measured loss of quantization against the evaluation, and its limit."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from quantnas.architectures import network
from quantnas.config.run_config import QuantizeConfig
from quantnas.data import image_files
from quantnas.errors import DataError, QualityError
from quantnas.evaluation import quantization_loss, scoring
from quantnas.evaluation.quantization_loss import Drop
from quantnas.inference import upscaler
from quantnas.pipeline import evaluate_step
from quantnas.runs import networks, run_photographs, run_settings

FILES = image_files.bundled().held_out
SMALL = Drop("set5", quantized=31.9, full=32.0, bicubic=28.0, photographs=5)
LARGE = Drop("set14", quantized=27.5, full=28.0, bicubic=27.6, photographs=14)
BETTER = Drop("mine", quantized=30.2, full=30.0, bicubic=28.0, photographs=1)


def folder(path: Path, count: int) -> str:
    for i, file in enumerate(FILES[:count]):
        image_files.write(path / f"p{i}.png", image_files.read(file)[40:90, 60 : 121 + 8 * i])
    return str(path)


@pytest.fixture
def run(make_run, tmp_path):
    return make_run(tmp_path / "run", held_out=folder(tmp_path / "mine", 1))


@pytest.fixture
def config(run, tmp_path):
    """The settings of the run, with a benchmark added."""
    found = run_settings.load_config(run)
    return dataclasses.replace(found, benchmarks=(folder(tmp_path / "set2", 2),))


def test_it_is_what_the_evaluation_finds_later(run, config):
    records = list(quantization_loss.measure(run, config))
    assert [(r.phase, r.done, r.total) for r in records] == [
        ("evaluate held-out", 1, 1),
        ("evaluate set2", 1, 2),
        ("evaluate set2", 2, 2),
    ]
    found = {row.name: row for row in quantization_loss.load(run)}
    list(evaluate_step.evaluate_step(run, config))
    later = run.result("evaluate")["sets"]
    assert list(found) == list(later) == ["held-out", "set2"]
    assert [row.photographs for row in found.values()] == [1, 2]
    for name, row in found.items():
        assert row.full == pytest.approx(later[name]["float_mean"]["psnr"])
        assert row.bicubic == pytest.approx(later[name]["mean"]["bicubic_psnr"])
        assert row.quantized == pytest.approx(later[name]["mean"]["psnr"], abs=0.05)
        assert row.drop == pytest.approx(row.full - row.quantized) and row.drop != 0
        assert row.to_float == pytest.approx(later[name]["mean"]["to_float"], abs=0.05)
        assert later[name]["float_mean"]["to_float"] is None


def test_a_network_that_is_spoilt_by_quantization_shows(run, config):
    space, net, _ = networks.quantized(run)
    with torch.no_grad():
        for conv in network.convolutions(net).values():
            conv.bias.add_(0.5)
        for name, p in net.named_parameters():
            if name.endswith("log2_step") and p.requires_grad:
                p.add_(1)  # room for that
    network.save(net, run.weights("quantized"), space)
    list(quantization_loss.measure(run, config))
    (held_out, _) = quantization_loss.load(run)
    scored = scoring.score(
        upscaler.torch_upscaler(net), run_photographs.photographs_of(run, config).held_out, 2
    )
    assert held_out.quantized == pytest.approx(next(scored).psnr)
    assert held_out.drop > 3 and held_out.below_bicubic
    with pytest.raises(QualityError):
        quantization_loss.require([held_out], QuantizeConfig(max_drop=3))


def test_what_is_not_there_is_a_data_error(run, config):
    with pytest.raises(DataError, match=r"drop\.json is not there"):
        quantization_loss.load(run)
    run.weights("quantized").unlink()
    with pytest.raises(DataError, match=r"not there any more, .*'quantize' has finished"):
        list(quantization_loss.measure(run, config))
    assert not (run.folder / quantization_loss.FILE).exists()


def test_the_set_with_the_largest_drop_is_named():
    with pytest.raises(QualityError, match=r"0\.50 dB on set14 .*more than the 0\.05 dB") as raised:
        quantization_loss.require([SMALL, LARGE, BETTER], QuantizeConfig(max_drop=0.05))
    assert raised.value.exit_code == 5 and "more bits" in raised.value.remedy


@pytest.mark.parametrize(
    ("how", "words"),
    [({"steps": 800}, "longer (--steps 3200)"), ({"minutes": 1.5}, "longer (--minutes 3)"),
     ({"method": "rtn"}, "take --method saliency"),
     ({"train": "none"}, "retrain (--train weights"), ({"steps": 0}, "retrain (--train weights")],
    ids=str,
)  # fmt: skip
def test_the_remedy_fits_the_method(how, words):
    with pytest.raises(QualityError) as raised:
        quantization_loss.require([LARGE], QuantizeConfig(max_drop=0.1, **how))
    assert words in raised.value.remedy


def test_a_small_drop_is_told_with_enough_digits():
    close = Drop("set5", quantized=31.9988, full=32.0, bicubic=28.0, photographs=5)
    message = r"costs 0\.0012 dB on set5 \(from 32\.0000 to 31\.9988\), more than the 0\.001 dB"
    with pytest.raises(QualityError, match=message):
        quantization_loss.require([close], QuantizeConfig(max_drop=0.001))
    with pytest.raises(QualityError, match=r"costs 0\.001 dB .*than the 0 dB"):
        quantization_loss.require([close], QuantizeConfig(max_drop=0))


@pytest.mark.parametrize("most", [0.51, 3, 100])
def test_what_is_within_the_limit_passes(most):
    quantization_loss.require([SMALL, LARGE, BETTER], QuantizeConfig(max_drop=most))


def test_a_network_that_became_better_has_no_drop():
    assert BETTER.drop == pytest.approx(-0.2)
    quantization_loss.require([BETTER], QuantizeConfig(max_drop=0))
    with pytest.raises(QualityError):
        quantization_loss.require([SMALL], QuantizeConfig(max_drop=0))


def test_bicubic_is_compared_with_the_quantized_network():
    assert LARGE.below_bicubic and not SMALL.below_bicubic
    assert not LARGE.untrained and Drop("worse", 27.0, 27.5, 28.0, 1).untrained


def test_where_bicubic_beats_the_float_network_the_distance_to_that_one_counts():
    """A network that sharpens comes closer to the photograph by an error."""
    sharp = Drop("faces", quantized=22.6, full=22.4, bicubic=26.0, photographs=3, to_float=29.7)
    assert sharp.drop < 0 and sharp.untrained
    lost = 26.0 + 10 * np.log10(10**-2.6 + 10**-2.97)
    assert sharp.loss == sharp.offset == pytest.approx(lost)
    with pytest.raises(
        QualityError, match=r"costs 1\.54 dB on faces \(bicubic, 26\.00 dB, is better"
    ):
        quantization_loss.require([sharp], QuantizeConfig(max_drop=1))
    quantization_loss.require([sharp], QuantizeConfig(max_drop=2))
    closer = dataclasses.replace(SMALL, to_float=42.0)
    assert closer.loss == closer.drop == pytest.approx(0.1) and closer.offset < 0.2
    assert dataclasses.replace(sharp, to_float=None).loss == sharp.drop
