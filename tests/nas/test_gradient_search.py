"""Checks the search: its terms, its effect, and that it continues exactly where it stopped."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from quantnas.architectures import cost, registry
from quantnas.config.run_config import SearchConfig
from quantnas.config.search_space import Edge
from quantnas.data.patches import Patches
from quantnas.errors import DivergedError
from quantnas.nas import bitops_budget, decision_log, gradient_search, objective, supernet
from quantnas.nas.search_conv import SearchConv2d
from quantnas.training import checkpoint, training_loop

CONFIG = SearchConfig(epochs=3, steps_per_epoch=2, warmup_epochs=1, batch=2, patch=6, refresh=4)
QUICK = dataclasses.replace(
    CONFIG, epochs=4, steps_per_epoch=4, warmup_epochs=0, alpha_lr=0.1, penalty=0.0, entropy=0.0
)


def started(space, config, seed=3) -> gradient_search.SearchState:
    torch.manual_seed(seed)
    return gradient_search.start(supernet.build(space, config), config)


def run(space, material, config, until=None, first=None):
    """Run a search from its start, or from the checkpoint at `first`; return (search, records)."""
    state, begin = started(space, config), 0
    if first is not None:
        state = started(space, config, seed=99)
        begin = checkpoint.load(first, state.parts())
    loop = gradient_search.Searching(space, state, material, config)
    return loop, list(itertools.islice(loop.steps(begin), None if until is None else until - begin))


def in_float(tiny):
    edge = Edge(("conv1x1", "conv3x3", "growth3x3"), (32,))
    return dataclasses.replace(tiny, edges=dict.fromkeys(tiny.edges, edge))


# The loop


def test_only_weights_learn_in_the_warm_up(tiny, material):
    loop, records = run(tiny, material, CONFIG, until=2)
    assert [r.step for r in records] == [1, 2]
    assert not any(a.any() for a in supernet.alphas(loop.net))
    assert all(r.entropy == pytest.approx(1.0) and r.decided == 0 for r in records)
    assert loop.state.checks.best is None


def test_a_search_moves_alphas_and_weights_and_records_what_it_does(tiny, material):
    config = dataclasses.replace(CONFIG, draw=False, at="20x17")
    loop, records = run(tiny, material, config)
    fresh = dict(started(tiny, config).net.named_parameters())
    assert [r.step for r in records] == list(range(1, 7))
    assert all(a.any() for a in supernet.alphas(loop.net))
    for name, p in loop.net.named_parameters():
        if name.endswith(".weight") and "norm" not in name:
            assert not torch.equal(p, fresh[name]), name
    last, tables = records[-1], cost.choice_bitops(loop.slots, 2, (20, 17))
    assert last.bitops == pytest.approx(objective.expected_bitops(loop.net, tables).item())
    assert last.entropy == pytest.approx(objective.entropy(loop.net).item()) and last.entropy < 1
    assert last.decided_bitops == pytest.approx(loop.bitops_of(loop.decide()), rel=1e-6)
    found = supernet.choices(loop.net)
    assert set(last.probabilities) == {n for n, a in found.items() if a.learning()}
    for name, p in last.probabilities.items():
        assert p == pytest.approx(found[name].table().flatten().tolist(), abs=1e-4)
    assert all(math.isfinite(v) for r in records for v in (r.loss, r.psnr, r.bitops))


def test_decided_choices_are_counted(tiny, material):
    config = dataclasses.replace(CONFIG, alpha_lr=0.0, weight_lr=0.0)
    loop = gradient_search.Searching(tiny, started(tiny, config), material, config)
    searched = [a for a in supernet.choices(loop.net).values() if a.learning()]
    with torch.no_grad():
        for alphas in searched[:2]:
            alphas.pair[0, 0] = 12
        searched[2].pair[0] = 12
    assert next(loop.steps()).decided == pytest.approx(2 / len(searched))


def test_the_record_holds_loss_and_psnr_of_the_weight_update(tiny, material):
    config = dataclasses.replace(CONFIG, weight_lr=0.0)
    _, records = run(tiny, material, config, until=1)
    net = started(tiny, config).net
    low, high = material.weights.batch(0, 2)
    torch.manual_seed(material.weights.seed * 1_000_003)
    gradient_search.fit_grids(net, low)
    net.train()
    with torch.no_grad():
        out = net(low)
    assert records[0].loss == pytest.approx(F.l1_loss(out, high).item(), rel=1e-5)
    assert records[0].psnr == pytest.approx(-10 * math.log10(F.mse_loss(out, high).item()))


def test_alphas_weights_and_checks_use_different_patches(tiny, material, monkeypatch):
    names = {id(p): n for n, p in vars(material).items()}
    asked, draw = {n: [] for n in names.values()}, Patches.batch

    def batch(self: Patches, step: int, count: int):
        asked[names[id(self)]].append((step, count))
        return draw(self, step, count)

    monkeypatch.setattr(Patches, "batch", batch)
    run(tiny, material, CONFIG)
    settling = [(i, 2) for i in range(4)]
    rounds = [[(2 * e, 2), (2 * e + 1, 2), *settling] for e in range(3)]
    assert asked["weights"] == list(itertools.chain(*rounds))
    assert asked["alphas"] == [(s, 2) for s in range(2, 6)]
    assert asked["held"] == [(0, 32)] * 3


def test_grids_are_fitted_often_at_the_start_and_then_regularly(tiny, material, monkeypatch):
    config = dataclasses.replace(CONFIG, epochs=7, refresh=6)
    loop, fitted, now = (
        gradient_search.Searching(tiny, started(tiny, config), material, config),
        [],
        [0],
    )
    monkeypatch.setattr(gradient_search, "fit_grids", lambda *rest, **more: fitted.append(now[0]))
    monkeypatch.setattr(loop, "_check", lambda epoch: None)
    for record in loop.steps():
        now[0] = record.step
    assert fitted == [0, 1, 2, 4, 6, 12]


@pytest.mark.parametrize("probabilities", ["factorised", "joint"])
@pytest.mark.parametrize("deviation", ["adq", "adadm", "batchnorm", "none"])
@pytest.mark.parametrize("relaxation", ["noise", "direct", "authors"])
def test_every_relaxation_trains(apart, material, relaxation, deviation, probabilities):
    how = {"relaxation": relaxation, "deviation": deviation, "probabilities": probabilities}
    config = dataclasses.replace(QUICK, epochs=1, **how)
    loop, records = run(apart, material, config, until=1)
    fresh = started(apart, config).net
    assert math.isfinite(records[0].loss) and records[0].entropy < 1
    moved = [not torch.equal(a, b) for a, b in zip(
        supernet.alphas(loop.net), supernet.alphas(fresh), strict=True)]  # fmt: skip
    assert all(moved)


def test_a_search_brings_the_loss_down(tiny, material):
    config = dataclasses.replace(QUICK, epochs=1, steps_per_epoch=30, batch=4, weight_lr=5e-3)
    _, records = run(tiny, material, config)
    losses = [r.loss for r in records]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


# Effect of the loss terms on the decision


def cheap_or_dear(tiny):
    edge = Edge(("conv1x1", "conv3x3"), (2, 8))
    return dataclasses.replace(tiny, edges=dict.fromkeys(tiny.edges, edge))


def test_a_large_penalty_finds_less_work(tiny, material):
    space, found = cheap_or_dear(tiny), {}
    for penalty in (0.0, 100.0):
        loop, records = run(space, material, dataclasses.replace(QUICK, penalty=penalty))
        found[penalty] = records[-1].bitops
    searched = [n for n, e in supernet.edges(loop.net).items() if e.slot.options > 1]
    choices = loop.decide().choices
    assert {(choices[n].op, choices[n].weights) for n in searched} == {("conv1x1", 2)}
    least = loop.bitops_of(loop.decide())
    assert 0 < found[100.0] - least < 0.25 * (found[0.0] - least)


def test_the_penalty_is_a_share_of_the_bitops_at_the_start(tiny, material):
    loop = gradient_search.Searching(tiny, started(tiny, CONFIG), material, CONFIG)
    expected = objective.expected_bitops(loop.net, loop.bitops).item()
    assert loop.at_start == pytest.approx(expected, rel=1e-5)


def test_the_entropy_term_makes_decisions(tiny, material):
    found = [
        run(tiny, material, dataclasses.replace(QUICK, entropy=e))[1][-1].entropy
        for e in (0.0, 100.0)
    ]
    assert found[1] < found[0] - 0.05


@pytest.mark.parametrize(
    ("name", "probabilities"), [("tiny", "factorised"), ("apart", "joint"), ("basic", "joint")]
)
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_target_is_met(small, material, name, share, probabilities):
    space = dataclasses.replace(small[name], scale=2)
    tables = cost.choice_bitops(registry.slots(space), 2, (9, 30)).values()
    low, high = (sum(end(t).item() for t in tables) for end in (torch.min, torch.max))
    target = low + share * (high - low)
    config = dataclasses.replace(
        QUICK,
        epochs=1,
        steps_per_epoch=2,
        target_bitops=target,
        at="9x30",
        probabilities=probabilities,
    )
    loop, records = run(space, material, config)
    check = records[-1].check
    assert check.genotype == loop.decide() and check.bitops == loop.bitops_of(check.genotype)
    assert abs(check.bitops / target - 1) <= bitops_budget.TOLERANCE


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_a_target_moves_the_expected_bitops_towards_it(tiny, material, share):
    space = cheap_or_dear(tiny)
    net = supernet.build(space)
    start = objective.expected_bitops(net, cost.choice_bitops(registry.slots(space), 2)).item()
    config = dataclasses.replace(QUICK, target_bitops=share * start)
    loop, records = run(space, material, config)
    assert abs(math.log(records[-1].bitops / start / share)) < 0.8 * abs(math.log(share))
    assert (loop.state.price.price > 0) == (share < 1)


def test_a_space_without_choices_can_be_searched(tiny, material):
    edge = Edge(("conv1x1",), (8,))
    space = dataclasses.replace(tiny, edges=dict.fromkeys(tiny.edges, edge))
    _, records = run(space, material, CONFIG)
    assert len(records) == 6 and records[-1].entropy == 0 and records[-1].probabilities == {}


@pytest.mark.parametrize("deviation", ["adq", "none"])
def test_a_search_in_float_decides_operations(tiny, material, deviation):
    space = in_float(tiny)
    loop, records = run(space, material, dataclasses.replace(QUICK, deviation=deviation))
    assert {(c.weights, c.activations) for c in loop.decide().choices.values()} == {(32, 32)}
    assert records[-1].entropy < 1 and math.isfinite(records[-1].check.psnr)


@pytest.mark.slow
def test_leaving_improbable_candidates_out_decides_the_same(tiny, material):
    config = dataclasses.replace(QUICK, alpha_lr=0.4, draw=False, penalty=1.0, entropy=5.0)
    found = []
    for floor in (0.0, CONFIG.floor):
        loop, _ = run(tiny, material, dataclasses.replace(config, floor=floor))
        found.append(loop.decide())
    shares = torch.cat([e.alphas.table().sum(1) for e in supernet.edges(loop.net).values()])
    assert (shares < CONFIG.floor).any(), "nothing was left out"
    assert found[0] == found[1]


# Checks at the end of an epoch


def test_a_check_scores_the_decided_rounded_network(tiny, material):
    loop, records = run(tiny, material, CONFIG)
    assert [r.check is not None for r in records] == [False, True] * 3
    check = records[-1].check
    assert check.genotype == loop.decide() and check.epoch == 3
    assert check.bitops == loop.bitops_of(check.genotype)
    batches = [material.weights.batch(i, 2)[0] for i in range(4)]
    torch.manual_seed(5 + material.weights.seed * 1_000_003)
    before = copy.deepcopy(loop.net.state_dict())
    net = gradient_search.decided_network(tiny, check.genotype, copy.deepcopy(loop.net), batches)
    assert check.psnr == pytest.approx(training_loop.measure(net, material.held), abs=0.5)
    assert all(torch.equal(v, before[k]) for k, v in loop.net.state_dict().items())


def test_the_best_check_after_the_warm_up_is_kept(tiny, material):
    config = dataclasses.replace(CONFIG, epochs=5, warmup_epochs=2)
    loop, records = run(tiny, material, config)
    checks = [r.check for r in records if r.check is not None]
    assert [c.epoch for c in checks] == [1, 2, 3, 4, 5]
    assert loop.state.checks.best == max(checks[2:], key=lambda c: c.psnr)


def test_the_best_check_is_written_and_read(tiny, material):
    loop, _ = run(tiny, material, CONFIG)
    other = decision_log.DecisionLog()
    other.load_state_dict(loop.state.checks.state_dict())
    assert other == loop.state.checks and other.best is not None
    other.load_state_dict(decision_log.DecisionLog().state_dict())
    assert other.best is None


def test_the_latest_different_networks_are_tried(tiny, random_genotype):
    found = [random_genotype(tiny, seed) for seed in (0, 1, 1, 2, 0)]
    rows = [decision_log.DecisionCheck(i + 1, 30.0, 1, g) for i, g in enumerate(found)]
    assert decision_log.DecisionLog(rows).distinct(9) == [found[0], found[3], found[1]]
    assert decision_log.DecisionLog(rows).distinct(2) == [found[0], found[3]]
    assert decision_log.DecisionLog().distinct(3) == []


# Divergence


@pytest.mark.parametrize(("warmup", "term"), [(0, "L1 of the alphas"), (1, "L1 of the weights")])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_search_that_diverges_is_stopped_before_anything_is_updated(
    tiny, material, warmup, term, value
):
    config = dataclasses.replace(CONFIG, warmup_epochs=warmup)
    loop = gradient_search.Searching(tiny, started(tiny, config), material, config)
    steps = loop.steps(0)
    next(steps)
    conv = next(m for m in loop.net.modules() if isinstance(m, SearchConv2d))
    conv.bias.data[0] = value
    learning = [*loop.weights, *loop.alphas]
    before = [p.detach().clone() for p in learning]
    with pytest.raises(DivergedError, match=rf"{term} became (nan|inf) at step 1"):
        next(steps)
    for p, b in zip(learning, before, strict=True):
        torch.testing.assert_close(p, b, rtol=0, atol=0, equal_nan=True)


def test_a_gradient_that_is_no_number_is_named(tiny, material):
    loop = gradient_search.Searching(tiny, started(tiny, CONFIG), material, CONFIG)
    p = loop.weights[0]
    before = [q.detach().clone() for q in loop.weights]
    term = (p.flatten()[0] - p.flatten()[0].detach()).abs().sqrt()  # 0, with an infinite slope
    with pytest.raises(DivergedError, match="gradient of L1 of the weights"):
        loop._update(7, loop.state.by_weight, loop.weights, {"L1 of the weights": term})
    assert all(torch.equal(q, b) for q, b in zip(loop.weights, before, strict=True))


# Continuing from a checkpoint


VARIANTS = {
    "noise": {},
    "direct": {"relaxation": "direct"},
    "authors": {"relaxation": "authors"},
    "target": {"target_bitops": 4e8, "probabilities": "joint"},
    "adadm": {"deviation": "adadm", "keep": "best", "refresh": 3},
}


@pytest.mark.parametrize(
    "variant",
    [pytest.param(v, marks=[pytest.mark.slow] * (v != "noise")) for v in VARIANTS],
)
def test_a_search_continues_exactly_where_it_stopped(
    tiny, material, tmp_path, variant, equal_states
):
    config = dataclasses.replace(CONFIG, **VARIANTS[variant])
    whole, records = gradient_search.Searching(tiny, started(tiny, config), material, config), []
    for record in whole.steps():
        records.append(record)
        checkpoint.save(tmp_path / f"{record.step}.pt", record.step, whole.state.parts())
    for stop in (1, 4, 6):
        rest, ended = run(tiny, material, config, first=tmp_path / f"{stop}.pt")
        assert ended == records[stop:]
        for name, part in whole.state.parts().items():
            assert equal_states(part.state_dict(), rest.state.parts()[name].state_dict()), name
        assert whole.decide() == rest.decide() and whole.state.checks == rest.state.checks


def test_the_seed_decides_a_search(tiny, material, equal_states):
    first, records = run(tiny, material, CONFIG)
    again, repeated = run(tiny, material, CONFIG)
    assert records == repeated
    assert equal_states(first.net.state_dict(), again.net.state_dict())


def test_the_penalty_counts_from_the_uniform_start_when_continued(tiny, material, tmp_path):
    config = dataclasses.replace(CONFIG, penalty=10.0, alpha_lr=0.3, warmup_epochs=0)
    _, records = run(tiny, material, config)
    half, _ = run(tiny, material, config, until=3)
    checkpoint.save(tmp_path / "c.pt", 3, half.state.parts())
    assert run(tiny, material, config, first=tmp_path / "c.pt")[1] == records[3:]


# The optimizers


def test_the_grids_that_learn_do_so_faster_than_the_weights(tiny):
    for relaxation, factors in (("noise", {1.0}), ("direct", {1.0, 4.0, 20.0})):
        state = started(tiny, dataclasses.replace(CONFIG, relaxation=relaxation))
        assert {g["factor"] for g in state.by_weight.param_groups} == factors


@pytest.mark.parametrize("relaxation", ["noise", "direct"])
def test_every_parameter_that_learns_belongs_to_one_optimizer(tiny, relaxation):
    state = started(tiny, dataclasses.replace(CONFIG, relaxation=relaxation))
    parts = [state.by_weight, state.by_alpha]
    owned = [id(p) for o in parts for g in o.param_groups for p in g["params"]]
    nothing = {id(a) for a in supernet.all_alphas(state.net)} - {*owned}
    wanted = {id(p) for p in state.net.parameters() if p.requires_grad} - nothing
    assert len(owned) == len({*owned}) and {*owned} == wanted
