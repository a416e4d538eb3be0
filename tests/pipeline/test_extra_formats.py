"""Checks the files next to model.onnx: they exist, were compared, and the right one goes to -o."""

import json

import pytest

from quantnas.cli.main import main
from quantnas.exporters import tflite
from quantnas.pipeline import extra_formats


def command(*arguments) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


SUFFIX = {"float": ".float.onnx", "qonnx": ".qonnx.onnx", "tflite": ".tflite"}


@pytest.mark.parametrize("format", extra_formats.FORMATS)
def test_every_format_is_written_beside_and_is_what_the_option_gets(
    source, tmp_path, capsys, format
):
    if format == "tflite":
        pytest.importorskip("ai_edge_litert")
    file = tmp_path / f"m{SUFFIX[format]}"
    options = ("--format", format, "--size", "24x32", "--output", tmp_path)
    assert command("export", source, "-o", file, *options) == 0
    made = tmp_path / "export" / "mine"
    beside = made / f"model{SUFFIX[format]}"
    assert file.read_bytes() == beside.read_bytes() and (made / "model.onnx").exists()
    record = json.loads((made / "steps" / "export.json").read_text())["beside"]
    assert record["file"] == beside.name and record["bytes"] == beside.stat().st_size
    assert (
        f"{beside.name}: {record['bytes']:,} bytes, {record['compared']}" in capsys.readouterr().out
    )


def test_a_tflite_file_that_computes_something_else_is_rejected(source, tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    right = tflite.upscaler
    monkeypatch.setattr(tflite, "upscaler", lambda path: lambda low: 255 - right(path)(low))
    file = tmp_path / "m.tflite"
    assert command("export", source, "--format", "tflite", "-o", file, "--output", tmp_path) == 4
    assert not file.exists() and (tmp_path / "m.rejected.tflite").exists()
    assert not (tmp_path / "export" / "mine" / "model.tflite").exists()


def test_an_unknown_format_is_refused(source, tmp_path, capsys):
    assert command("export", source, "--format", "coreml", "--output", tmp_path) == 2
    assert "tflite" in capsys.readouterr().err
