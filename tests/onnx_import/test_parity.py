"""Checks the comparison of an imported network with its file."""

from pathlib import Path

import pytest
import torch

from quantnas.errors import DataError
from quantnas.onnx_import import importer, parity

FILE = Path(__file__).parents[1] / "cases" / "noise_parity.onnx"


def test_a_network_that_noise_makes_chaotic_is_compared_on_a_photograph():
    found = importer.load(FILE)
    assert parity.check(found, FILE).largest < 1e-5
    noise = torch.rand(2, 1, 3, *found.sizes[0])
    noise[1] = noise[0] + 1e-7
    with torch.no_grad():
        one, other = map(found.network, noise)
    assert (one - other).abs().max() > 0.01


def test_a_difference_is_found_on_a_photograph():
    found = importer.load(FILE)
    with torch.no_grad():
        found.network.up.bias[0] += 1e-2
    with pytest.raises(DataError, match="first at Conv"):
        parity.check(found, FILE)
