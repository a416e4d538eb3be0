"""Checks partial retraining: trainable parts, learning rates, and penalties."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from quantnas.architectures import network, registry
from quantnas.config.genotype import searched_precision, uniform_precision
from quantnas.config.run_config import QuantizeConfig
from quantnas.nn.convolutions import QuantConv2d
from quantnas.quantization import block_outputs, retraining, saliency
from quantnas.training import training_loop


@pytest.fixture
def couple(tiny, random_genotype, pixels):
    """Function (bits, None = as searched) -> (rounded network with fitted grids, float teacher)."""

    def build(bits: int | None = 2, cells: int = 2):
        space = dataclasses.replace(tiny, cells=cells)
        found = random_genotype(space, 4)
        slots = registry.slots(space)
        precision = uniform_precision(slots, bits) if bits else searched_precision(found)
        teacher = network.build(space, found, None).eval()
        net = network.build(space, found, precision)
        network.inherit(net, teacher)
        network.initialise(net, pixels(4))
        return net, teacher

    return build


def learning(net) -> set[str]:
    return {name for name, p in net.named_parameters() if p.requires_grad}


# Trainable parts


def test_a_parameter_of_another_module_is_no_grid_whatever_its_name(couple):
    net, _ = couple()
    net.slopes = nn.PReLU(3)
    net.register_parameter("nonzero", nn.Parameter(torch.ones(3)))
    net.register_parameter("zero", nn.Parameter(torch.ones(3)))
    named = {id(p): name for name, p in net.named_parameters()}
    for group in training_loop.groups(net, 1.0):
        factors = {named[id(p)]: group["factor"] for p in group["params"]}
        assert factors.get("nonzero", 1.0) == factors.get("zero", 1.0) == 1.0
    assert retraining._factor(net, "zero", net.zero, {}) == retraining.STEP
    retraining.set_trainable(net, "clip")
    assert not {"nonzero", "zero", "slopes.weight"} & learning(net)
    assert any(name.endswith("quantizer.zero") for name in learning(net))


@pytest.mark.parametrize(
    "what", ["weights", "clip", "none", "lowrank:1", "lowrank:16", "lowrank", "lowrank:0", "low",
             "lowrank:-1", "lowrank:1.5", "lowrank:8 ", "Weights", "all", ""],
)  # fmt: skip
def test_the_settings_allow_what_can_be_parsed(what):
    try:
        rank = retraining.parse(what)
    except ValueError:
        with pytest.raises(ValueError, match=r"weights, clip, none or lowrank:8 \(any rank\)"):
            QuantizeConfig(train=what)
    else:
        assert rank == (int(what[8:]) if what.startswith("lowrank") else None)
        assert QuantizeConfig(train=what).train == what


def test_all_that_is_not_fixed_learns_with_the_weights(couple):
    net, _ = couple()
    before = learning(net)
    retraining.set_trainable(net, "weights")
    assert learning(net) == before and "view.seen.log2_step" not in before
    convs = {name for name, m in net.named_modules() if isinstance(m, QuantConv2d)}
    assert {f"{name}.weight" for name in convs} | {f"{name}.bias" for name in convs} <= before


def test_grids_alone_learn_with_clip(couple):
    net, _ = couple()
    before = learning(net)
    retraining.set_trainable(net, "clip")
    grids = ("log2_step", "zero", "octaves")
    assert learning(net) == {n for n in before if n.rpartition(".")[2] in grids}
    assert any("weight_quantizer" in n for n in learning(net))
    assert any("input_quantizer" in n for n in learning(net))


def test_kernels_change_by_thin_matrices_with_lowrank(couple):
    net, _ = couple()
    before = learning(net)
    shapes = {m.name: m.weight.shape for m in net.modules() if isinstance(m, QuantConv2d)}
    retraining.set_trainable(net, "lowrank:3")
    now = learning(net)
    others = {n for n in before if not n.endswith(".weight")}
    assert {n for n in now if "parametrizations" not in n} == others
    assert not [n for n in now if n.endswith("original")]
    thin = sum(p.numel() for n, p in net.named_parameters() if n in now - others)
    assert thin == sum(3 * (shape[0] + shape[1:].numel()) for shape in shapes.values())


def test_lowrank_starts_as_no_change_and_merges_into_plain_kernels(couple, pixels):
    (net, _), low = couple(), pixels(2, 6, 5, 3)
    plain, before = copy.deepcopy(net), net.eval()(low)
    kernels = {name: c.weight.detach().clone() for name, c in network.convolutions(net).items()}
    retraining.set_trainable(net, "lowrank:2")
    assert torch.equal(net(low), before)
    ups = [p for name, p in net.named_parameters() if name.endswith(".up")]
    assert len(ups) == len(kernels)
    with torch.no_grad():
        for up in ups:
            up.normal_(0, 0.1)
    learned = net(low)
    assert not torch.equal(learned, before)
    retraining.merge(net)
    assert torch.equal(net(low), learned)
    plain.load_state_dict(net.state_dict())  # the same names and shapes
    assert torch.equal(plain.eval()(low), learned)
    for name, conv in network.convolutions(net).items():
        assert type(conv) is QuantConv2d
        change = (conv.weight - kernels[name]).detach().flatten(1)
        least = torch.linalg.svdvals(change)[2:]
        assert change.norm() > 0 and (least < 1e-5 * change.norm()).all(), name


def test_to_merge_without_lowrank_changes_nothing(couple, equal_states):
    net, _ = couple()
    before = copy.deepcopy(net.state_dict())
    retraining.merge(net)
    assert equal_states(net.state_dict(), before)


# Learning rates


@pytest.mark.parametrize("what", ["weights", "lowrank:2"])
def test_the_relative_change_of_a_kernel_does_not_depend_on_its_size(couple, pixels, what):
    changes, low = [], pixels(1)
    for factor in (1, 100):
        torch.manual_seed(0)
        net, teacher = couple(4)
        conv = list(network.convolutions(net).values())[2]
        with torch.no_grad():
            conv.weight.mul_(factor)
            conv.weight_quantizer.log2_step.add_(math.log2(factor))
        retraining.set_trainable(net, what)
        state = retraining.start(net, teacher, low, 1e-2)
        for p in net.parameters():
            p.grad = torch.ones_like(p)
        kernel = conv.weight.detach().clone()
        for _ in range(
            3
        ):  # the first factor of a product has no effect before the second one has learned
            state.optimizer.step()
        changes.append(((conv.weight - kernel).square().mean().sqrt() / kernel.std()).item())
    assert changes[0] == pytest.approx(changes[1], rel=1e-3)
    assert 1e-3 < changes[0] < 0.2


def test_every_tensor_has_a_rate_in_its_own_units(couple, pixels):
    net, teacher = couple(4)
    low = pixels(2)
    with torch.no_grad():
        for conv in network.convolutions(net).values():
            conv.weight_quantizer.log2_step.add_(20)  # so that all levels are equally coarse
    retraining.set_trainable(net, "weights")
    groups = retraining.start(net, teacher, low, 0.5).optimizer.param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == len(learning(net)) == len(groups)
    conv = net.head[0]
    deviation = teacher.head(teacher.view(low)[1]).std().item()
    expected = {
        conv.weight: 0.5 * conv.weight.std().item(),
        conv.bias: 0.5 * 0.3 * deviation,
        conv.weight_quantizer.log2_step: 0.5 * 0.3,
        net.deep.zero: 0.5 * 2,
    }
    for tensor, rate in expected.items():
        assert rates[id(tensor)] == pytest.approx(rate)


def test_all_of_a_layer_learns_the_slower_the_finer_its_levels_are(couple, pixels):
    (net, teacher), low = couple(4), pixels(1)
    conv = net.head[0]
    spread = retraining.deviations(teacher, low)["head"]
    retraining.set_trainable(net, "weights")
    groups = retraining.start(net, teacher, low, 1.0).optimizer.param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    levels = {c: c.weight_quantizer.step.mean().item() for c in network.convolutions(net).values()}
    kernels = {c: c.weight * (c.factors() if c.factors() is not None else 1) for c in levels}
    coarse = {c: min(1.0, level / kernels[c].std().item()) for c, level in levels.items()}
    unit = coarse[conv] / max(coarse.values())
    assert unit < 0.1, "the first layer has 8 bits"
    assert rates[id(conv.weight)] == pytest.approx(unit * conv.weight.std().item(), rel=1e-4)
    assert rates[id(conv.bias)] == pytest.approx(unit * 0.3 * spread, rel=1e-4)
    assert rates[id(conv.weight_quantizer.log2_step)] == pytest.approx(unit * 0.3, rel=1e-4)


def test_the_coarsest_layer_learns_at_the_rate_itself(couple, pixels):
    """The rate follows from the error of the output, whatever the bits are."""
    for bits in (2, 8):
        net, teacher = couple(bits)
        retraining.set_trainable(net, "weights")
        groups = retraining.start(net, teacher, pixels(1), 0.5).optimizer.param_groups
        rates = {id(p): group["lr"] for group in groups for p in group["params"]}
        kernels = [conv.weight for conv in network.convolutions(net).values()]
        shares = [rates[id(kernel)] / kernel.std().item() for kernel in kernels]
        assert max(shares) == pytest.approx(0.5, rel=1e-4)


def test_the_rate_is_in_proportion_to_the_error_up_to_a_limit():
    assert retraining.proportional_rate(0.01, 41.938) == pytest.approx(0.01, rel=1e-3)
    assert retraining.proportional_rate(0.01, 47.959) == pytest.approx(0.005, rel=1e-3)
    assert retraining.proportional_rate(0.01, 10) == pytest.approx(0.0125)


def test_kernels_of_one_weight_and_of_zeros_have_a_rate():
    assert retraining.LowRank(torch.ones(1, 1, 1, 1), 2).spread == pytest.approx(0.5**0.5)
    assert retraining.LowRank(torch.zeros(2, 3, 1, 1), 2).spread > 0


# Penalties


def test_hold_is_the_weighted_squared_change_and_pulls_towards_the_float_weights(couple, pixels):
    net, teacher = couple(2)
    found = saliency.measure(teacher, pixels(2), 1)
    kernels = {n: c.weight.detach().clone() for n, c in network.convolutions(teacher).items()}
    with torch.no_grad():
        for conv in network.convolutions(net).values():
            conv.weight.add_(0.02 * torch.randn_like(conv.weight))
    hold = retraining.KernelPenalty(net, found, kernels, 3.0)
    expected, changes, pulled = 0.0, {}, {}
    for name, conv in network.convolutions(net).items():
        changes[name] = conv.rounded_weight().detach() - kernels[name]
        expected += (found.weights[name].double() * changes[name].double() ** 2).sum().item()
    assert hold().item() == pytest.approx(3 * expected, rel=1e-4)
    hold().backward()
    for name, conv in network.convolutions(net).items():
        pull = 6 * found.weights[name] * changes[name]
        free = conv.weight.grad != 0  # other weights lie beyond the range of their grid
        pulled[name] = free.flatten()
        torch.testing.assert_close(conv.weight.grad[free], pull[free], rtol=1e-4, atol=1e-12)
    assert torch.cat([*pulled.values()]).float().mean() > 0.5


@pytest.fixture
def penalty(couple, pixels):
    """Function (hold, blocks) -> (penalty, its networks, images, the loss before training)."""

    def build(hold: float, blocks: float, of=None):
        net, teacher = couple(2) if of is None else of
        low = pixels(2, 6, 6)
        objective = training_loop.Objective(training_loop.teacher_target(teacher))
        with torch.no_grad():
            loss = objective(net.eval()(low), low, low).item()
        found = saliency.measure(teacher, low, 1)
        config = QuantizeConfig(hold=hold, blocks=blocks)
        context = retraining.penalty(net, teacher, found, low, objective, config)
        return context, (net, teacher), low, loss

    return build


def test_hold_begins_as_its_share_of_the_loss(penalty):
    context, _, _, loss = penalty(0.25, 0)
    with context as added:
        assert added is not None and added().item() == pytest.approx(0.25 * loss, rel=1e-4)


def test_both_parts_are_added(penalty):
    context, nets, low, loss = penalty(0.25, 0.1)
    with context as added:
        for net in nets:
            net(low)
        watched = [net.cells[0]._forward_hooks for net in nets]
        assert added().item() > 0.25 * loss and all(watched)
    assert not any(watched), "closed, it watches no more"


def test_nothing_is_added_without_weights_or_without_cells(penalty, pixels):
    with penalty(0, 0)[0] as added:
        assert added is None
    alone = nn.Conv2d(3, 3, 1)
    context = retraining.penalty(
        alone, alone, saliency.Saliency({}, {}), pixels(1), training_loop.Objective(),
        QuantizeConfig(blocks=1.0),
    )  # fmt: skip
    with context as added:
        assert added is None


# Cell after cell


def cell_errors(net, teacher, low, gains) -> list[float]:
    blocks = block_outputs.BlockPenalty(net, teacher, gains, 1.0)
    with torch.no_grad():
        net.eval()(low), teacher(low)
    pairs = zip(blocks.rounded.outputs, blocks.float.outputs, gains, strict=True)
    blocks.close()
    return [block_outputs.predicted_error(a, b, g).item() for a, b, g in pairs]


@pytest.mark.parametrize("what", ["weights", "lowrank:2", "clip"])
def test_reconstruction_brings_the_cells_nearer_and_touches_nothing_else(couple, pixels, what):
    (net, teacher), low = couple(2), pixels(8, 8, 8)
    gains = block_outputs.gains(teacher, low)
    before, errors = copy.deepcopy(net), cell_errors(net, teacher, low, gains)
    retraining.set_trainable(net, what)
    records = list(retraining.reconstruct(net, teacher, low, 20, 1e-2))
    assert records == [(i + 1, 40) for i in range(40)]
    retraining.merge(net)
    now = cell_errors(net, teacher, low, gains)
    assert all(b < (0.98 if what == "clip" else 0.8) * a for a, b in zip(errors, now, strict=True))
    old = before.state_dict()
    changed = {name for name, t in net.state_dict().items() if not torch.equal(t, old[name])}
    assert changed and all(name.startswith("cells.") for name in changed)
    if what == "clip":
        assert not [name for name in changed if name.endswith((".weight", ".bias"))]


def test_a_network_without_cells_has_nothing_to_reconstruct(pixels):
    net = nn.Conv2d(3, 3, 1)
    assert list(retraining.reconstruct(net, net, pixels(1), 5, 0.1)) == []


# All together


@pytest.mark.parametrize("what", ["weights", "lowrank:4", "clip"])
def test_training_what_is_free_follows_the_teacher_better(couple, halves, what):
    net, teacher = couple(2)
    learn, _ = halves
    objective = training_loop.Objective(training_loop.teacher_target(teacher))
    with torch.no_grad():
        for conv in network.convolutions(net).values():
            conv.weight_quantizer.log2_step.add_(0.7)  # so that clip, too, has something to do
    rate = 0.1 if what == "clip" else 0.02
    retraining.set_trainable(net, what)
    state = retraining.start(net, teacher, learn.batch(0, 8)[0], rate)
    before = training_loop.measure(net, learn, objective)
    schedule = training_loop.Schedule(20, 4, rate, check=10, warmup=2)
    list(training_loop.fit(state, learn, learn, schedule, objective))
    assert training_loop.measure(net, learn, objective) > before + 1
