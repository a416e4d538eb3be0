"""Checks the entropy term and its schedule, and that NaN and infinity are refused."""

import dataclasses
import math

import pytest
import torch

from quantnas.config import search_space
from quantnas.config.run_config import SearchConfig
from quantnas.errors import DivergedError
from quantnas.nas import objective, supernet


def test_the_entropy_schedule_is_the_published_one():
    late = [objective.entropy_weight(e, 20, 9) for e in range(20)]
    assert late[:9] == [0] * 9
    published = [0, 0, 0.06, 0.143, 0.241, 0.349, 0.467, 0.592, 0.722, 0.859, 1]
    assert late[9:] == pytest.approx(published, abs=6e-4)
    early = [objective.entropy_weight(e, 20, 0) for e in range(20)]
    assert early[:5] == [0] * 5
    published = [0.066, 0.125, 0.184, 0.244, 0.306, 0.369, 0.434, 0.501, 0.568]
    published += [0.637, 0.708, 0.779, 0.852, 0.925, 1]
    assert early[5:] == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5, 8])
def test_the_schedule_ends_at_1_or_stays_at_0_when_there_is_no_time(epochs):
    values = [objective.entropy_weight(e, epochs, 0) for e in range(epochs)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(1.0 if epochs > 1 else 0.0)


@pytest.mark.parametrize("probabilities", ["factorised", "joint"])
@pytest.mark.parametrize("name", ["tiny", "basic"])
def test_the_entropy_of_uniform_alphas_is_1(small, name, probabilities):
    net = supernet.build(small[name], SearchConfig(probabilities=probabilities))
    assert objective.entropy(net).item() == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "nats"), [("rfdn", 29 * math.log(18) + math.log(12))])
def test_the_entropies_of_the_published_space_start_at_their_published_sum(name, nats):
    space = dataclasses.replace(search_space.load(name), channels=12)
    choices = supernet.choices(supernet.build(space)).values()
    found = sum(a.entropy().item() for a in choices if a.learning())
    assert found == pytest.approx(nats, rel=1e-5) == pytest.approx(86.3, abs=0.05)


def test_the_entropy_is_the_mean_of_the_normalised_entropies(apart):
    net, expected = supernet.build(apart), []
    with torch.no_grad():
        for alphas in supernet.choices(net).values():
            for alpha in alphas.parameters():
                alpha.normal_(0, 2)
            if alphas.learning():
                p = alphas.table().flatten().tolist()
                expected.append(-sum(q * math.log(q) for q in p) / math.log(len(p)))
    assert objective.entropy(net).item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)


@pytest.mark.parametrize("size", [50.0, 1e4, 1e9])
def test_the_entropy_of_decided_alphas_is_0_with_a_finite_gradient(tiny, size):
    net = supernet.build(tiny)
    with torch.no_grad():
        for alpha in supernet.alphas(net):
            alpha.view(-1)[0] = size
    found = objective.entropy(net)
    found.backward()
    assert found.item() == pytest.approx(0.0, abs=1e-6)
    assert all(torch.isfinite(a.grad).all() for a in supernet.alphas(net))


def test_a_space_without_choices_has_no_entropy(tiny):
    edges = {k: dataclasses.replace(e, ops=e.ops[:1], bits=(8,)) for k, e in tiny.edges.items()}
    assert objective.entropy(supernet.build(dataclasses.replace(tiny, edges=edges))) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_by_name(value):
    objective.require_finite(torch.tensor(1.0), "L1", 5)
    with pytest.raises(DivergedError, match=f"L1 became {value} at step 5") as caught:
        objective.require_finite(torch.tensor(value), "L1", 5)
    assert "search.weight_lr" in caught.value.remedy and caught.value.exit_code == 6
