"""Checks that ranges come from whole photographs, and what grids then cut."""

from pathlib import Path

import numpy as np
import pytest
import torch

from quantnas.architectures import network, onnx_survey, registry
from quantnas.config.genotype import Genotype, choice_of, uniform_precision
from quantnas.config.run_config import RunConfig
from quantnas.data import bicubic, hard_pictures, patches
from quantnas.errors import DataError
from quantnas.nn.quantizers import ActQuantizer
from quantnas.quantization import least_squares, post_training, ranges

CASES = Path(__file__).parents[1] / "cases" / "third_party"


@pytest.fixture
def built(tiny, random_genotype):
    """A function (bits) -> (rounded network, float network) with the same weights."""

    def make(bits: int):
        found = random_genotype(tiny, 3)
        float_net = network.build(tiny, found, None).eval()
        precision = uniform_precision(registry.slots(tiny), 4, bits)
        net = network.build(tiny, found, precision)
        network.inherit(net, float_net)
        return net, float_net

    return make


def inputs(net, x) -> dict[str, torch.Tensor]:
    """Name of each layer -> its input."""
    seen = {}
    with network.hooked(net, lambda conv, args, out: seen.update({conv.name: args[0]})):
        net(x)
    return seen


@torch.no_grad()
def test_the_reach_is_what_the_float_network_has_on_all_photographs(built, pixels):
    net, float_net = built(4)
    photographs = [pixels(1, 12, 17, 0), pixels(1, 20, 9, 1)]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert list(ranges.measure(net, photographs)) == [(0, 2), (1, 2), (2, 2)]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any("forward" in vars(module) for module in net.modules())
    found = [inputs(float_net, x) for x in photographs]
    read = {n: g for n, g in ranges.grids(net).items() if n in found[0]}
    assert read and len(ranges.grids(net)) > len(read)
    for name, grid in read.items():
        each = [one[name].transpose(0, 1).flatten(1) for one in found]
        low, high = (end.flatten() for end in grid.reach)
        torch.testing.assert_close(low, torch.stack([x.amin(1) for x in each]).amin(0))
        torch.testing.assert_close(high, torch.stack([x.amax(1) for x in each]).amax(0))
    assert all(grid.reach is not None for grid in ranges.grids(net).values())


@torch.no_grad()
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("channels", [None, 3])
def test_eight_bits_cover_the_reach_and_four_do_not_look_at_it(signed, channels):
    x = torch.rand(2, 3, 5, 7) - 0.3 * signed
    shape = (3, 1, 1) if channels else ()
    far = torch.tensor([4.0, 50.0, 9.0])[:, None, None] if channels else torch.tensor(50.0)
    reach = (torch.full(shape, -2.0 * signed), far)
    for bits in (8, 4):
        grid, plain = (ActQuantizer(bits, signed, channels=channels) for _ in range(2))
        grid.reach = reach
        for each in (grid, plain):
            each.spread(x, torch.ones(3))
            each.calibrate(x)
        ends = torch.stack([end.expand(3, 1, 1) for end in reach])
        step = grid.step if grid.factors is None else grid.step * grid.factors.max()
        if bits == 8:
            assert (grid(ends) - ends).abs().max() <= 0.502 * step
            assert (grid(x) - x).abs().max() <= 0.502 * step
            most = 1.5 * 50 if signed and channels else 52 if signed else 50
            assert float(step) < 1.02 * most / 255
        else:
            assert torch.equal(grid(x), plain(x))


@torch.no_grad()
def test_a_margin_stays_below_zero_on_a_covering_grid():
    grid = ActQuantizer(8, signed=True)
    grid.margin, grid.reach = 8, (torch.tensor(0.0), torch.tensor(5.0))
    grid.calibrate(torch.rand(10))
    assert grid.zero_point == 8
    grid.reach = None
    grid.calibrate(torch.zeros(10))
    assert grid.step > 0


def test_values_that_are_not_finite_name_the_layer(built, pixels):
    net, _ = built(8)
    name, conv = next((n, c) for n, c in network.convolutions(net).items() if "body" in n)
    with torch.no_grad():
        conv.weight.fill_(1e38)
        conv.bias.fill_(3e38)
    with pytest.raises(DataError, match="reads NaN or infinite values for a photograph") as error:
        list(ranges.measure(net, [pixels(1, 12, 12)]))
    assert any(f"'{grid}'" in error.value.cause for grid in ranges.grids(net)), name
    assert not any("forward" in vars(module) for module in net.modules())


@torch.no_grad()
def test_values_beyond_a_grid_are_counted(built, pixels):
    net, _ = built(4)
    x = pixels(2, 16, 16)
    list(ranges.measure(net, [x]))
    network.initialise(net, x)
    grid = next(g for g in ranges.grids(net).values() if g.bits == 8)
    before = {row.tensor: row.share for row in ranges.cut(net, [x])}
    grid.log2_step -= 3
    rows = ranges.cut(net, [x, x])
    after = {row.tensor: row.share for row in rows}
    (name,) = [n for n, g in ranges.grids(net).items() if g is grid]
    assert before[name] == 0 and 0 < after[name] <= 1
    shares = [row.share for row in rows]
    assert shares == sorted(shares, reverse=True) and {row.bits for row in rows} == {4, 8}


@torch.no_grad()
def test_saturated_colours_survive_eight_bits():
    survey = onnx_survey.survey(CASES / "clipped_colours.onnx", RunConfig().pixels)
    slots, space = registry.slots(survey.space), survey.space
    genotype = Genotype(space.name, {s.name: choice_of(s, 0, 0) for s in slots})
    float_net = network.build(space, genotype, None).eval()
    crops = patches.to_tensor(
        torch.randint(60, 190, (8, 24, 24, 3), generator=torch.manual_seed(0)).byte().numpy()
    )
    pictures = [p[None, :64, :64] for p in hard_pictures.low_resolution(2)]
    seen, held_out = (list(map(patches.to_tensor, pictures[i::2])) for i in (0, 1))
    errors = []
    for photographs in ([], seen):
        net = network.build(space, genotype, uniform_precision(slots, 8, 8))
        network.inherit(net, float_net)
        list(ranges.measure(net, photographs))
        list(least_squares.improve(net, float_net, crops))
        frozen = post_training.freeze(net)
        each = [(frozen(x) - float_net(x)).square().mean() for x in held_out]
        errors.append(-10 * torch.stack(each).amax().log10())
    assert errors[1] > 35 and errors[1] > errors[0] + 15


def test_pictures_of_strong_colours_are_extreme_and_always_the_same():
    pictures = hard_pictures.low_resolution(2)
    for picture, again in zip(pictures, hard_pictures.pictures(), strict=True):
        assert again.shape == (288, 432, 3) and again.max() - again.min() > 200
        assert np.ptp(again, 2).mean() > 60  # the colours are strong
        assert (picture == bicubic.downscale(again, 2)).all()
