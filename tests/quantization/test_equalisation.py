"""Checks that equalised networks compute the same, and lose less when they are rounded."""

import pytest
import torch

from quantnas.architectures import imported_onnx, network, onnx_survey, registry
from quantnas.config import genotype
from quantnas.quantization import equalisation
from tests.onnx_import.chain_networks import CHANNELS, KINDS, in_float, space_of

pytestmark = pytest.mark.filterwarnings("ignore")


def equalised(space, low, bits=8):
    """(float network, the same equalised, predicted errors)."""
    net, names = in_float(space), imported_onnx.carried(space)
    precision = genotype.uniform_precision(registry.slots(space), bits)
    errors = equalisation.equalise(net, names, precision, low)
    return in_float(space), net, errors


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_computes_the_same(kind, tmp_path, pixels):
    plain, net, errors = equalised(space_of(kind, tmp_path), pixels(4, 24, 20))
    low = pixels(2, 17, 23)
    torch.testing.assert_close(net(low), plain(low), rtol=0, atol=2e-6)
    assert errors and all(error >= 0 for error in errors.values())


@pytest.mark.parametrize("kind", ["relu", "leaky_relu", "branches", "attention"])
def test_rounding_the_tensors_costs_less(kind, tmp_path, pixels):
    space, low = space_of(kind, tmp_path), pixels(8, 24, 20)
    plain, net, _ = equalised(space, low)
    assert error_of(space, net, plain, low) < 0.8 * error_of(space, plain, plain, low)


def error_of(space, weights, plain, low):
    precision = genotype.uniform_precision(registry.slots(space), 8)
    found = onnx_survey.genotype(space)
    rounded = network.build(space, found, precision, imported_onnx.carried(space))
    network.inherit(rounded, weights)
    network.initialise(rounded, low)
    with torch.no_grad():
        return float((rounded(low) - plain(low)).square().mean())


def test_the_predicted_error_is_near_the_measured_one(tmp_path, pixels):
    space, low = space_of("leaky_relu", tmp_path), pixels(8, 24, 20)
    plain, net, errors = equalised(space, low)
    measured = error_of(space, net, plain, low)
    assert 0.2 < sum(errors.values()) / measured < 5


def test_operands_of_a_sum_have_the_same_factors(tmp_path, pixels):
    plain, net, _ = equalised(space_of("relu", tmp_path), pixels(4, 24, 20))
    heads = [network.convolutions(each)["head"].weight.flatten(1) for each in (plain, net)]
    ends = [network.convolutions(each)["blocks_0_2"].bias for each in (plain, net)]
    factors = heads[1].norm(dim=1) / heads[0].norm(dim=1)
    torch.testing.assert_close(ends[1] / ends[0], factors, rtol=1e-3, atol=0)
    assert factors.max() / factors.min() > 3 and len(factors) == CHANNELS


def test_more_photographs_widen_the_ranges(tmp_path, pixels):
    space, low = space_of("leaky_relu", tmp_path), 0.1 * pixels(4, 24, 20)
    net, names = in_float(space), imported_onnx.carried(space)
    precision = genotype.uniform_precision(registry.slots(space), 8)
    few = equalisation.equalise(net, names, precision, low)
    bright = equalisation.equalise(in_float(space), names, precision, low, [pixels(1, 30, 50)])
    assert sum(bright.values()) > 4 * sum(few.values())
