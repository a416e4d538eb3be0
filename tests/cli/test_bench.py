"""Checks `quantnas bench`: tables, JSON, and bad input with cause, remedy and exit code."""

import json
import shutil
from pathlib import Path

import pytest

from quantnas.architectures import cost, network, registry
from quantnas.cli.main import main
from quantnas.config.genotype import uniform_precision
from quantnas.config.run_config import ExportConfig
from quantnas.exporters import onnx_export
from quantnas.quantization import post_training
from quantnas.runs import bundled_models, models


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


QUICK = ("--size", "12x20", "--rounds", "2")


def test_a_bundled_model_beside_its_float_network(capsys):
    assert command("bench", "plain-x4", *QUICK) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "low resolution 12x20, median (quartiles) of 2 rounds"
    head, row = lines[2], lines[3].split()
    assert "of float" in head and "GBitOps" in head
    size = bundled_models.bundled()["plain-x4"].stat().st_size
    assert row[:6] == ["plain-x4", "4-8", "bits", "4-8", "bits", f"{size:,}"]
    assert any("ONNX Runtime 1." in line and "1 thread used" in line for line in lines)
    assert lines[-1].startswith("Below 8 bits ONNX Runtime computes in 8-bit integers")


def test_layers_as_json(capsys):
    assert command("bench", "plain-x4", "--per-layer", "--json", *QUICK, "--threads", "2") == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["result"]["rows"]
    assert found["result"]["size"] == [12, 20] and found["result"]["threads"] == 2
    assert row["ratio"]["wall"]["low"] <= row["ratio"]["wall"]["median"]
    layers = found["layers"]["plain-x4"]
    assert sum(node["share"] for node in layers) == pytest.approx(1)
    names = {name.name for name in models.resolve("plain-x4").cost.layers}
    mine = [node for node in layers if node["layer"]]
    assert {node["layer"] for node in mine} == names
    assert {node["operator"] for node in mine} == {"QLinearConv"}
    assert not any(node["in_float"] for node in mine)


def test_layers_as_a_table(capsys):
    assert command("bench", "plain-x4", "--per-layer", *QUICK) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("plain-x4, with profiling")
    rows = lines[start + 2 : lines.index("", start)]
    shares = [float(part[:-1]) for line in rows for part in line.split() if part.endswith("%")]
    assert len(shares) == len(rows) == 16 and rows[-1].split()[1] == "others"
    assert sum(shares) == pytest.approx(100, abs=1)


@pytest.fixture
def attentive(small, random_genotype, pixels, tmp_path):
    """A function of the export form that writes a file with attention, which needs 15 pixels."""
    where = small["rfdn_published"]
    found, slots = random_genotype(where, 0), registry.slots(where)
    bits = uniform_precision(slots, 8)
    net = network.build(where, found, bits)
    network.initialise(net, pixels(1, 16, 16))
    totals = cost.total(cost.layers(slots, found, bits, where.scale), where.scale)

    def write(form: ExportConfig = onnx_export.USUAL) -> Path:
        path = tmp_path / "esa.onnx"
        onnx_export.to_onnx(post_training.freeze(net), totals, where.scale, path, form)
        return path

    return write


def test_a_size_that_is_too_small(attentive, capsys):
    assert command("bench", attentive(), "--size", "8x20") == 3
    assert "cannot enlarge an image of 8x20: that is too small" in capsys.readouterr().err


def test_a_file_of_one_size(attentive, capsys):
    path = attentive(ExportConfig(size="16x18"))
    assert command("bench", path, "--rounds", "1") == 0
    assert "low resolution 16x18" in capsys.readouterr().out
    assert command("bench", path, "--size", "16x19") == 2
    assert "esa takes images of 16x18 alone" in capsys.readouterr().err


def test_of_a_run_its_file_is_measured_and_no_checkpoint(make_run, tmp_path, capsys):
    run = make_run(tmp_path / "run")
    assert command("bench", run.folder, *QUICK) == 0
    assert capsys.readouterr().out.splitlines()[3].startswith("run ")
    assert command("bench", run.weights("quantized"), *QUICK) == 2
    assert "quantnas export" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere"], 2, "There is no run folder, file or bundled model 'nowhere'"),
        (["torn.onnx"], 3, "torn.onnx"),
        (["text.onnx"], 3, "text.onnx"),
        (["plain-x4", "--size", "0x8"], 2, "height x width"),
        (["plain-x4", "--size", "8"], 2, "height x width"),
        (["plain-x4", "--threads", "0"], 2, "`threads` is 0"),
        (["plain-x4", "--seconds", "0"], 2, "`seconds` is 0"),
        (["plain-x4", "--rounds", "0"], 2, "`rounds` is 0"),
        (["plain-x4", "plain-x4"], 2, "is given twice"),
        (["plain-x4", "plain-x2"], 2, "Compare models of one scale"),
    ],
)
def test_bad_input(arguments, code, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(bundled_models.bundled()["plain-x4"], "torn.onnx")
    Path("torn.onnx").write_bytes(Path("torn.onnx").read_bytes()[:20000])
    Path("text.onnx").write_text("no network")
    assert command("bench", *arguments) == code
    captured = capsys.readouterr().err
    assert words in captured
    assert captured.startswith("error: ") and len(captured.strip().splitlines()) == 2
