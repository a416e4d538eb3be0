"""Checks the contest: the order of trainings, the winner, and exact continuation."""

import dataclasses

import numpy as np
import pytest
import torch

from quantnas.architectures import cost, network, registry
from quantnas.config.genotype import searched_precision
from quantnas.config.run_config import SearchConfig
from quantnas.config.search_space import Edge
from quantnas.nas import random_search
from quantnas.nas.trial_training import Contest
from quantnas.training import checkpoint, training_loop

CONFIG = SearchConfig(
    strategy="random", samples=2, epochs=3, steps_per_epoch=3, warmup_epochs=0, batch=2, patch=6
)


def bitops(space, genotype) -> int:
    slots = registry.slots(space)
    rows = cost.layers(slots, genotype, searched_precision(genotype), space.scale)
    return cost.bitops_at(rows, (32, 32), space.scale)


def contest(space, config=CONFIG) -> Contest:
    drawn = random_search.draw(registry.slots(space), space, config, config.samples, seed=0)
    steps = config.epochs * config.steps_per_epoch
    return Contest(space, config, drawn, steps, torch.device("cpu"))


def test_steps_are_shared_and_the_best_network_wins(tiny, material):
    loop = contest(tiny)
    steps = list(loop.steps(material))
    assert [s.step for s in steps] == list(range(1, 10))
    assert [s.sample for s in steps] == [1] * 4 + [2] * 5
    assert [s.bitops for s in steps] == [bitops(tiny, loop.genotypes[s.sample - 1]) for s in steps]
    assert [s.best is None for s in steps] == [True] * 3 + [False] * 6
    assert steps[-1].best == max(loop.psnr) and len(loop.psnr) == 2
    assert loop.winner()[0] == loop.genotypes[int(np.argmax(loop.psnr))]
    assert [s["psnr"] for s in loop.scores()] == loop.psnr


def test_two_thirds_of_the_steps_are_in_float(tiny, material):
    loop, rounded = contest(tiny), []
    for _ in loop.steps(material):
        rounded.append(loop.rounded)
    assert rounded == [False, False, True, False, False, False, False, True, False]


def test_the_winners_weights_are_those_that_were_scored(tiny, material, monkeypatch):
    loop, scored = contest(tiny), []
    measure = training_loop.measure

    def keep(net, *rest):
        scored.append({n: c.weight.clone() for n, c in network.convolutions(net).items()})
        return measure(net, *rest)

    monkeypatch.setattr(training_loop, "measure", keep)
    list(loop.steps(material))
    _, net = loop.winner()
    expected = scored[int(np.argmax(loop.psnr))]
    for name, conv in network.convolutions(net).items():
        assert torch.equal(conv.weight, expected[name])


@pytest.mark.parametrize("stop", [1, 3, 4, 7, 8])
def test_a_contest_continues_exactly_where_it_stopped(tiny, material, tmp_path, stop, equal_states):
    whole = contest(tiny)
    records = list(whole.steps(material))
    half, begun = contest(tiny), []
    for record in half.steps(material):
        begun.append(record)
        if record.step == stop:
            break
    checkpoint.save(tmp_path / "c.pt", stop, {"contest": half})
    torch.manual_seed(99)
    rest = contest(tiny)
    first = checkpoint.load(tmp_path / "c.pt", {"contest": rest})
    assert begun + list(rest.steps(material, first)) == records
    assert equal_states(whole.state_dict(), rest.state_dict())
    assert whole.winner()[0] == rest.winner()[0]


def test_random_search_works_in_float(tiny, material):
    edge = Edge(("conv1x1", "conv3x3"), (32,))
    space = dataclasses.replace(tiny, edges=dict.fromkeys(tiny.edges, edge))
    loop = contest(space)
    assert len(list(loop.steps(material))) == 9 and not loop.rounded
    assert {c.weights for c in loop.winner()[0].choices.values()} == {32}
