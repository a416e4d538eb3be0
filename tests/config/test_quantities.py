"""Checks that quantities are parsed as people write them."""

import pytest

from quantnas.config import quantities
from quantnas.errors import UsageError


@pytest.mark.parametrize(
    ("text", "value"),
    [("2.0G", 2e9), ("500m", 5e8), ("3k", 3e3), ("1T", 1e12), ("12345", 12345), ("2e9", 2e9),
     (".5G", 5e8), ("2.g", 2e9)],
)  # fmt: skip
def test_limits_are_numbers_with_a_suffix(text, value):
    assert quantities.number(text, "--target-bitops") == value


@pytest.mark.parametrize("text", ["", "G", "-1G", "1GB", "two", "nan", "inf", "1e999", "0.0M"])
def test_other_limits_are_an_error_that_names_the_form_and_the_option(text):
    with pytest.raises(UsageError, match="--target-size cannot be") as caught:
        quantities.number(text, "--target-size")
    assert "2.0G" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "bits", "act_bits"), [("2", 2, 8), ("w4a4", 4, 4), ("W3A8", 3, 8)]
)
def test_widths_are_weights_and_activations(text, bits, act_bits):
    assert quantities.bit_widths(text, "--bits") == {"bits": bits, "act_bits": act_bits}


@pytest.mark.parametrize("text", ["", "a4", "w2", "16", "w2a4x"])
def test_other_widths_are_an_error(text):
    with pytest.raises(UsageError, match="--bits cannot be"):
        quantities.bit_widths(text, "--bits")
