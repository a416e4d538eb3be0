"""Checks training: targets, the best weights, and exact continuation from a checkpoint."""

import itertools
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from quantnas.architectures import network
from quantnas.config.genotype import searched_precision
from quantnas.nn.image_layers import luma
from quantnas.training import checkpoint, training_loop
from quantnas.training.training_loop import Objective, Schedule, TrainingProgress

SCHEDULE = Schedule(steps=6, batch=2, lr=5e-3, check=2)


@pytest.fixture
def make(tiny, random_genotype, halves):
    """Function (rounded, seed) -> a network with fitted grids."""

    def build(rounded: bool = True, seed: int = 0):
        torch.manual_seed(seed)
        genotype = random_genotype(tiny, 1)
        net = network.build(tiny, genotype, searched_precision(genotype) if rounded else None)
        if rounded:
            network.initialise(net, halves[0].batch(0, 4)[0])
        return net

    return build


def psnr(net, validation, target=None) -> float:
    low, high = validation.batch(0, 32)
    with torch.no_grad():
        out = net.eval()(low).clamp(0, 1).double().numpy()
    expected = (high if target is None else target(low, high)).double().numpy()
    return float(-10 * np.log10(((out - expected) ** 2).mean()))


@pytest.mark.parametrize("rounded", [False, True])
def test_training_brings_the_loss_down(make, halves, rounded):
    net = make(rounded)
    before = psnr(net, halves[1])
    schedule = Schedule(steps=120, batch=4, lr=5e-3, check=20)
    steps = list(training_loop.fit(training_loop.start(net, 5e-3), *halves, schedule))
    assert [s.step for s in steps] == list(range(1, 121))
    assert np.mean([s.loss for s in steps[-20:]]) < 0.95 * np.mean([s.loss for s in steps[:20]])
    assert psnr(net, halves[1]) > before + 1


def test_measurements_come_when_announced_and_at_the_end(make, halves):
    schedule = Schedule(steps=5, batch=2, lr=1e-3, check=2)
    steps = training_loop.fit(training_loop.start(make(), 1e-3), *halves, schedule)
    assert [s.step for s in steps if s.psnr is not None] == [2, 4, 5]


def test_the_network_ends_in_its_best_state(make, halves):
    net = make(False)
    list(training_loop.fit(training_loop.start(net, 5e-3), *halves, Schedule(40, 4, 5e-3)))
    schedule = Schedule(steps=8, batch=2, lr=1.0, check=1)
    found, states = [], []
    for step in training_loop.fit(training_loop.start(net, 1.0), *halves, schedule):
        found.append(step.psnr)
        states.append({k: v.clone() for k, v in net.state_dict().items()})
    best = int(np.argmax(found))
    assert best < len(found) - 1
    assert all(torch.equal(v, states[best][k]) for k, v in net.state_dict().items())
    assert psnr(net, halves[1]) == pytest.approx(max(found), abs=1e-3)
    assert not net.training


def test_the_target_is_what_is_learned(make, halves):
    net, teacher = make(), make(False, seed=5)
    target = training_loop.teacher_target(teacher)
    low, high = halves[0].batch(0, 4)
    with torch.no_grad():
        expected = teacher(low).clamp(0, 1)
        first = F.l1_loss(net.train()(low), expected).item()
    assert torch.equal(target(low, high), expected) and not target(low, high).requires_grad
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    untrained = psnr(net, halves[1], target)
    schedule = Schedule(steps=30, batch=4, lr=5e-3, check=10)
    steps = list(
        training_loop.fit(training_loop.start(net, 5e-3), *halves, schedule, Objective(target))
    )
    assert steps[0].loss == pytest.approx(first, rel=1e-5)
    learned = psnr(net, halves[1], target)
    assert learned > untrained + 1
    assert learned == pytest.approx(max(s.psnr for s in steps if s.psnr), abs=1e-3)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


@pytest.mark.parametrize("rounded", [False, True])
def test_training_continues_exactly_where_it_stopped(make, halves, tmp_path, rounded, equal_states):
    whole = training_loop.start(make(rounded), SCHEDULE.lr)
    records = list(training_loop.fit(whole, *halves, SCHEDULE))
    half = training_loop.start(make(rounded), SCHEDULE.lr)
    begun = []
    for record in training_loop.fit(half, *halves, SCHEDULE):
        begun.append(record)
        if record.step == 3:
            checkpoint.save(tmp_path / "c.pt", 3, half.parts())
            break
    rest = training_loop.start(make(rounded, seed=9), 1.0)
    first = checkpoint.load(tmp_path / "c.pt", rest.parts())
    ended = list(training_loop.fit(rest, *halves, SCHEDULE, first=first))
    assert begun + ended == records
    for name, part in whole.parts().items():
        assert equal_states(part.state_dict(), rest.parts()[name].state_dict()), name


def test_a_finished_training_does_nothing_more_but_gives_its_best(
    make, halves, tmp_path, equal_states
):
    state = training_loop.start(make(), SCHEDULE.lr)
    list(training_loop.fit(state, *halves, SCHEDULE))
    checkpoint.save(tmp_path / "c.pt", 6, state.parts())
    other = training_loop.start(make(seed=4), SCHEDULE.lr)
    first = checkpoint.load(tmp_path / "c.pt", other.parts())
    assert list(training_loop.fit(other, *halves, SCHEDULE, first=first)) == []
    assert equal_states(other.net.state_dict(), state.net.state_dict())


def test_grids_learn_faster_than_weights_and_fixed_ones_not_at_all(make):
    net = make()
    state = training_loop.start(net, 0.01)
    rates = {id(p): g["lr"] for g in state.optimizer.param_groups for p in g["params"]}
    for name, p in net.named_parameters():
        if not p.requires_grad:
            assert id(p) not in rates
        else:
            factor = {"zero": 20, "log2_step": 4, "octaves": 4}.get(name.rpartition(".")[2], 1)
            assert rates[id(p)] == pytest.approx(0.01 * factor), name


def test_the_rate_warms_up_and_falls_to_zero(make, halves):
    state = training_loop.start(make(False), 1.0)
    rates = []
    for _ in training_loop.fit(state, *halves, Schedule(steps=60, batch=1, lr=1e-4, check=100)):
        rates.append(state.optimizer.param_groups[0]["lr"])
    assert rates[0] < 0.1e-4 and max(rates) == pytest.approx(0.75e-4, rel=0.1)
    assert rates[:19] == sorted(rates[:19]) and rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 <= rates[-1] < 1e-6 and math.isfinite(sum(rates))


def test_every_loss_is_zero_for_equal_images_and_grows_with_the_difference():
    a = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    for name, loss in training_loop.LOSSES.items():
        assert loss(a, a).item() == pytest.approx(0, abs=2e-3), name
        assert loss(a, a + 0.1).item() == pytest.approx(0.1, abs=1e-3), name
        assert loss(a, a + 0.2).item() == pytest.approx(0.2, abs=1e-3), name


def test_the_luma_objective_is_blind_to_colour():
    low, high = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 8, 8)
    tint = torch.tensor([1.0, -0.299 / 0.587, 0.0])[:, None, None] * 0.1
    assert luma(high + tint).sub(luma(high)).abs().max() < 1e-6
    assert Objective(colours=1)(high + tint, low, high).item() < 1e-6
    assert Objective(colours=3)(high + tint, low, high).item() > 0.04


def test_a_teacher_has_its_share_of_the_loss():
    low, high, out = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    lesson = torch.rand(1, 3, 8, 8)
    objective = Objective(teacher=lambda low, high: lesson, share=0.25)
    expected = 0.75 * F.l1_loss(out, high) + 0.25 * F.l1_loss(out, lesson)
    assert objective(out, low, high).item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_average_of_the_weights_is_what_is_measured_and_kept(make, halves):
    net = make(False)
    schedule = Schedule(steps=8, batch=2, lr=5e-3, check=4, average=0.9)
    state = training_loop.start(net, schedule.lr, average=True)
    expected = {k: v.clone() for k, v in state.average.state_dict().items()}
    for step in training_loop.fit(state, *halves, schedule):
        decay = min(0.9, step.step / (10 + step.step))
        weights = dict(net.named_parameters())
        for name, value in expected.items():
            if name in weights and weights[name].requires_grad:
                value.mul_(decay).add_(weights[name].detach(), alpha=1 - decay)
        if step.psnr is not None:
            assert psnr(state.average, halves[1]) == pytest.approx(step.psnr, abs=1e-3)
    for name, value in state.last.items():
        assert torch.allclose(value, expected[name], atol=1e-6), name
    assert psnr(net, halves[1]) == pytest.approx(state.best.psnr, abs=1e-3)


def test_a_time_limit_ends_the_cosine_in_time(make, halves, monkeypatch):
    clock = itertools.count(0.0, 0.005)  # every step takes so many seconds
    monkeypatch.setattr(training_loop, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    schedule = Schedule(steps=10**6, batch=2, lr=1e-3, check=10**6, seconds=1.5)
    state, rates = training_loop.start(make(False), 1e-3), []
    for step in training_loop.fit(state, *halves, schedule):
        rates.append((step.step, step.total, state.optimizer.param_groups[0]["lr"]))
    done, total, last = rates[-1]
    assert done == total == len(rates) and 280 < done <= 300
    assert last < 0.1e-3 and max(rate for _, _, rate in rates) > 0.7e-3
    assert math.isfinite(state.best.psnr)


def test_time_used_before_an_interruption_counts(make, halves):
    schedule = Schedule(steps=10**6, batch=2, lr=1e-3, seconds=100.0)
    pace = TrainingProgress()
    pace.load_state_dict({"steps": 1000, "done": 0.5, "seconds": 99.0})
    pace.advance(990, 0.1, schedule)
    assert pace.seconds == pytest.approx(99.1)
    assert 990 <= pace.steps <= 1000


def test_measuring_counts_as_time(make, halves, monkeypatch):
    measure = training_loop.measure

    def slow(*arguments):
        time.sleep(0.05)
        return measure(*arguments)

    monkeypatch.setattr(training_loop, "measure", slow)
    schedule = Schedule(steps=10**6, batch=2, lr=1e-3, check=2, seconds=2.0)
    state, began = training_loop.start(make(False), 1e-3), time.monotonic()
    list(training_loop.fit(state, *halves, schedule))
    assert 1.5 < time.monotonic() - began < 3
    assert state.pace.seconds == pytest.approx(2, abs=0.3)


def test_a_training_too_slow_for_its_time_ends_at_once_after_a_step():
    pace, schedule = TrainingProgress(), Schedule(steps=100, batch=2, lr=1e-3, seconds=10.0)
    pace.steps = 100
    for step, planned in ((1, 100), (2, 100), (3, 3)):
        pace.advance(step, 4.0, schedule)
        assert pace.steps == planned
    alone = TrainingProgress(steps=100)
    alone.advance(1, 11.0, schedule)
    assert alone.steps == 1


def test_a_rate_with_time_to_spare_is_that_of_the_steps(make, halves):
    plain, limited = [], []
    for seconds, rates in ((None, plain), (10**6, limited)):
        state = training_loop.start(make(False), 1e-3)
        schedule = Schedule(steps=30, batch=1, lr=1e-3, check=100, seconds=seconds)
        for _ in training_loop.fit(state, *halves, schedule):
            rates.append(state.optimizer.param_groups[0]["lr"])
    assert len(plain) == len(limited)
    assert limited == pytest.approx(plain, abs=1e-4 * 1e-3)
