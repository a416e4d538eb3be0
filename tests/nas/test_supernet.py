"""Checks the supernet: mixing and drawing of candidates, decisions, and settling on a genotype."""

import dataclasses

import numpy as np
import pytest
import torch

from quantnas.architectures import registry
from quantnas.config.genotype import Choice
from quantnas.config.run_config import SearchConfig
from quantnas.config.search_space import Edge, Precision, Slot
from quantnas.nas import gradient_search, supernet
from quantnas.nas.adaptive_norm import Adq
from quantnas.nas.alphas import Alphas
from quantnas.nas.search_conv import SearchConv2d
from quantnas.nas.supernet import MixedOp
from quantnas.nn.operations import Chain
from quantnas.nn.quantizers import ActQuantizer, WeightQuantizer
from quantnas.training import collectives

SPACES = ["tiny", "apart", "basic", "rfdn", "edsr", "imdn", "rfdn_published"]


def adqs(net) -> list[Adq]:
    return [m for m in net.modules() if isinstance(m, Adq)]


# The whole network


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("deviation", ["none", "batchnorm", "adq", "adadm"])
@pytest.mark.parametrize("name", SPACES)
def test_the_supernet_keeps_sizes_and_pixels(small, pixels, name, deviation, training):
    where = dataclasses.replace(small[name], cells=2)
    net = supernet.build(where, SearchConfig(deviation=deviation)).train(training)
    with torch.no_grad():
        out = net(pixels(2, 15, 16))
    assert out.shape == (2, 3, 15 * where.scale, 16 * where.scale)
    if not training:  # while training, pixels are neither rounded nor clipped
        steps = out * 255
        torch.testing.assert_close(steps, steps.round().clamp(0, 255), rtol=0, atol=1e-3)
    expected = {"basic": 5, "rfdn_published": 0}.get(name, 2)
    kinds = [m.logarithmic for m in adqs(net)]
    assert kinds == [deviation == "adadm"] * (0 if deviation == "none" else expected)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("name", SPACES)
def test_every_slot_has_its_edge_and_every_choice_its_alphas(small, name, joint):
    how = SearchConfig(probabilities="joint" if joint else "factorised")
    net, slots = supernet.build(small[name], how), registry.slots(small[name])
    edges, choices = supernet.edges(net), supernet.choices(net)
    assert {name: edge.slot for name, edge in edges.items()} == {s.name: s for s in slots}
    assert set(choices) == {s.choice for s in slots}
    for slot in slots:
        alphas = choices[slot.choice]
        assert edges[slot.name].alphas is alphas and alphas.joint == joint
        assert alphas.table().shape == (len(slot.ops), len(slot.bit_widths))
        assert not any(a.any() for a in alphas.parameters())
    learning = supernet.alphas(net)
    assert all(a.numel() > 1 for a in learning) and len({*map(id, learning)}) == len(learning)
    everything = {n for n, _ in net.named_parameters() if ".alphas." in n}
    assert len(everything) == len(supernet.all_alphas(net)) >= len(learning)


@pytest.mark.parametrize("relaxation", ["noise", "direct", "authors"])
@pytest.mark.parametrize("name", SPACES)
def test_everything_learns_but_grids_that_are_fitted(small, pixels, name, relaxation):
    how = SearchConfig(relaxation=relaxation, draw=False)
    net, low = supernet.build(small[name], how), pixels(2, 15, 15)
    gradient_search.fit_grids(net, low)
    net.train()(low).square().sum().backward()
    alone = {id(a) for a in supernet.all_alphas(net)} - {id(a) for a in supernet.alphas(net)}
    for key, p in net.named_parameters():
        if key.endswith(("log2_step", "zero")):
            assert p.requires_grad <= (relaxation == "direct"), key
        elif id(p) not in alone:
            assert p.grad is not None and torch.isfinite(p.grad).all(), key
    assert all(a.grad.abs().sum() > 0 for a in supernet.alphas(net))
    kernels = [m for m in net.modules() if isinstance(m, WeightQuantizer)]
    learned = [bool(q.log2_step.grad is not None and q.log2_step.grad.any()) for q in kernels]
    share = sum(learned) / len(learned)  # a ReLU in an attention of three channels may be dead
    assert share > 0.9 if relaxation == "direct" else share == 0


@pytest.mark.parametrize("relaxation", ["noise", "authors"])
def test_training_is_noisy_and_evaluating_is_not(tiny, pixels, relaxation):
    net, low = supernet.build(tiny, SearchConfig(relaxation=relaxation)), pixels()
    gradient_search.fit_grids(net, low)
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


def test_a_search_in_float_is_the_same_in_training_and_evaluating(tiny, pixels):
    edge = Edge(("conv1x1", "conv3x3"), (32,))
    where = dataclasses.replace(tiny, edges=dict.fromkeys(tiny.edges, edge))
    net, low = supernet.build(where, SearchConfig(deviation="none")), pixels()
    assert torch.equal(net.train()(low), net.eval()(low))
    assert not any(isinstance(m, WeightQuantizer) for m in net.modules())


def test_fitting_reaches_every_grid(tiny, pixels):
    net = supernet.build(dataclasses.replace(tiny, cells=2))
    grids = [m for m in net.modules() if isinstance(m, ActQuantizer | WeightQuantizer)]
    before = [m.log2_step.clone() for m in grids]
    gradient_search.fit_grids(net, pixels())
    moved = [not torch.equal(m.log2_step, b) for m, b in zip(grids, before, strict=True)]
    fixed = [isinstance(m, ActQuantizer) and m.fixed for m in grids]
    assert moved == [not f for f in fixed] and sum(fixed) == 2


def test_fitting_leaves_the_statistics_of_batch_norms_alone(tiny, pixels):
    net = supernet.build(tiny)
    (adq,) = adqs(net)
    before = {k: v.clone() for k, v in adq.state_dict().items() if "num_batches" not in k}
    gradient_search.fit_grids(net, pixels())
    assert all(torch.equal(adq.state_dict()[k], v) for k, v in before.items())
    assert adq.norm.momentum == 0.1 and not adq.norm.training


def test_learned_grids_are_left_alone_when_the_others_are_fitted_again(tiny, pixels):
    for relaxation, moves in (("direct", False), ("noise", True)):
        net = supernet.build(tiny, SearchConfig(relaxation=relaxation))
        gradient_search.fit_grids(net, pixels())
        kernels = [m for m in net.modules() if isinstance(m, WeightQuantizer)]
        before = [q.log2_step.clone() for q in kernels]
        with torch.no_grad():
            for conv in (m for m in net.modules() if isinstance(m, SearchConv2d)):
                conv.weight[:, 0] *= 5
        gradient_search.fit_grids(net, pixels(), learned=True)
        same = [torch.equal(q.log2_step, b) for q, b in zip(kernels, before, strict=True)]
        assert (not any(same)) if moves else all(same)


def test_the_convolutions_of_an_edge_share_its_widths(apart):
    for edge in supernet.edges(supernet.build(apart)).values():
        for conv in edge.modules():
            if isinstance(conv, SearchConv2d):
                assert tuple(q.bits for q in conv.weight_quantizers) == edge.slot.weight_bits


# Drawing

WIDTHS = (Precision(4, 4), Precision(8, 8))
SEVERAL = ("growth1x1", "growth3x3", "factorised3x3")


def edge_of(names: tuple[str, ...], **how: object) -> MixedOp:
    """An edge in training mode with unequal probabilities."""
    slot = Slot("e", 4, 4, 4, names, WIDTHS)
    edge = MixedOp(slot, ActQuantizer(8), Alphas(len(names), 2), SearchConfig(**how)).double()
    edge.alphas.op.data.copy_(torch.linspace(-1, 1, len(names)))
    return edge.train()


def results(edge: MixedOp, x: torch.Tensor) -> list[torch.Tensor]:
    """The output, and the gradients of probabilities and kernels (0 where there is none)."""
    edge.zero_grad()
    out = edge(x)
    (out * torch.linspace(0, 1, out.numel()).view_as(out)).sum().backward()
    learning = [edge.alphas.op, edge.alphas.width, edge.log_gain]
    learning += [m.weight for m in edge.modules() if isinstance(m, SearchConv2d)]
    return [out.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad for p in learning)]


@pytest.mark.parametrize("names", [SEVERAL, ("conv1x1", *SEVERAL[:2], "identity")])
def test_what_is_drawn_is_on_average_the_sum_of_all(monkeypatch, names):
    monkeypatch.setattr(collectives, "rand_like", lambda t, batch: torch.full_like(t, 0.5))
    edge, x = edge_of(names), torch.rand(2, 4, 5, 3, dtype=torch.float64)
    shares = [p for n, p in zip(names, edge.alphas.table().sum(1).tolist(), strict=True)
              if n in SEVERAL]  # fmt: skip
    mean: list[torch.Tensor] = []
    for at, share in enumerate(shares):
        monkeypatch.setattr(torch, "multinomial", lambda p, n, at=at: torch.tensor([at]))
        parts = [share / sum(shares) * t for t in results(edge, x)]
        mean = [a + b for a, b in zip(mean, parts, strict=True)] if mean else parts
    expected = results(edge_with(edge, draw=False), x)
    for found, full in zip(mean, expected, strict=True):
        torch.testing.assert_close(found, full, rtol=1e-5, atol=1e-6)


def edge_with(edge: MixedOp, **how: object) -> MixedOp:
    edge.config = dataclasses.replace(edge.config, **how)
    return edge


def test_candidates_are_drawn_by_their_probabilities(monkeypatch):
    edge, x, seen = edge_of(SEVERAL), torch.rand(1, 4, 3, 3, dtype=torch.float64), []
    draw = torch.multinomial
    monkeypatch.setattr(torch, "multinomial", lambda p, n: (seen.append(p), draw(p, n))[1])
    counts = calls(edge)
    for _ in range(300):
        edge(x)
    expected = edge.alphas.table().sum(1).detach()
    torch.testing.assert_close(seen[0], expected.float())
    assert sum(counts.values()) == 300
    for name, p in zip(SEVERAL, expected.tolist(), strict=True):
        assert abs(counts[name] / 300 - p) < 4 * (p * (1 - p) / 300) ** 0.5


def calls(edge: MixedOp) -> dict[str, int]:
    """Count, by name of the candidate, how often its first kernel is used from now on."""
    counts = dict.fromkeys(edge.slot.ops, 0)

    def counter(name: str):
        def count(*_: object) -> None:
            counts[name] += 1

        return count

    for name, op in edge.ops.items():
        kernel, tell = op[0].kernel, counter(name)
        op[0].kernel = lambda mix, kernel=kernel, tell=tell: (tell(), kernel(mix))[1]
    return counts


@pytest.mark.parametrize("relaxation", ["noise", "direct", "authors"])
def test_improbable_candidates_are_not_computed_while_training(relaxation):
    names = ("conv1x1", "conv3x3", *SEVERAL[:2])
    edge = edge_of(names, floor=0.1, draw=False, relaxation=relaxation)
    edge.alphas.op.data.copy_(torch.tensor([0.0, -5, -5, 1]))
    counts, x = calls(edge), torch.rand(1, 4, 3, 3, dtype=torch.float64)
    edge(x)
    assert counts == dict(zip(names, (1, 0, 0, 1), strict=True))
    edge.eval()(x)
    assert counts == dict(zip(names, (2, 1, 1, 2), strict=True))


def test_the_most_probable_candidate_is_always_computed():
    edge = edge_of(SEVERAL, floor=0.9, draw=False)
    counts = calls(edge)
    edge(torch.rand(1, 4, 3, 3, dtype=torch.float64))
    assert counts == dict(zip(SEVERAL, (0, 0, 1), strict=True))


@pytest.mark.parametrize("floor", [0.0, 0.005])
@pytest.mark.parametrize("names", [("conv1x1", *SEVERAL), ("identity", *SEVERAL)])
def test_a_decided_edge_computes_one_candidate_in_training_too(names, floor):
    edge, x = edge_of(names, floor=floor), torch.rand(1, 4, 3, 3, dtype=torch.float64)
    for at in (0, 2):
        edge.alphas.collapse(at, 1)
        assert torch.isfinite(edge(x)).all()


def test_nothing_is_drawn_when_evaluating(monkeypatch):
    edge, x = edge_of(SEVERAL).eval(), torch.rand(1, 4, 3, 3, dtype=torch.float64)
    monkeypatch.setattr(torch, "multinomial", None)
    counts = calls(edge)
    assert torch.equal(edge(x), edge(x))
    assert counts == dict.fromkeys(SEVERAL, 2)


# Deciding


def test_the_most_probable_choice_is_decided(tiny):
    net = supernet.build(tiny, SearchConfig(probabilities="factorised"))
    edges = supernet.edges(net)
    edges["cell0_body1"].alphas.op.data.copy_(torch.tensor([-5.0, -3.0, -4.0]))
    edges["cell0_body1"].alphas.width.data.copy_(torch.tensor([0.1, 0.3, 0.2]))
    edges["upsample"].alphas.op.data.copy_(torch.tensor([0.0, 1e-3]))
    edges["upsample"].alphas.width.data.copy_(torch.tensor([-1e4, 1e4]))
    found = supernet.decide(net, "here")
    assert found.space == "here" and list(found.choices) == list(edges)
    assert found.choices["cell0_body1"] == Choice("conv5x5_groups2", 4, 4)
    assert found.choices["upsample"] == Choice("conv1x1_groups2", 8, 8)
    assert found.choices["head"] == Choice("conv3x3", 8, 8)


def test_the_most_probable_pair_need_not_have_the_most_probable_operation(tiny):
    net = supernet.build(tiny, SearchConfig(probabilities="joint"))
    pair = supernet.edges(net)["upsample"].alphas.pair
    pair.data.copy_(torch.tensor([[0.0, 1.0], [0.9, 0.9]]))
    assert supernet.decide(net, "x").choices["upsample"] == Choice("conv3x3", 8, 8)


def test_edges_that_are_decided_together_get_the_same_choice(small):
    net = supernet.build(small["basic"])
    supernet.choices(net)["cells_body0"].pair.data[2] = 1
    for picks in (None, {n: a.best() for n, a in supernet.choices(net).items()}):
        found = supernet.decide(net, "x", picks).choices
        assert found["cell0_body0"] == found["cell1_body0"] == Choice("conv3x3", 4, 4)


@pytest.mark.parametrize("probabilities", ["factorised", "joint"])
@pytest.mark.parametrize("relaxation", ["noise", "direct"])
@pytest.mark.parametrize("name", SPACES)
def test_collapsing_leaves_one_candidate(
    small, random_genotype, pixels, name, relaxation, probabilities
):
    how = SearchConfig(relaxation=relaxation, probabilities=probabilities)
    net, genotype = supernet.build(small[name], how), random_genotype(small[name], 1)
    low = pixels(1, 15, 16)
    gradient_search.fit_grids(net, low)
    supernet.collapse(net, genotype)
    assert supernet.decide(net, genotype.space) == genotype
    with torch.no_grad():
        before = net.eval()(low)
        for key, edge in supernet.edges(net).items():
            for op, candidate in edge.ops.items():
                if op != genotype.choices[key].op:
                    for p in candidate.parameters():
                        p.fill_(0.7)
        assert torch.equal(net(low), before)


@pytest.mark.parametrize("floor", [0.0, 0.005])
def test_settling_averages_the_statistics_of_all_batches(tiny, random_genotype, pixels, floor):
    net, genotype = supernet.build(tiny, SearchConfig(floor=floor)), random_genotype(tiny, 2)
    (adq,) = adqs(net)
    batches = [pixels(2, 6, 5, seed) for seed in range(3)]
    gradient_search.fit_grids(net, batches[0])
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


def test_candidates_are_chains_and_carry_their_names(tiny):
    for edge in supernet.edges(supernet.build(tiny)).values():
        assert tuple(edge.ops) == edge.slot.ops
        assert all(isinstance(op, Chain) for op in edge.ops.values())
