"""Checks that hostile metadata of an ONNX file are an error, in every command that reads them."""

from pathlib import Path

import pytest

from quantnas.api import information
from quantnas.errors import DataError
from quantnas.exporters import onnx_metadata
from quantnas.runs import models

CASES = sorted((Path(__file__).parents[1] / "cases" / "metadata").iterdir())
HARMLESS = ("Key-44c70e19.onnx",)  # it lacks the version, which nothing needs


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_what_a_file_says_is_checked_alike_everywhere(path):
    if path.name in HARMLESS:
        assert models.resolve(str(path)).scale == onnx_metadata.read_metadata(path).scale
        return
    for read in (
        onnx_metadata.read_metadata,
        information.describe,
        lambda p: models.resolve(str(p)),
    ):
        with pytest.raises(DataError, match=r"cannot be read|damaged or no ONNX file"):
            read(path)
