"""Checks the random baseline: the distribution of architectures, and their budget."""

import dataclasses

import numpy as np
import pytest

from quantnas.architectures import cost, network, registry
from quantnas.config.genotype import searched_precision
from quantnas.config.run_config import SearchConfig
from quantnas.errors import UsageError
from quantnas.nas import random_search
from quantnas.nas.bitops_budget import TOLERANCE

CONFIG = SearchConfig(
    strategy="random", samples=2, epochs=3, steps_per_epoch=3, warmup_epochs=0, batch=2, patch=6
)


def bitops(space, genotype, size=(32, 32)) -> int:
    slots = registry.slots(space)
    rows = cost.layers(slots, genotype, searched_precision(genotype), space.scale)
    return cost.bitops_at(rows, size, space.scale)


def ends(space) -> tuple[int, int]:
    extent = cost.extent(registry.slots(space), space.scale)
    return tuple(extent[end].bitops["LR 32x32"] for end in ("smallest", "largest"))


# Drawing


@pytest.mark.parametrize("name", ["tiny", "apart", "basic"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_architectures_are_drawn_within_the_target(small, name, share):
    space = small[name]
    low, high = ends(space)
    target = low + share * (high - low)
    config = dataclasses.replace(CONFIG, target_bitops=target * 17 * 20 / 1024, at="17x20")
    found = random_search.draw(registry.slots(space), space, config, 4, seed=0)
    assert len(found) == 4
    for genotype in found:
        network.build(space, genotype, None)  # the genotype fits, shared choices included
        assert abs(bitops(space, genotype, (17, 20)) / config.target_bitops - 1) <= TOLERANCE


def test_without_a_target_the_draw_is_uniform(tiny):
    found = random_search.draw(registry.slots(tiny), tiny, CONFIG, 600, seed=3)
    edges = {s.name: s for s in registry.slots(tiny) if s.options > 1}
    for name, slot in edges.items():
        counts = np.zeros(slot.options)
        for genotype in found:
            choice = genotype.choices[name]
            at = slot.ops.index(choice.op), slot.bit_widths.index(choice.precision)
            counts[at[0] * len(slot.bit_widths) + at[1]] += 1
        p = 1 / slot.options
        assert (abs(counts / 600 - p) < 4.5 * (p * (1 - p) / 600) ** 0.5).all()


def test_the_seed_decides_the_draw(tiny):
    slots = registry.slots(tiny)
    first, again, other = (random_search.draw(slots, tiny, CONFIG, 3, s) for s in (1, 1, 2))
    assert first == again != other


def test_edges_that_are_decided_together_are_drawn_together(small):
    space = small["basic"]
    for genotype in random_search.draw(registry.slots(space), space, CONFIG, 5, seed=0):
        for name in ("skip", "body0", "body1"):
            assert genotype.choices[f"cell0_{name}"] == genotype.choices[f"cell1_{name}"]


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_target_that_nothing_meets_is_an_error(tiny, monkeypatch, factor):
    monkeypatch.setattr(random_search, "TRIES", 50)
    end = ends(tiny)[factor > 1] * factor
    config = dataclasses.replace(CONFIG, target_bitops=float(end))
    with pytest.raises(UsageError, match="met the target only 0 times"):
        random_search.draw(registry.slots(tiny), tiny, config, 2, seed=0)
