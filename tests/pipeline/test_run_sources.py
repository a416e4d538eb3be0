"""Checks of what a run may begin with."""

import pytest

from quantnas.errors import DataError
from quantnas.pipeline import run_sources
from quantnas.pipeline.run_sources import Request


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.ckpt"])
def test_a_checkpoint_of_pytorch_is_told_from_weights(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"holds no network that can be read alone\. Call quantnas"):
        run_sources.to_quantize(Request("quantize"), tmp_path / name)
