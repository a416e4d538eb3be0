"""Checks the grouping of runs that differ only in their seed, and the groups' names."""

import pytest

from quantnas.reporting import seed_groups


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (("seed0", "seed1"), "base"),
        (("seed0-rate0.1", "seed1-rate0.1"), "rate0.1"),
        (("net-16-seed0", "net-16-seed12"), "net-16"),
        (("net-seed0-16", "net-seed1-16"), "net-16"),
        (("x/seed0", "x/seed1"), "x"),
        (("rfdn_small", "rfdn_small-2"), "rfdn_small"),
        (("alice", "bob"), "alice and others"),
    ],
)
def test_a_group_is_called_by_what_is_not_its_seed(names, called):
    (group,) = seed_groups.groups(names, [{"seed": 0, "bits": 2}, {"seed": 1, "bits": 2}])
    assert group == seed_groups.Group(called, (0, 1))


def test_only_the_seed_may_differ_and_must():
    settings = [{"seed": 0, "a": 1}, {"seed": 1, "a": 2}, {"seed": 0, "a": 2}, {"seed": 1, "a": 2}]
    (group,) = seed_groups.groups(["p", "q", "r", "s"], settings)
    assert group.members == (1, 2), "of two with the same seed, the first"
    assert seed_groups.groups(["p", "q"], [{"seed": 0}, {"seed": 0}]) == []


def test_a_spread_is_mean_and_deviation():
    assert seed_groups.spread([1.0, 3.0], 2) == "2.00 ± 1.41"
    assert seed_groups.spread([21000, 23000], 0) == "22,000 ± 1,414"
