"""Checks the search: its terms, its effect, and that it continues exactly where it stopped."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from quantnas import checkpoint, cost, search, supernet
from quantnas.config import SearchConfig
from quantnas.patches import Patches
from quantnas.space import Edge

CONFIG = SearchConfig(epochs=3, steps_per_epoch=2, warmup_epochs=1, batch=2, patch=6, refresh=4)


def run(space, halves, config, until=None, first=None):
    """(state, records) of a search from its start, or from `first` = a checkpoint's path."""
    torch.manual_seed(3)
    state = search.start(supernet.build(space), config)
    begin = 0
    if first is not None:
        torch.manual_seed(99)
        state = search.start(supernet.build(space), config)
        begin = checkpoint.load(first, state.parts())
    records = []
    for record in search.search(state, *halves, config, begin):
        records.append(record)
        if record.step == until:
            break
    return state, records


# The entropy


def test_the_entropy_schedule_is_the_published_one():
    late = [search.entropy_weight(e, 20, 9) for e in range(20)]
    assert late[:9] == [0] * 9
    published = [0, 0, 0.06, 0.143, 0.241, 0.349, 0.467, 0.592, 0.722, 0.859, 1]
    assert late[9:] == pytest.approx(published, abs=6e-4)
    early = [search.entropy_weight(e, 20, 0) for e in range(20)]
    assert early[:5] == [0] * 5
    published = [0.066, 0.125, 0.184, 0.244, 0.306, 0.369, 0.434, 0.501, 0.568]
    published += [0.637, 0.708, 0.779, 0.852, 0.925, 1]
    assert early[5:] == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5, 8])
def test_the_schedule_ends_at_1_or_stays_at_0_when_there_is_no_time(epochs):
    values = [search.entropy_weight(e, epochs, 0) for e in range(epochs)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(1.0 if epochs > 1 else 0.0)


def test_the_entropy_of_uniform_alphas_is_1(tiny):
    assert search.entropy(supernet.build(tiny)).item() == pytest.approx(1.0)


def test_the_entropy_is_the_mean_of_the_normalised_entropies(tiny):
    net = supernet.build(tiny)
    wanted = []
    with torch.no_grad():
        for alpha in supernet.alphas(net):
            alpha.normal_(0, 2)
            odds = [math.exp(a) for a in alpha.tolist()]
            p = [o / sum(odds) for o in odds]
            wanted.append(-sum(q * math.log(q) for q in p) / math.log(len(p)))
    assert search.entropy(net).item() == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)


@pytest.mark.parametrize("size", [50.0, 1e4, 1e9])
def test_the_entropy_of_decided_alphas_is_0_with_a_finite_gradient(tiny, size):
    net = supernet.build(tiny)
    with torch.no_grad():
        for alpha in supernet.alphas(net):
            alpha[0] = size
    found = search.entropy(net)
    found.backward()
    assert found.item() == pytest.approx(0.0, abs=1e-6)
    assert all(torch.isfinite(a.grad).all() for a in supernet.alphas(net))


def test_decided_edges_are_counted(tiny):
    net = supernet.build(tiny)
    edges = [e for e in supernet.edges(net).values() if len(e.slot.ops) > 1]
    assert search.share_decided(net) == 0
    with torch.no_grad():
        for edge in edges[:2]:
            edge.alpha_op[0] = edge.alpha_bits[0] = 9
        edges[2].alpha_op[0] = 9
    assert search.share_decided(net) == pytest.approx(2 / len(edges))


# The loop


def test_only_weights_learn_in_the_warm_up(tiny, halves):
    state, records = run(tiny, halves, CONFIG, until=2)
    assert [r.step for r in records] == [1, 2]
    assert not any(a.any() for a in supernet.alphas(state.net))
    assert all(r.entropy == pytest.approx(1.0) and r.decided == 0 for r in records)


def test_a_search_moves_alphas_and_weights_and_records_what_it_does(tiny, halves):
    state, records = run(tiny, halves, CONFIG)
    torch.manual_seed(3)
    fresh = supernet.build(tiny)
    assert [r.step for r in records] == list(range(1, 7))
    assert all(a.any() for a in supernet.alphas(state.net))
    pairs = dict(fresh.named_parameters())
    for name, p in state.net.named_parameters():
        if name.endswith(".weight") and "norm" not in name:
            assert not torch.equal(p, pairs[name]), name
    last = records[-1]
    assert last.bitops == pytest.approx(cost.expected_bitops(state.net).item())
    assert last.entropy == pytest.approx(search.entropy(state.net).item()) and last.entropy < 1
    assert all(math.isfinite(v) for r in records for v in dataclasses.astuple(r))


def test_the_record_holds_loss_and_psnr_of_the_weight_update(tiny, halves):
    config = dataclasses.replace(CONFIG, weight_lr=0.0)
    _, records = run(tiny, halves, config, until=1)
    torch.manual_seed(3)
    net = supernet.build(tiny)
    low, high = halves[0].batch(0, 2)
    torch.manual_seed(halves[0].seed * 1_000_003)
    search.fit_grids(net, low)
    net.train()
    with torch.no_grad():
        out = net(low)
    assert records[0].loss == pytest.approx(F.l1_loss(out, high).item(), rel=1e-5)
    assert records[0].psnr == pytest.approx(-10 * math.log10(F.mse_loss(out, high).item()))


def test_alphas_and_weights_learn_from_different_halves(tiny, halves, monkeypatch):
    asked, draw = [], Patches.batch

    def batch(self: Patches, step: int, count: int):
        asked.append((self is halves[0], step, count))
        return draw(self, step, count)

    monkeypatch.setattr(Patches, "batch", batch)
    run(tiny, halves, CONFIG)
    assert [(s, c) for first, s, c in asked if first] == [(s, 2) for s in range(6)]
    assert [(s, c) for first, s, c in asked if not first] == [(s, 2) for s in range(2, 6)]


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_search_continues_exactly_where_it_stopped(tiny, halves, tmp_path, stop, equal_states):
    whole, records = run(tiny, halves, CONFIG)
    half, begun = run(tiny, halves, CONFIG, until=stop)
    checkpoint.save(tmp_path / "c.pt", stop, half.parts())
    rest, ended = run(tiny, halves, CONFIG, first=tmp_path / "c.pt")
    assert begun + ended == records
    for name, part in whole.parts().items():
        assert equal_states(part.state_dict(), rest.parts()[name].state_dict()), name
    assert supernet.decide(whole.net, "x") == supernet.decide(rest.net, "x")


def test_a_large_penalty_finds_less_work(tiny, halves):
    edge = Edge(("conv1x1", "conv3x3"), (2, 8))
    space = dataclasses.replace(tiny, edges=dict.fromkeys(tiny.edges, edge))
    found = {}
    for penalty in (0.0, 100.0):
        config = dataclasses.replace(
            CONFIG, epochs=8, warmup_epochs=0, alpha_lr=0.1, penalty=penalty, entropy=0.0
        )
        state, records = run(space, halves, config)
        found[penalty] = records[-1].bitops
        if penalty:
            choices = supernet.decide(state.net, "x").choices
            searched = [
                choices[n] for n, e in supernet.edges(state.net).items() if e.slot.ops == edge.ops
            ]
            assert {(c.op, c.bits) for c in searched} == {("conv1x1", 2)}
    assert found[100.0] < 0.6 * found[0.0]  # convolutions that are not searched cost the same


def test_the_entropy_term_makes_decisions(tiny, halves):
    found = []
    for entropy in (0.0, 100.0):
        config = dataclasses.replace(
            CONFIG, epochs=8, warmup_epochs=0, alpha_lr=0.1, penalty=0.0, entropy=entropy
        )
        found.append(run(tiny, halves, config)[1][-1].entropy)
    assert found[1] < found[0] - 0.05


def test_a_space_without_choices_can_be_searched(tiny, halves):
    edge = Edge(("conv1x1",), (8,))
    space = dataclasses.replace(tiny, edges=dict.fromkeys(tiny.edges, edge))
    _, records = run(space, halves, CONFIG)
    assert len(records) == 6 and records[-1].entropy == 0


def test_the_penalty_counts_from_the_uniform_start_when_continued(tiny, halves, tmp_path):
    config = dataclasses.replace(CONFIG, penalty=10.0, alpha_lr=0.3, warmup_epochs=0)
    _, records = run(tiny, halves, config)
    half, _ = run(tiny, halves, config, until=3)
    checkpoint.save(tmp_path / "c.pt", 3, half.parts())
    assert run(tiny, halves, config, first=tmp_path / "c.pt")[1] == records[3:]
