"""Checks the architecture parameters of a choice: probabilities, entropy and decisions."""

import math

import numpy as np
import pytest
import torch

from quantnas.nas.alphas import Alphas

BOTH = pytest.mark.parametrize("joint", [False, True])


def drawn(ops: int, widths: int, joint: bool, spread: float = 2.0) -> Alphas:
    alphas = Alphas(ops, widths, joint)
    with torch.no_grad():
        for p in alphas.parameters():
            p.normal_(0, spread)
    return alphas


@BOTH
@pytest.mark.parametrize(("ops", "widths"), [(3, 2), (1, 4), (5, 1), (1, 1)])
def test_a_table_sums_to_one_and_starts_uniform(ops, widths, joint):
    assert drawn(ops, widths, joint, 5.0).table().sum().item() == pytest.approx(1)
    fresh = Alphas(ops, widths, joint).table()
    torch.testing.assert_close(fresh, torch.full((ops, widths), 1 / (ops * widths)))


def test_factorised_probabilities_are_a_product_of_two():
    alphas = drawn(4, 3, False)
    p, q = (np.exp(a.detach().numpy()) for a in (alphas.op, alphas.width))
    expected = np.outer(p / p.sum(), q / q.sum())
    np.testing.assert_allclose(alphas.table().detach(), expected, rtol=1e-5)


def test_joint_probabilities_are_one_softmax_over_all_pairs():
    alphas = drawn(4, 3, True)
    odds = np.exp(alphas.pair.detach().numpy())
    np.testing.assert_allclose(alphas.table().detach(), odds / odds.sum(), rtol=1e-5)
    assert np.linalg.matrix_rank(alphas.table().detach().numpy()) > 1


@BOTH
def test_the_entropy_is_that_of_the_table_and_at_most_that_of_the_uniform_one(joint):
    alphas = drawn(4, 3, joint)
    p = alphas.table().detach().double().numpy()
    assert alphas.entropy().item() == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    assert alphas.most == pytest.approx(math.log(12))
    assert Alphas(4, 3, joint).entropy().item() == pytest.approx(alphas.most)


@BOTH
@pytest.mark.parametrize("size", [50.0, 1e4, 1e9, -1e9])
def test_the_entropy_of_decided_alphas_is_0_with_a_finite_gradient(joint, size):
    alphas = Alphas(3, 3, joint)
    with torch.no_grad():
        for p in alphas.parameters():
            p.fill_(min(size, 0.0)).view(-1)[1] = max(size, 0.0)
    alphas.entropy().backward()
    assert alphas.entropy().item() == pytest.approx(0, abs=1e-6)
    assert all(torch.isfinite(p.grad).all() for p in alphas.parameters())


@BOTH
@pytest.mark.parametrize("seed", range(4))
def test_the_best_pair_is_the_most_probable_one_whatever_its_sign(joint, seed):
    torch.manual_seed(seed)
    alphas = drawn(4, 3, joint)
    with torch.no_grad():
        for p in alphas.parameters():
            p.sub_(100)
    expected = np.unravel_index(alphas.table().detach().numpy().argmax(), (4, 3))
    assert alphas.best() == tuple(map(int, expected))


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_collapsing_gives_one_pair_everything_exactly(joint, dtype):
    alphas = drawn(4, 3, joint).to(dtype)
    alphas.collapse(2, 1)
    expected = torch.zeros(4, 3, dtype=dtype)
    expected[2, 1] = 1
    assert torch.equal(alphas.table(), expected) and alphas.best() == (2, 1)


@pytest.mark.parametrize(
    ("ops", "widths", "joint", "sizes"),
    [
        (3, 2, False, [3, 2]),
        (3, 1, False, [3]),
        (1, 2, False, [2]),
        (1, 1, False, []),
        (3, 2, True, [6]),
        (1, 1, True, []),
    ],
)
def test_only_what_can_be_chosen_learns(ops, widths, joint, sizes):
    assert [a.numel() for a in Alphas(ops, widths, joint).learning()] == sizes
