"""Checks the random baseline: what is drawn, who wins, and that it continues exactly."""

import dataclasses

import numpy as np
import pytest
import torch

from quantnas import checkpoint, cost, network, random_search, skeleton, train
from quantnas.budget import TOLERANCE
from quantnas.config import SearchConfig
from quantnas.errors import UsageError
from quantnas.genotype import searched_precision
from quantnas.random_search import Contest
from quantnas.space import Edge

CONFIG = SearchConfig(
    strategy="random", samples=2, epochs=3, steps_per_epoch=3, warmup_epochs=0, batch=2, patch=6
)


def bitops(where, genotype, size=(32, 32)) -> int:
    slots = skeleton.slots(where)
    rows = cost.layers(slots, genotype, searched_precision(genotype), where.scale)
    return cost.bitops_at(rows, size, where.scale)


def ends(where) -> tuple[int, int]:
    extent = cost.extent(skeleton.slots(where), where.scale)
    return tuple(extent[end].bitops["LR 32x32"] for end in ("smallest", "largest"))


# Drawing


@pytest.mark.parametrize("name", ["tiny", "apart", "basic"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_architectures_are_drawn_within_the_target(small, name, share):
    where = small[name]
    low, high = ends(where)
    target = low + share * (high - low)
    config = dataclasses.replace(CONFIG, target_bitops=target * 17 * 20 / 1024, at="17x20")
    found = random_search.draw(skeleton.slots(where), where, config, 4, seed=0)
    assert len(found) == 4
    for genotype in found:
        network.build(where, genotype, None)  # it fits, choices that are shared included
        assert abs(bitops(where, genotype, (17, 20)) / config.target_bitops - 1) <= TOLERANCE


def test_without_a_target_the_draw_is_uniform(tiny):
    found = random_search.draw(skeleton.slots(tiny), tiny, CONFIG, 600, seed=3)
    edges = {s.name: s for s in skeleton.slots(tiny) if s.options > 1}
    for name, slot in edges.items():
        counts = np.zeros(slot.options)
        for genotype in found:
            choice = genotype.choices[name]
            at = slot.ops.index(choice.op), slot.widths.index(choice.precision)
            counts[at[0] * len(slot.widths) + at[1]] += 1
        p = 1 / slot.options
        assert (abs(counts / 600 - p) < 4.5 * (p * (1 - p) / 600) ** 0.5).all()


def test_the_seed_decides_the_draw(tiny):
    slots = skeleton.slots(tiny)
    first, again, other = (random_search.draw(slots, tiny, CONFIG, 3, s) for s in (1, 1, 2))
    assert first == again != other


def test_edges_that_are_decided_together_are_drawn_together(small):
    where = small["basic"]
    for genotype in random_search.draw(skeleton.slots(where), where, CONFIG, 5, seed=0):
        for name in ("skip", "body0", "body1"):
            assert genotype.choices[f"cell0_{name}"] == genotype.choices[f"cell1_{name}"]


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_target_that_nothing_meets_is_an_error(tiny, monkeypatch, factor):
    monkeypatch.setattr(random_search, "TRIES", 50)
    end = ends(tiny)[factor > 1] * factor
    config = dataclasses.replace(CONFIG, target_bitops=float(end))
    with pytest.raises(UsageError, match="met the target only 0 times"):
        random_search.draw(skeleton.slots(tiny), tiny, config, 2, seed=0)


# The contest


def contest(where, config=CONFIG, seed=0) -> Contest:
    return Contest(where, config, seed, torch.device("cpu"))


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
    measure = train.measure

    def keep(net, *rest):
        scored.append({n: c.weight.clone() for n, c in network.convolutions(net).items()})
        return measure(net, *rest)

    monkeypatch.setattr(train, "measure", keep)
    list(loop.steps(material))
    _, net = loop.winner()
    wanted = scored[int(np.argmax(loop.psnr))]
    for name, conv in network.convolutions(net).items():
        assert torch.equal(conv.weight, wanted[name])


@pytest.mark.parametrize("stop", [1, 3, 4, 7, 8])
def test_a_contest_continues_exactly_where_it_stopped(tiny, material, tmp_path, stop, equal_states):
    whole = contest(tiny)
    records = list(whole.steps(material))
    half, begun = contest(tiny), []
    for record in half.steps(material):
        begun.append(record)
        if record.step == stop:
            break
    checkpoint.save(tmp_path / "c.pt", stop, half.parts())
    torch.manual_seed(99)
    rest = contest(tiny)
    first = checkpoint.load(tmp_path / "c.pt", rest.parts())
    assert begun + list(rest.steps(material, first)) == records
    assert equal_states(whole.state_dict(), rest.state_dict())
    assert whole.winner()[0] == rest.winner()[0]


def test_random_search_works_in_float(tiny, material):
    edge = Edge(("conv1x1", "conv3x3"), (32,))
    where = dataclasses.replace(tiny, edges=dict.fromkeys(tiny.edges, edge))
    loop = contest(where)
    assert len(list(loop.steps(material))) == 9 and not loop.rounded
    assert {c.weights for c in loop.winner()[0].choices.values()} == {32}
