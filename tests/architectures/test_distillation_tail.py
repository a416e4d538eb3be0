"""Checks the LeakyReLU, and that tensors between the convolutions are carried in float."""

import dataclasses

import pytest
import torch

from quantnas.architectures import network, registry
from quantnas.architectures.distillation_tail import SLOPE, leaky
from quantnas.config import search_space
from quantnas.config.genotype import uniform_precision
from quantnas.nas import supernet
from quantnas.nas.search_conv import InputGrids
from quantnas.nn.convolutions import QuantConv2d
from quantnas.nn.quantizers import ActQuantizer, FloatTensor


def test_negative_values_keep_a_small_part():
    assert leaky(torch.tensor([-2.0, 0.0, 3.0])).tolist() == pytest.approx([-2 * SLOPE, 0, 3])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", ["rfdn48", "imdn", "edsr_baseline"])
def test_every_convolution_rounds_its_input_by_itself(random_genotype, name, bits):
    """Exceptions read pixels or, in EDSR, the output of a ReLU or of an enlarging step."""
    space = dataclasses.replace(search_space.load(name), channels=12, cells=2)
    precision = uniform_precision(registry.slots(space), bits)
    net = network.build(space, random_genotype(space, 0), precision)
    for key, conv in network.convolutions(net).items():
        assert isinstance(conv, QuantConv2d)
        carried = conv._source[0]
        if isinstance(carried, FloatTensor):
            assert conv.input_quantizer is not None, key
            assert conv.input_quantizer.bits == precision[key.split(".")[0]].activations
        else:
            carried_on = ("head", "body1", "upsample1", "tail")
            assert key == "head" or (name == "edsr_baseline" and key.endswith(carried_on)), key


@pytest.mark.parametrize("name", ["rfdn48", "imdn"])
def test_two_readers_of_one_tensor_have_two_grids(random_genotype, name):
    space = dataclasses.replace(search_space.load(name), channels=12, cells=1)
    precision = uniform_precision(registry.slots(space), 4)
    net = network.build(space, random_genotype(space, 0), precision)
    grids = [c.grid for c in network.convolutions(net).values()]
    own = [g for g in grids if g.octaves is not None]
    assert len({id(g) for g in own}) == len(own) > 5
    assert not any(isinstance(m, FloatTensor) for m in net.modules())


def test_the_grids_of_a_search_have_no_octaves(small):
    for space in small.values():
        grids = [m for m in supernet.build(space).modules() if isinstance(m, InputGrids)]
        own = [q for g in grids for q in g.own]
        assert own and all(isinstance(q, ActQuantizer) and q.octaves is None for q in own)
