"""Checks that the network of a decided architecture computes what its supernet computes."""

import dataclasses
import itertools

import pytest
import torch

from quantnas.architectures import network
from quantnas.config import search_space
from quantnas.config.genotype import Choice, searched_precision
from quantnas.config.run_config import SearchConfig
from quantnas.config.search_space import Edge, Precision
from quantnas.errors import DataError
from quantnas.nas import gradient_search, inheritance, search_conv, supernet
from quantnas.nas.adaptive_norm import Adq
from quantnas.nas.search_conv import SearchConv2d
from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.nn.quantizers import ActQuantizer, WeightQuantizer

MANY = [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 8))]
VARIANTS = list(itertools.product(("factorised", "joint"), ("none", "batchnorm", "adq", "adadm")))


def scramble(net, genotype=None) -> None:
    """Give alphas, gains and biases random values."""
    with torch.no_grad():
        for name, p in net.named_parameters():
            if ".alphas." in name:
                p.normal_()
            elif "log_gain" in name:
                p.normal_(-0.5, 0.3)
            elif name.endswith("bias") and "norm" not in name:
                p.normal_(0, 0.2)


def settled(space, low, how=None, genotype=None):
    """A supernet with random alphas, gains and biases, whose choices are decided."""
    net = supernet.build(space, how or SearchConfig())
    scramble(net)
    genotype = genotype or supernet.decide(net, space.name)
    supernet.settle(net, genotype, [low, low.flip(0), low.flip(3)])
    return net, genotype


def make_deviation_constant(net) -> None:
    """Give batch norms no shift and gains of both signs, and make all deviations equal."""
    with torch.no_grad():
        for adq in (m for m in net.modules() if isinstance(m, Adq)):
            adq.w.zero_()
            adq.c.fill_(0.3 if adq.logarithmic else 1.3)
            adq.norm.weight.uniform_(-1.5, 1.5)
            adq.norm.running_mean.zero_()


def decided_pair(space, low, how, genotype=None):
    """(supernet, rounded network) in float64 and eval mode, with a constant deviation."""
    net, genotype = settled(space, low, how, genotype)
    make_deviation_constant(net)
    gradient_search.fit_grids(net, low)
    net = net.double().eval()
    rounded = network.build(space, genotype, searched_precision(genotype)).double().eval()
    inheritance.inherit_supernet(rounded, net)
    return net, rounded


def require_equal(net, rounded, *images, least=0.02) -> None:
    with torch.no_grad():
        for image in images:
            wanted = net(image.double())
            torch.testing.assert_close(rounded(image.double()), wanted, rtol=0, atol=1e-9)
            assert wanted.std() > least


@pytest.mark.parametrize("seed", MANY)
@pytest.mark.parametrize("name", ["tiny", "apart"])
@pytest.mark.parametrize(("probabilities", "deviation"), VARIANTS)
def test_the_network_computes_what_the_supernet_does(
    small, pixels, name, probabilities, deviation, seed
):
    torch.manual_seed(seed)
    space = small[name]
    if name == "tiny":
        space = dataclasses.replace(space, scale=2 + 2 * (seed % 2), cells=1 + seed % 2)
    how = SearchConfig(probabilities=probabilities, deviation=deviation)
    low = pixels(2, 6, 5, seed)
    net, rounded = decided_pair(space, low, how)
    require_equal(net, rounded, low, pixels(1, 4, 7, seed + 100))


PUBLISHED = [*itertools.product(("basic", "rfdn"), range(2))]
PUBLISHED += [("edsr", 0), ("imdn", 0), ("rfdn_published", 0), ("plain", 0)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seed"), PUBLISHED)
@pytest.mark.parametrize(("probabilities", "deviation"), VARIANTS)
def test_the_published_networks_compute_what_their_supernets_do(
    small, pixels, name, probabilities, deviation, seed
):
    torch.manual_seed(seed)
    given = small.get(name) or dataclasses.replace(search_space.load(name), channels=12)
    space = dataclasses.replace(given, cells=1 + seed, scale=2)
    how = SearchConfig(probabilities=probabilities, deviation=deviation)
    low = pixels(1, 15, 16, seed)
    net, rounded = decided_pair(space, low, how)
    require_equal(net, rounded, low, least=0)
    octaves = [b for n, b in rounded.named_parameters() if n.endswith("octaves")]
    assert (octaves or name == "plain") and not any(b.any() for b in octaves)
    assert not any(n.endswith("octaves") for n, _ in net.named_parameters())


@pytest.mark.parametrize("relaxation", ["direct", "authors"])
@pytest.mark.parametrize("name", ["tiny", "apart"])
def test_grids_of_single_convolutions_are_taken_over_too(small, pixels, name, relaxation):
    low = pixels(2, 6, 5)
    net, rounded = decided_pair(small[name], low, SearchConfig(relaxation=relaxation))
    require_equal(net, rounded, low)


@pytest.mark.parametrize("deviation", ["none", "adq"])
def test_the_identity_is_decided_and_computes_nothing(apart, pixels, random_genotype, deviation):
    genotype = random_genotype(apart, 0)
    genotype.choices["upsample"] = Choice("identity", 2, 4)
    low, how = pixels(2, 6, 5), SearchConfig(deviation=deviation)
    net, rounded = decided_pair(apart, low, how, genotype)
    assert not len(rounded.get_submodule("upsample"))
    require_equal(net, rounded, low)


# Folding


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_negative_factor_turns_the_grid_around(bits):
    layer = QuantConv2d(4, 6, 3, precision=Precision(bits, 8), source=ActQuantizer(8)).double()
    with torch.no_grad():
        layer.weight.add_(0.1)
        layer.weight_quantizer.calibrate(layer.weight)
        factor = torch.tensor([2.0, -0.5, 1.0, -1.0, -3.0, 0.25], dtype=torch.float64)
        wanted = layer.weight_quantizer(layer.weight) * factor[:, None, None, None]
        before = layer.weight_quantizer.zero.clone().flatten()
        network.scale_outputs(layer, factor)
        found = layer.weight_quantizer(layer.weight)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-12)
    turned = layer.weight_quantizer.zero.flatten()
    assert torch.equal(turned[factor > 0], before[factor > 0])
    top = 254 if bits == 8 else 2**bits - 1
    assert torch.equal(turned[factor < 0], top - before[factor < 0])
    q, z = layer.weight_quantizer.integers(layer.weight)
    assert (q - z).abs().max() <= (127 if bits == 8 else top)


@pytest.mark.parametrize("seed", range(4))
def test_negative_gains_are_folded_into_grids_that_are_not_symmetric(small, pixels, seed):
    torch.manual_seed(seed)
    space = small["basic"]
    edges = {kind: Edge(edge.ops, (2, 3)) for kind, edge in space.edges.items()}
    space = dataclasses.replace(space, edges=edges, scale=2)
    low = pixels(1, 6, 5)
    net, rounded = decided_pair(space, low, SearchConfig())
    factors = torch.cat([adq.folded()[0] for adq in net.modules() if isinstance(adq, Adq)])
    assert (factors < 0).any() and (factors > 0).any()
    require_equal(net, rounded, low)


@pytest.mark.parametrize("seed", range(4))
def test_the_float_network_computes_the_supernet_without_rounding(
    tiny, pixels, random_genotype, monkeypatch, seed
):
    torch.manual_seed(seed)
    low = pixels(3, 7, 10, seed)
    net, genotype = settled(tiny, low, genotype=random_genotype(tiny, seed))
    make_deviation_constant(net)
    with torch.no_grad():
        for adq in (m for m in net.modules() if isinstance(m, Adq)):
            adq.norm.running_mean.normal_()
            adq.norm.bias.normal_()
    net = net.double().eval()
    plain = network.build(tiny, genotype, None).double().eval()
    inheritance.inherit_supernet(plain, net)
    for module in (search_conv, supernet):
        monkeypatch.setattr(module, "see", lambda x, *rest: x)
    monkeypatch.setattr(SearchConv2d, "kernel", lambda self, mix: self.unit_weight())
    monkeypatch.setattr(SearchConv2d, "rounded_bias", lambda self, *rest: self.bias)
    monkeypatch.setattr(ActQuantizer, "forward", lambda self, x: x)
    with torch.no_grad():
        found, wanted = plain(low.double()), net(low.double())
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    assert (wanted - wanted.round(decimals=2)).abs().max() > 1e-3


@pytest.mark.parametrize("deviation", ["none", "adq"])
def test_a_network_searched_in_float_is_its_supernet(tiny, pixels, deviation):
    edge = Edge(("conv1x1", "conv3x3", "growth3x3"), (32,))
    space = dataclasses.replace(tiny, edges=dict.fromkeys(tiny.edges, edge))
    low = pixels(2, 6, 5)
    net, genotype = settled(space, low, SearchConfig(deviation=deviation))
    make_deviation_constant(net)
    net, plain = net.double().eval(), network.build(space, genotype, None).double().eval()
    inheritance.inherit_supernet(plain, net)
    assert not any(isinstance(m, WeightQuantizer) for m in net.modules())
    require_equal(net, plain, low)


def test_folding_the_mean_deviation_changes_little(tiny, pixels, random_genotype):
    low = pixels(4, 16, 12) * 0.5 + 0.2
    net, genotype = settled(tiny, low, genotype=random_genotype(tiny, 3))
    with torch.no_grad():
        for adq in (m for m in net.modules() if isinstance(m, Adq)):
            adq.norm.bias.normal_(0, 0.1)
    gradient_search.fit_grids(net, low)
    rounded = network.build(tiny, genotype, searched_precision(genotype)).eval()
    inheritance.inherit_supernet(rounded, net.eval())
    with torch.no_grad():
        difference = (rounded(low) - net(low)).abs() * 255
        branch = (net(low) - low.repeat_interleave(2, 2).repeat_interleave(2, 3)).abs() * 255
    assert branch.mean() > 10
    assert difference.mean() < 0.1 * branch.mean() and difference.max() < 16


# The network itself


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
        wanted |= dict.fromkeys(names, choice.precision)
    found = network.convolutions(rounded)
    assert {n: c.precision for n, c in found.items()} == wanted
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
    narrow = dataclasses.replace(tiny, channels=4)
    other = network.build(narrow, random_genotype(tiny, 1), None)
    path = tmp_path / "w.safetensors"
    with pytest.raises(DataError, match="Cannot read"):
        network.load(net, path)
    network.save(other, path)
    with pytest.raises(DataError, match="another network"):
        network.load(net, path)
    network.save(net, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"Cannot read .* it is damaged .* Take it from a copy"):
        network.load(net, path)


def test_weights_name_the_space_that_they_were_made_for(tiny, random_genotype, tmp_path):
    net = network.build(tiny, random_genotype(tiny, 1), None)
    path = tmp_path / "w.safetensors"
    network.save(net, path, tiny)
    network.load(net, path, tiny)
    network.load(net, path)
    for other in (dataclasses.replace(tiny, name="other"), dataclasses.replace(tiny, scale=3)):
        words = f"made for the space tiny x2, but the run has {other.name} x{other.scale}"
        with pytest.raises(DataError, match=words):
            network.load(net, path, other)
    network.save(net, path)  # names none
    network.load(net, path, dataclasses.replace(tiny, name="other"))
