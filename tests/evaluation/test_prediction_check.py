"""Checks that a quantized network which errs far more than predicted is an error of its own."""

import dataclasses
from pathlib import Path

import pytest

import quantnas
from quantnas.cli.main import main
from quantnas.config.files import read_json, to_json, write_text
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
def run(photos, tmp_path_factory):
    return quantnas.quantize(FILE, bits=8, **options(photos, tmp_path_factory.mktemp("runs")))


def test_a_sound_network_passes(run):
    assert run.drops[0].drop < 0.1
    prediction_check.require(run, run.config)


def test_a_layer_whose_input_is_cut_is_named(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(layer_roles, "positive", unsigned)
    with pytest.raises(PredictionError) as raised:
        quantnas.quantize(FILE, bits=8, **options(photos, tmp_path))
    error = raised.value
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


def test_eight_bits_lose_at_most_one_decibel(run, photos, monkeypatch):
    path = run.folder / quantization_loss.FILE
    found = read_json(path)
    row = found["sets"][0]
    with monkeypatch.context() as patch:
        patch.setattr(
            quantization_loss, "load", lambda _: [changed(row, quantized=row["full"] - 2)]
        )
        with pytest.raises(PredictionError, match=r"With 8 bits in all layers, 2\.00 dB are lost"):
            prediction_check.require(run, run.config)
        patch.setattr(quantization_loss, "load", lambda _: [changed(row, full=99.0)])
        prediction_check.require(run, run.config)


def changed(row, **values):
    return quantization_loss.Drop(**{**row, **values})


def test_baselines_and_bits_of_a_search_have_no_prediction_of_their_own(run):
    result = {**run.result("quantize"), "psnr_to_float": 5.0}
    write_text(run.folder / "steps" / "quantize.json", to_json(result))
    with pytest.raises(PredictionError):
        prediction_check.require(run, run.config)
    config = run.config
    method = dataclasses.replace(config.quantize, method="rtn")
    prediction_check.require(run, dataclasses.replace(config, quantize=method))
    prediction_check.require(run, dataclasses.replace(config, bits=None))
