"""Checks the price of BitOps and the decision within a budget, against brute force."""

import itertools
import math

import numpy as np
import pytest
import torch

from quantnas.errors import UsageError
from quantnas.nas import bitops_budget
from quantnas.nas.bitops_budget import TOLERANCE, Multiplier


def instance(seed: int, choices: int = 5) -> tuple[dict, dict]:
    """Draw (scores, costs) of a few choices with up to 3x2 pairs."""
    rng = np.random.default_rng(seed)
    scores, costs = {}, {}
    for k in range(choices):
        shape = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        odds = rng.normal(0, 2, shape)
        scores[f"c{k}"] = odds - np.log(np.exp(odds).sum())
        costs[f"c{k}"] = rng.integers(1, 1000, shape) * 1e5
    return scores, costs


def value(tables: dict, picks: dict) -> float:
    return sum(tables[name][at] for name, at in picks.items())


def everything(scores: dict) -> list[dict]:
    each = [list(np.ndindex(table.shape)) for table in scores.values()]
    return [dict(zip(scores, picks, strict=True)) for picks in itertools.product(*each)]


@pytest.mark.parametrize("seed", range(20))
def test_the_best_network_within_the_budget_is_decided(seed):
    scores, costs = instance(seed)
    every = everything(scores)
    target = float(np.random.default_rng(seed).choice([value(costs, p) for p in every]))
    fitting = [p for p in every if abs(value(costs, p) / target - 1) <= TOLERANCE]
    found = bitops_budget.decide(scores, costs, target)
    assert list(found) == list(scores)
    assert abs(value(costs, found) / target - 1) <= TOLERANCE
    best = max(value(scores, p) for p in fitting)
    assert value(scores, found) == pytest.approx(best, abs=0.02 * abs(best))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("factor", [0.1, 0.5, 1.5, 3.0])
def test_beyond_the_range_the_nearest_network_is_decided(seed, factor):
    scores, costs = instance(seed)
    totals = [value(costs, p) for p in everything(scores)]
    end = min(totals) if factor < 1 else max(totals)
    found = bitops_budget.decide(scores, costs, end * factor)
    cells = len(costs) * end * factor / bitops_budget.BINS
    assert value(costs, found) == pytest.approx(end, abs=cells)


def test_in_a_gap_the_nearest_network_is_decided():
    scores, costs = {"a": np.array([[0.0, -9.0]])}, {"a": np.array([[1e6, 2e6]])}
    assert bitops_budget.decide(scores, costs, 1.6e6) == {"a": (0, 1)}
    assert bitops_budget.decide(scores, costs, 1.4e6) == {"a": (0, 0)}


def test_hopeless_and_free_pairs_can_be_decided():
    scores = {"a": np.array([[0.0, -1e9]]), "b": np.array([[0.0], [-3.0]])}
    costs = {"a": np.array([[1e6, 3e6]]), "b": np.array([[0.0], [1e6]])}
    assert bitops_budget.decide(scores, costs, 1e6) == {"a": (0, 0), "b": (0, 0)}
    assert bitops_budget.decide(scores, costs, 4e6) == {"a": (0, 1), "b": (1, 0)}


def test_many_choices_are_decided_within_the_budget():
    scores, costs = instance(0, choices=60)
    likely = {n: np.unravel_index(t.argmax(), t.shape) for n, t in scores.items()}
    for share in (0.7, 1.0, 1.2):
        target = share * value(costs, likely)
        found = bitops_budget.decide(scores, costs, target)
        assert abs(value(costs, found) / target - 1) <= TOLERANCE
        if share == 1:
            assert value(scores, found) >= value(scores, likely) - 1e-9


# The multiplier


def test_the_price_rises_over_the_target_and_falls_below_it():
    price = Multiplier(2e9)
    for bitops, sign in ((4e9, 1), (1e9, -1), (2e9, 0)):
        before = price.price
        price.update(bitops)
        assert np.sign(price.price - before) == sign


@pytest.mark.parametrize(("bitops", "sign"), [(3e9, 1), (1e9, -1)])
def test_the_term_pushes_towards_the_target(bitops, sign):
    price, expected = Multiplier(2e9), torch.tensor(bitops, requires_grad=True)
    price.term(expected).backward()
    assert torch.sign(expected.grad).item() == sign
    x = math.log(bitops / 2e9)
    wanted = 0.3 * x + price.rate / 2 * (abs(x) - price.slack) ** 2
    assert Multiplier(2e9, price=0.3).term(expected).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("share", [0.98, 1.02])
def test_close_to_the_target_the_price_stays(share):
    price, expected = Multiplier(2e9), torch.tensor(2e9 * share, requires_grad=True)
    price.update(expected.item())
    price.term(expected).backward()
    assert price.price == 0 and expected.grad == 0


def test_the_price_is_kept():
    price, other = Multiplier(2e9), Multiplier(2e9)
    price.update(5e9)
    other.load_state_dict(price.state_dict())
    assert other == price != Multiplier(2e9)


# The range


COSTS = {"fixed": np.array([[5e8]]), "open": np.linspace(5e8, 35e8, 16).reshape(4, 4)}


@pytest.mark.parametrize("target", [0.96e9, 1e9, 3e9, 4.2e9])
def test_a_target_within_the_range_passes(target):
    bitops_budget.check(COSTS, target, "32x32")


@pytest.mark.parametrize("target", [0.9e9, 4.3e9])
def test_a_target_out_of_range_is_answered_with_the_range(target):
    with pytest.raises(UsageError, match=r"GBitOps at LR 45x60") as caught:
        bitops_budget.check(COSTS, target, "45x60")
    assert "1G to 4G" in caught.value.remedy


def test_a_target_in_a_gap_is_answered_with_the_nearest_network():
    with pytest.raises(UsageError, match=r"within 5% of 2 GBitOps") as caught:
        bitops_budget.check({"edge": np.array([[1e9, 1.8e9, 4e9]])}, 2e9, "32x32")
    assert "nearest one 1.8G" in caught.value.remedy


def test_a_target_far_below_everything_is_answered_with_the_cheapest_at_once():
    costs = {"a": np.array([[3.0, 2.0], [5.0, 7.0]]) * 1e9, "b": np.array([[4.0, 1.0]]) * 1e9}
    scores = {name: np.zeros_like(table) for name, table in costs.items()}
    assert bitops_budget.decide(scores, costs, 1.0) == {"a": (0, 1), "b": (0, 1)}
    with pytest.raises(UsageError) as caught:
        bitops_budget.check(costs, 1.0, "32x32")
    assert "3G" in caught.value.remedy
