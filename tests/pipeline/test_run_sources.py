"""Checks of what a run may begin with."""

import pytest

from quantnas.api import information
from quantnas.architectures import onnx_survey
from quantnas.errors import DataError
from quantnas.pipeline import run_sources
from quantnas.pipeline.run_sources import Request
from quantnas.runs import models


def test_a_bad_folder_of_photographs_is_told_before_a_network_is_imported(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_survey, "survey", lambda *_: 1 / 0)
    (tmp_path / "net.onnx").touch()
    for setting in ("quantize.calib", "data", "eval_data"):
        request = Request("quantize", settings={setting: str(tmp_path / "nowhere")})
        with pytest.raises(DataError, match=r"The folder '.*nowhere' does not exist"):
            run_sources.to_quantize(request, tmp_path / "net.onnx")


def test_a_file_that_is_damaged_is_told_in_the_same_words_by_all(tmp_path):
    path = tmp_path / "cut.onnx"
    path.write_bytes(b"\x08\x07\x12\xff\xff")
    told = set()
    for read in (
        lambda: run_sources.to_quantize(Request("quantize"), path),
        lambda: information.describe(path),
        lambda: models.resolve(str(path)),
    ):
        with pytest.raises(DataError, match="is damaged or no ONNX file") as found:
            read()
        told.add(str(found.value))
    assert len(told) == 1


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.ckpt"])
def test_a_checkpoint_of_pytorch_is_told_from_weights(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"holds no network that can be read alone\. Call quantnas"):
        run_sources.to_quantize(Request("quantize"), tmp_path / name)
    with pytest.raises(DataError, match="holds no network that can be read alone"):
        information.describe(tmp_path / name)
