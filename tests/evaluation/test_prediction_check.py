"""Checks that a quantized network which errs far more than predicted is an error of its own."""

import dataclasses
import shutil
from pathlib import Path

import pytest

import quantnas
from quantnas.api.run_verbs import Run
from quantnas.cli.main import main
from quantnas.config.files import to_json, write_text
from quantnas.data import image_files
from quantnas.errors import PredictionError, QualityError
from quantnas.evaluation import prediction_check, quantization_loss
from quantnas.onnx_import import layer_roles

FILE = Path(__file__).parents[1] / "cases" / "negative_factor.onnx"
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("photos")
    for i, file in enumerate(image_files.bundled().held_out[:2]):
        image_files.write(root / f"{i}.png", image_files.read(file)[40:104, 60:140])
    return str(root)


def options(photos: str, output: Path) -> dict:
    settings = {"quantize.crops": 8, "quantize.train": "none", "eval_data": photos}
    return {"settings": settings, "output": output}


def unsigned(network):
    """The signs that the nodes of a graph suggest, whatever they are multiplied by."""
    return set(network.graph.nodes)


@pytest.fixture(scope="module")
def error(photos, tmp_path_factory) -> PredictionError:
    """The error about a network in which one layer reads values below zero as zero."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_roles, "positive", unsigned)
        with pytest.raises(PredictionError) as raised:
            quantnas.quantize(FILE, bits=8, **options(photos, tmp_path_factory.mktemp("runs")))
    return raised.value


@pytest.fixture
def run(error, tmp_path):
    """The run of a network that errs as much as predicted."""
    shutil.copytree(error.folder, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    write_text(run.path("steps/quantize.json"), to_json(changed(run, psnr_to_float=60.0)))
    return run


def changed(run: Run, **values) -> dict:
    return {**run.result("quantize"), **values}


def test_a_layer_whose_input_is_cut_is_named(error):
    assert isinstance(error, QualityError) and error.exit_code == 5
    assert "dB were predicted, so something is wrong. Layer 'conv2' is the first" in error.cause
    assert (error.folder / "checkpoints" / "quantized.safetensors").is_file()


@pytest.mark.slow
def test_the_command_writes_no_file(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(layer_roles, "positive", unsigned)
    more = ["--train", "none", "--eval-data", photos, "--output", str(tmp_path), "--set"]
    with pytest.raises(SystemExit) as end:
        main(["quantize", str(FILE), "--bits", "8", *more, "quantize.crops=8",
              "-o", str(tmp_path / "q.onnx")])  # fmt: skip
    assert end.value.code == 5 and not (tmp_path / "q.onnx").exists()
    assert "Layer 'conv2' is the first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("predicted", "reached", "far"),
    [(50.0, 41.0, False), (50.0, 39.0, True), (70.0, 49.5, False), (70.0, 48.0, True),
     (None, 20.0, False), (20.0, 10.5, False), (20.0, 9.5, True)],
)  # fmt: skip
def test_ten_times_the_predicted_error_is_far_but_bytes_count_too(predicted, reached, far):
    found = prediction_check._far({"psnr_to_float_predicted": predicted, "psnr_to_float": reached})
    assert (found is not None) == far


def test_eight_bits_lose_at_most_one_decibel(run, monkeypatch):
    def lose(**values):
        found = quantization_loss.Drop(
            **{"name": "set5", "quantized": 34.0, "full": 34.5, "bicubic": 33.6, "photographs": 5}
            | values
        )
        monkeypatch.setattr(quantization_loss, "load", lambda _: [found])
        prediction_check.require(run, run.config)

    lose()
    lose(full=99.0)  # the network made this photograph itself
    lose(full=12.0, quantized=9.0, to_float=15.0)  # it makes no pictures
    with pytest.raises(PredictionError, match=r"With 8 bits in all layers, 2\.50 dB are lost"):
        lose(quantized=32.0)
    with pytest.raises(PredictionError, match="are lost on set5"):
        lose(full=30.0, quantized=31.0, to_float=33.0)


def test_baselines_and_bits_of_a_search_have_no_prediction_of_their_own(run):
    write_text(run.path("steps/quantize.json"), to_json(changed(run, psnr_to_float=5.0)))
    with pytest.raises(PredictionError):
        prediction_check.require(run, run.config)
    config = run.config
    method = dataclasses.replace(config.quantize, method="rtn")
    prediction_check.require(run, dataclasses.replace(config, quantize=method))
    prediction_check.require(run, dataclasses.replace(config, bits=None))
