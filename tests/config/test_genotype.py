"""Checks that genotypes are read and written, and that one that does not fit is named."""

import dataclasses
import json

import pytest

from quantnas.architectures import network, registry
from quantnas.config import genotype
from quantnas.config.genotype import Choice, Genotype
from quantnas.config.search_space import Precision
from quantnas.errors import DataError, UsageError


@pytest.fixture
def drawn(tiny, random_genotype) -> Genotype:
    return random_genotype(tiny, 1)


def with_choice(drawn: Genotype, name: str, choice: Choice) -> Genotype:
    return dataclasses.replace(drawn, choices=drawn.choices | {name: choice})


def test_json_reads_back_equal(tiny, drawn, tmp_path):
    path = tmp_path / "g.json"
    path.write_text(drawn.to_json())
    assert genotype.load(path) == drawn
    plain = json.loads(path.read_text())
    assert plain["space"] == "tiny"
    assert set(plain["choices"]["head"]) == {"op", "weights", "activations"}
    assert list(plain["choices"]) == [slot.name for slot in registry.slots(tiny)]
    assert genotype.from_json(path.read_text(), "x") == drawn


def test_a_fitting_genotype_passes(tiny, drawn):
    genotype.check(drawn, registry.slots(tiny), tiny.name)


def test_a_missing_slot_is_named(tiny, drawn):
    choices = {n: c for n, c in drawn.choices.items() if n != "cell0_body1"}
    with pytest.raises(UsageError, match="only the space has 'cell0_body1'"):
        network.build(tiny, dataclasses.replace(drawn, choices=choices), None)


def test_an_extra_slot_is_named(tiny, drawn):
    with pytest.raises(UsageError, match="only the genotype has 'cell1_body0'"):
        network.build(tiny, with_choice(drawn, "cell1_body0", Choice("conv3x3", 8, 8)), None)


@pytest.mark.parametrize(
    ("slot", "choice"),
    [
        ("cell0_body2", Choice("conv1x1", 8, 8)),
        ("cell0_distill0", Choice("conv9x9", 8, 8)),
        ("cell0_body0", Choice("conv3x3", 3, 3)),
        ("cell0_body0", Choice("conv3x3", 4, 8)),
        ("head", Choice("conv3x3", 4, 4)),
        ("upsample", Choice("conv3x3", 2, 2)),
        ("fuse", Choice("conv3x3", 8, 8)),
    ],
)
def test_a_choice_that_the_space_does_not_offer_is_named(tiny, drawn, slot, choice):
    said = f"'{slot}' is {choice.op} with w{choice.weights}a{choice.activations}, allowed are"
    with pytest.raises(UsageError, match=said) as e:
        network.build(tiny, with_choice(drawn, slot, choice), None)
    assert "tiny" in str(e.value)


def test_searched_precision_is_what_was_chosen(apart, random_genotype):
    drawn = random_genotype(apart, 0)
    precision = genotype.searched_precision(drawn)
    expected = {n: Precision(c.weights, c.activations) for n, c in drawn.choices.items()}
    assert precision == expected and any(p.weights != p.activations for p in precision.values())


def test_bits_apart_may_be_combined_in_every_way(apart, random_genotype):
    drawn = random_genotype(apart, 0)
    slots = registry.slots(apart)
    for weights, activations in [(2, 4), (2, 8), (8, 4)]:
        mixed = with_choice(drawn, "cell0_distill0", Choice("conv1x1", weights, activations))
        genotype.check(mixed, slots, "apart")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_uniform_precision_spares_the_ends_and_the_activations(tiny, bits):
    precision = genotype.uniform_precision(registry.slots(tiny), bits)
    assert precision.pop("head") == precision.pop("upsample") == Precision(8, 8)
    assert set(precision.values()) == {Precision(bits, 8)} and len(precision) == 10


@pytest.mark.parametrize("text", [None, "{", "[1]", "\xff"])
def test_a_file_without_a_json_object_is_a_data_error(tmp_path, text):
    path = tmp_path / "g.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"g\.json"):
        genotype.load(path)


@pytest.mark.parametrize(
    "data",
    [
        {"space": "s"},
        {"space": "s", "choices": {"head": {"op": "conv3x3"}}},
        {"space": "s", "choices": {"head": {"op": "conv3x3", "bits": 8}}},
        {"space": "s", "choices": {"head": {"op": "conv3x3", "weights": 8, "activations": "few"}}},
        {"space": "s", "choices": {}, "score": 1},
    ],
)
def test_an_object_of_another_form_is_a_usage_error(tmp_path, data):
    path = tmp_path / "g.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match=r"g\.json"):
        genotype.load(path)
