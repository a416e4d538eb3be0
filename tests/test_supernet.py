"""Checks the supernet: what is mixed, what is decided, and what settling measures."""

import dataclasses

import numpy as np
import pytest
import torch

from quantnas import search, skeleton, supernet
from quantnas.conv import SearchConv2d
from quantnas.genotype import Choice
from quantnas.quantizer import ActQuantizer, WeightQuantizer
from quantnas.supernet import Adq, PlainSum


def adqs(net) -> list[Adq]:
    return [m for m in net.modules() if isinstance(m, Adq)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("adq", [False, True])
def test_the_supernet_keeps_sizes_and_pixels(tiny, pixels, adq, training):
    net = supernet.build(dataclasses.replace(tiny, adq=adq, cells=2)).train(training)
    out = net(pixels(2, 6, 5))
    assert out.shape == (2, 3, 12, 10)
    if not training:  # while training, pixels are neither rounded nor clipped
        steps = out * 255
        torch.testing.assert_close(steps, steps.round().clamp(0, 255), rtol=0, atol=1e-3)
    assert len(adqs(net)) == (2 if adq else 0)


def test_without_the_deviation_the_branch_is_left_alone():
    branch = torch.randn(2, 3, 4, 5)
    assert PlainSum()(branch, torch.randn(2, 3, 4, 5)) is branch


def test_every_slot_has_its_edge_and_every_choice_an_alpha(tiny):
    net = supernet.build(tiny)
    edges = supernet.edges(net)
    slots = {slot.name: slot for slot in skeleton.slots(tiny)}
    assert {name: edge.slot for name, edge in edges.items()} == slots
    for name, edge in edges.items():
        assert len(edge.alpha_op) == len(slots[name].ops) == len(edge.ops)
        assert len(edge.alpha_bits) == len(slots[name].bits)
        assert not edge.alpha_op.any() and not edge.alpha_bits.any()
    choices = [n for s in slots.values() for n in (len(s.ops), len(s.bits)) if n > 1]
    assert sorted(len(a) for a in supernet.alphas(net)) == sorted(choices)


def test_all_but_the_grids_learns(tiny, pixels):
    net = supernet.build(tiny)
    search.fit_grids(net, pixels(2))
    net.train()(pixels(2)).square().sum().backward()
    for name, p in net.named_parameters():
        grid = name.endswith(("log2_step", "zero"))
        assert p.requires_grad != grid, name
        alone = "alpha" in name and len(p) == 1
        if not grid and not alone:
            assert p.grad is not None and torch.isfinite(p.grad).all(), name
    assert all(a.grad.abs().sum() > 0 for a in supernet.alphas(net))


def test_training_is_noisy_and_evaluating_is_not(tiny, pixels):
    net, low = supernet.build(tiny), pixels()
    search.fit_grids(net, low)
    with torch.no_grad():
        net.eval()
        assert torch.equal(net(low), net(low))
        net.train()
        torch.manual_seed(1)
        first = net(low)
        torch.manual_seed(1)
        again = net(low)
        assert not torch.equal(first, net(low))
    assert torch.equal(first, again)


def test_the_most_probable_choice_is_decided(tiny):
    net = supernet.build(tiny)
    edges = supernet.edges(net)
    edges["cell0_body1"].alpha_op.data.copy_(torch.tensor([-5.0, -3.0, -4.0]))
    edges["cell0_body1"].alpha_bits.data.copy_(torch.tensor([0.1, 0.3, 0.2]))
    edges["upsample"].alpha_op.data.copy_(torch.tensor([0.0, 1e-3]))
    edges["upsample"].alpha_bits.data.copy_(torch.tensor([-1e4, 1e4]))
    found = supernet.decide(net, "here")
    assert found.space == "here" and list(found.choices) == list(edges)
    assert found.choices["cell0_body1"] == Choice("conv5x5_groups2", 4)
    assert found.choices["upsample"] == Choice("conv1x1_groups2", 8)
    assert found.choices["head"] == Choice("conv3x3", 8)


@pytest.mark.parametrize("seed", range(3))
def test_collapsing_leaves_one_candidate(tiny, random_genotype, pixels, seed):
    net, genotype, low = supernet.build(tiny), random_genotype(tiny, seed), pixels()
    search.fit_grids(net, low)
    supernet.collapse(net, genotype)
    assert supernet.decide(net, genotype.space) == genotype
    with torch.no_grad():
        before = net.eval()(low)
        for name, edge in supernet.edges(net).items():
            for op, candidate in edge.ops.items():
                if op != genotype.choices[name].op:
                    for p in candidate.parameters():
                        p.fill_(0.7)
        assert torch.equal(net(low), before)


def test_settling_averages_the_statistics_of_all_batches(tiny, random_genotype, pixels):
    net, genotype = supernet.build(tiny), random_genotype(tiny, 2)
    (adq,) = adqs(net)
    batches = [pixels(2, 6, 5, seed) for seed in range(3)]
    search.fit_grids(net, batches[0])
    adq.norm.running_mean.fill_(77.0)
    adq.mean_std.fill_(77.0)
    seen = []
    hook = adq.register_forward_pre_hook(
        lambda m, args: seen.append([a.detach().double().numpy() for a in args])
    )
    supernet.settle(net, genotype, iter(batches))
    hook.remove()
    assert supernet.decide(net, genotype.space) == genotype
    assert len(seen) == 3 and not net.training
    means = np.mean([branch.mean((0, 2, 3)) for branch, _ in seen], 0)
    variances = np.mean([branch.var((0, 2, 3), ddof=1) for branch, _ in seen], 0)
    deviation = np.mean([s.std(ddof=1) for _, skip in seen for s in skip])
    np.testing.assert_allclose(adq.norm.running_mean, means, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(adq.norm.running_var, variances, rtol=1e-4, atol=1e-7)
    assert adq.mean_std.item() == pytest.approx(deviation, rel=1e-4)
    assert adq.norm.momentum == torch.nn.BatchNorm2d(1).momentum


def test_the_deviation_of_a_sample_scales_its_normalised_branch():
    adq = Adq(3).eval()
    with torch.no_grad():
        for p in adq.parameters():
            p.normal_()
        adq.norm.running_mean.normal_()
        adq.norm.running_var.uniform_(0.5, 2)
    branch, skip = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    skip[1] *= 9
    b, norm = branch.double().numpy(), adq.norm

    def per_channel(t: torch.Tensor) -> np.ndarray:
        return t.detach().double().numpy()[:, None, None]

    scale = np.sqrt(per_channel(norm.running_var) + norm.eps)
    normal = (b - per_channel(norm.running_mean)) / scale
    normal = normal * per_channel(norm.weight) + per_channel(norm.bias)
    std = skip.double().numpy().reshape(2, -1).std(1, ddof=1)
    wanted = normal * (adq.w.item() * std + adq.c.item())[:, None, None, None]
    np.testing.assert_allclose(adq(branch, skip).detach().numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_folding_is_exact_for_the_mean_deviation():
    adq = Adq(3).double().eval()
    with torch.no_grad():
        for p in adq.parameters():
            p.normal_()
        adq.norm.running_mean.normal_()
        adq.norm.running_var.uniform_(0.5, 2)
        branch, skip = torch.randn(1, 3, 4, 5).double(), torch.randn(1, 3, 4, 5).double()
        adq.mean_std.copy_(skip.std())
        factor, shift = adq.folded()
        wanted = branch * factor[:, None, None] + shift[:, None, None]
        torch.testing.assert_close(adq(branch, skip), wanted, rtol=1e-12, atol=1e-12)


def test_fitting_reaches_every_grid(tiny, pixels):
    net = supernet.build(dataclasses.replace(tiny, cells=2))
    grids = [m for m in net.modules() if isinstance(m, ActQuantizer | WeightQuantizer)]
    before = [m.log2_step.clone() for m in grids]
    search.fit_grids(net, pixels())
    moved = [not torch.equal(m.log2_step, b) for m, b in zip(grids, before, strict=True)]
    fixed = [isinstance(m, ActQuantizer) and m.fixed for m in grids]
    assert moved == [not f for f in fixed] and sum(fixed) == 2


def test_the_convolutions_of_an_edge_share_its_widths(tiny):
    for edge in supernet.edges(supernet.build(tiny)).values():
        for conv in edge.modules():
            if isinstance(conv, SearchConv2d):
                assert tuple(q.bits for q in conv.weight_quantizers) == edge.slot.bits
