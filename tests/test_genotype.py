"""Checks genotypes: reading, writing, and that a misfit is found and named."""

import dataclasses
import json

import pytest

from quantnas import genotype as genotypes
from quantnas import network, skeleton
from quantnas.errors import DataError, UsageError
from quantnas.genotype import Choice, Genotype, Precision


@pytest.fixture
def found(tiny, random_genotype) -> Genotype:
    return random_genotype(tiny, 1)


def with_choice(found: Genotype, name: str, choice: Choice) -> Genotype:
    return dataclasses.replace(found, choices=found.choices | {name: choice})


def test_json_reads_back_equal(tiny, found, tmp_path):
    path = tmp_path / "g.json"
    path.write_text(found.to_json())
    assert genotypes.load(path) == found
    plain = json.loads(path.read_text())
    assert plain["space"] == "tiny"
    assert set(plain["choices"]["head"]) == {"op", "bits"}
    assert list(plain["choices"]) == [slot.name for slot in skeleton.slots(tiny)]


def test_a_fitting_genotype_passes(tiny, found):
    genotypes.check(found, skeleton.slots(tiny), tiny.name)


def test_a_missing_slot_is_named(tiny, found):
    choices = {n: c for n, c in found.choices.items() if n != "cell0_body1"}
    with pytest.raises(UsageError, match="only the space has 'cell0_body1'"):
        network.build(tiny, dataclasses.replace(found, choices=choices), None)


def test_an_extra_slot_is_named(tiny, found):
    with pytest.raises(UsageError, match="only the genotype has 'cell1_body0'"):
        network.build(tiny, with_choice(found, "cell1_body0", Choice("conv3x3", 8)), None)


@pytest.mark.parametrize(
    ("slot", "choice"),
    [
        ("cell0_body2", Choice("conv1x1", 8)),
        ("cell0_distill0", Choice("conv9x9", 8)),
        ("cell0_body0", Choice("conv3x3", 3)),
        ("head", Choice("conv3x3", 4)),
        ("upsample", Choice("conv3x3", 2)),
        ("fuse", Choice("conv3x3", 8)),
    ],
)
def test_a_choice_that_the_space_does_not_offer_is_named(tiny, found, slot, choice):
    with pytest.raises(UsageError, match=f"'{slot}' is {choice.op} with {choice.bits} bits") as e:
        network.build(tiny, with_choice(found, slot, choice), None)
    assert "tiny" in str(e.value)


def test_searched_precision_is_the_same_for_weights_and_activations(found):
    precision = genotypes.searched_precision(found)
    assert {n: (p.weights, p.activations) for n, p in precision.items()} == {
        n: (c.bits, c.bits) for n, c in found.choices.items()
    }


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_uniform_precision_spares_the_ends_and_the_activations(tiny, bits):
    precision = genotypes.uniform_precision(skeleton.slots(tiny), bits)
    assert precision.pop("head") == precision.pop("upsample") == Precision(8, 8)
    assert set(precision.values()) == {Precision(bits, 8)} and len(precision) == 10


@pytest.mark.parametrize("text", [None, "{", "[1]", "\xff"])
def test_a_file_without_a_json_object_is_a_data_error(tmp_path, text):
    path = tmp_path / "g.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"g\.json"):
        genotypes.load(path)


@pytest.mark.parametrize(
    "data",
    [
        {"space": "s"},
        {"space": "s", "choices": {"head": {"op": "conv3x3"}}},
        {"space": "s", "choices": {"head": {"op": "conv3x3", "bits": "many"}}},
        {"space": "s", "choices": {}, "score": 1},
    ],
)
def test_an_object_of_another_form_is_a_usage_error(tmp_path, data):
    path = tmp_path / "g.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match=r"g\.json"):
        genotypes.load(path)
