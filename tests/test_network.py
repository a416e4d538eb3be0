"""Checks that the decided network computes what the supernet it came from does."""

import dataclasses

import pytest
import torch

from quantnas import conv, network, search, supernet
from quantnas.conv import Conv2d, QuantConv2d, SearchConv2d
from quantnas.errors import DataError
from quantnas.genotype import searched_precision
from quantnas.quantizer import ActQuantizer
from quantnas.supernet import Adq


def settled(space, low, genotype=None):
    """A supernet with random alphas and gains, decided, settled and with fitted grids."""
    net = supernet.build(space)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "alpha" in name:
                p.normal_()
            elif "log_gain" in name:
                p.normal_(-0.5, 0.3)
    genotype = genotype or supernet.decide(net, space.name)
    supernet.settle(net, genotype, [low, low.flip(0), low.flip(3)])
    return net, genotype


def make_deviation_constant(net) -> None:
    with torch.no_grad():
        for adq in (m for m in net.modules() if isinstance(m, Adq)):
            adq.w.zero_()
            adq.c.fill_(1.3)
            adq.norm.weight.uniform_(-1.5, 1.5)


@pytest.mark.parametrize("seed", range(8))
def test_the_network_computes_what_the_supernet_does(tiny, pixels, seed):
    torch.manual_seed(seed)
    space = dataclasses.replace(tiny, scale=2 + 2 * (seed % 2), cells=1 + seed % 2)
    low = pixels(3, 7, 10, seed)
    net, genotype = settled(space, low)
    make_deviation_constant(net)
    for adq in (m for m in net.modules() if isinstance(m, Adq)):
        adq.norm.running_mean.zero_()
    search.fit_grids(net, low)
    net = net.double().eval()
    rounded = network.build(space, genotype, searched_precision(genotype)).double().eval()
    network.inherit_supernet(rounded, net)
    other = pixels(2, 6, 5, seed + 100).double()
    with torch.no_grad():
        for image in (low.double(), other):
            torch.testing.assert_close(rounded(image), net(image), rtol=0, atol=1e-9)
        assert rounded(other).std() > 0.05


def test_without_adq_nothing_is_folded(tiny, pixels, random_genotype):
    space, low = dataclasses.replace(tiny, adq=False), pixels(2)
    net, genotype = settled(space, low, random_genotype(space, 5))
    search.fit_grids(net, low)
    net = net.double().eval()
    rounded = network.build(space, genotype, searched_precision(genotype)).double().eval()
    network.inherit_supernet(rounded, net)
    with torch.no_grad():
        torch.testing.assert_close(rounded(low.double()), net(low.double()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_float_network_computes_the_supernet_without_rounding(
    tiny, pixels, random_genotype, monkeypatch, seed
):
    torch.manual_seed(seed)
    low = pixels(3, 7, 10, seed)
    net, genotype = settled(tiny, low, random_genotype(tiny, seed))
    make_deviation_constant(net)
    net = net.double().eval()
    plain = network.build(tiny, genotype, None).double().eval()
    network.inherit_supernet(plain, net)
    for module in (conv, supernet):
        monkeypatch.setattr(module, "blur", lambda t, *rest: t)
    monkeypatch.setattr(SearchConv2d, "rounded_bias", lambda self, *rest: self.bias)
    monkeypatch.setattr(ActQuantizer, "forward", lambda self, x: x)
    with torch.no_grad():
        found, wanted = plain(low.double()), net(low.double())
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    assert (wanted - wanted.round(decimals=2)).abs().max() > 1e-3


def test_folding_the_mean_deviation_changes_little(tiny, pixels, random_genotype):
    low = pixels(4, 16, 12) * 0.5 + 0.2
    net, genotype = settled(tiny, low, random_genotype(tiny, 3))
    with torch.no_grad():
        for adq in (m for m in net.modules() if isinstance(m, Adq)):
            adq.norm.bias.normal_(0, 0.1)
    search.fit_grids(net, low)
    rounded = network.build(tiny, genotype, searched_precision(genotype)).eval()
    network.inherit_supernet(rounded, net.eval())
    with torch.no_grad():
        difference = (rounded(low) - net(low)).abs() * 255
        branch = (net(low) - low.repeat_interleave(2, 2).repeat_interleave(2, 3)).abs() * 255
    assert branch.mean() > 10
    assert difference.mean() < 0.1 * branch.mean() and difference.max() < 16


def test_a_float_network_rounds_nothing(tiny, random_genotype, pixels):
    plain = network.build(tiny, random_genotype(tiny, 0), None)
    convs = network.convolutions(plain).values()
    assert all(type(c) is Conv2d for c in convs)
    with torch.no_grad():
        out = plain(pixels())
    assert ((out * 255) - (out * 255).round()).abs().max() > 0.1


def test_a_rounded_network_puts_out_pixels(tiny, random_genotype, pixels):
    genotype = random_genotype(tiny, 0)
    rounded = network.build(tiny, genotype, searched_precision(genotype))
    with torch.no_grad():
        steps = rounded(pixels()) * 255
    torch.testing.assert_close(steps, steps.round().clamp(0, 255), rtol=0, atol=1e-3)


def test_convolutions_are_named_after_their_slots(tiny, random_genotype):
    genotype = random_genotype(tiny, 4)
    rounded = network.build(tiny, genotype, searched_precision(genotype))
    wanted = {}
    for slot, choice in genotype.choices.items():
        names = [f"{slot}.0", f"{slot}.1"] if choice.op.startswith("growth") else [slot]
        wanted |= dict.fromkeys(names, choice.bits)
    found = network.convolutions(rounded)
    assert {n: c.precision.weights for n, c in found.items()} == wanted
    assert any("." in name for name in found)
    for c in found.values():
        assert isinstance(c, QuantConv2d) and c.weight_quantizer.bits == c.precision.weights
        assert c.grid.bits == c.precision.activations


def test_weights_are_inherited_and_grids_are_not(tiny, random_genotype):
    genotype = random_genotype(tiny, 1)
    plain = network.build(tiny, genotype, None)
    rounded = network.build(tiny, genotype, searched_precision(genotype))
    grids = {n: p.clone() for n, p in rounded.named_parameters() if "quantizer" in n}
    network.inherit(rounded, plain)
    sources, targets = network.convolutions(plain), network.convolutions(rounded)
    assert set(sources) == set(targets)
    for name, target in targets.items():
        source = sources[name]
        assert torch.equal(source.weight, target.weight) and torch.equal(source.bias, target.bias)
    assert all(torch.equal(p, grids[n]) for n, p in rounded.named_parameters() if n in grids)


def test_weights_on_disk_read_back_exactly(tiny, random_genotype, pixels, tmp_path):
    genotype = random_genotype(tiny, 1)
    first, second = (network.build(tiny, genotype, searched_precision(genotype)) for _ in range(2))
    path = tmp_path / "w.safetensors"
    network.save(first, path)
    network.load(second, path)
    states = first.state_dict(), second.state_dict()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_weights_that_do_not_fit_or_cannot_be_read_are_data_errors(tiny, random_genotype, tmp_path):
    net = network.build(tiny, random_genotype(tiny, 1), None)
    other = network.build(dataclasses.replace(tiny, channels=4), random_genotype(tiny, 1), None)
    path = tmp_path / "w.safetensors"
    with pytest.raises(DataError, match="Cannot read"):
        network.load(net, path)
    network.save(other, path)
    with pytest.raises(DataError, match="another network"):
        network.load(net, path)
    network.save(net, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="Cannot read"):
        network.load(net, path)
