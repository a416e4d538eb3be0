"""Checks search spaces: reading, writing, and that every built-in one can be used."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from quantnas.architectures import network, registry
from quantnas.config import search_space
from quantnas.config.genotype import searched_precision, uniform_precision
from quantnas.config.search_space import Edge, Precision, SearchSpace, Slot
from quantnas.errors import DataError, UsageError
from quantnas.nas import supernet
from quantnas.nn import operations

BUILTIN = sorted(search_space.builtin())
FOLDER = Path(__file__).parents[2] / "search_spaces"


def test_every_shipped_file_is_a_built_in_space():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(BUILTIN) != set()


@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_space_is_called_as_its_file(name):
    assert search_space.load(name).name == name


@pytest.mark.parametrize("name", BUILTIN)
def test_a_space_written_as_yaml_reads_back_equal(name, tmp_path):
    loaded = search_space.load(name, scale=3)
    path = tmp_path / "copy.yaml"
    path.write_text(search_space.to_yaml(loaded))
    assert search_space.load(str(path)) == loaded


def test_every_field_survives_yaml(tiny, tmp_path):
    path = tmp_path / "copy.yaml"
    apart = tiny.edges | {"body": Edge(("conv3x3",), weight_bits=(2, 8), act_bits=(8,))}
    odd = dataclasses.replace(tiny, edges=apart, scale=4, name="0123")
    path.write_text(search_space.to_yaml(odd))
    assert search_space.load(str(path)) == odd


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_space_makes_networks_of_the_right_size(name, scale, random_genotype, pixels):
    space = search_space.load(name, scale)
    assert space.scale == scale
    space = dataclasses.replace(space, channels=12, cells=1)
    low, expected = pixels(1, 15, 16), (1, 3, 15 * scale, 16 * scale)
    genotype = random_genotype(space, scale)
    slots = registry.slots(space)
    with torch.no_grad():
        assert supernet.build(space)(low).shape == expected
        assert network.build(space, genotype, None)(low).shape == expected
        for precision in (searched_precision(genotype), uniform_precision(slots, 2)):
            assert network.build(space, genotype, precision)(low).shape == expected


@pytest.mark.parametrize("cells", [1, 3])
def test_slots_are_distinct_and_fit_one_another(tiny, cells):
    slots = registry.slots(dataclasses.replace(tiny, cells=cells, scale=4))
    by_name = {slot.name: slot for slot in slots}
    assert len(by_name) == len(slots) == 4 + cells * 8
    assert slots[0].name == "head" and slots[0].c_in == 3
    assert slots[-1].name == "upsample" and slots[-1].c_out == 3 * 4 * 4
    assert by_name["fuse"].c_in == 8 * cells
    searched = [slot for slot in slots if slot.options > 1]
    assert len(searched) == cells * 7 + 1
    for k in range(cells):
        kept = [by_name[f"cell{k}_distill{i}"].c_out for i in range(3)]
        assert sum(kept) + by_name[f"cell{k}_body3"].c_out == by_name[f"cell{k}_fuse"].c_in
        assert by_name[f"cell{k}_body0"].ops == tiny.edges["body"].ops
        assert by_name[f"cell{k}_distill2"].bit_widths == tiny.edges["distill"].bit_widths
    assert all((slot.kind in tiny.edges) == (slot in searched) for slot in slots)


def test_bits_that_are_shared_make_pairs_of_equals():
    assert Edge(("conv1x1",), (2, 8)).bit_widths == (Precision(2, 2), Precision(8, 8))


def test_bits_apart_make_every_pair_weights_first():
    edge = Edge(("conv1x1",), weight_bits=(2, 4), act_bits=(4, 8))
    pairs = [(w.weights, w.activations) for w in edge.bit_widths]
    assert pairs == [(2, 4), (2, 8), (4, 4), (4, 8)]
    slot = Slot("e", 4, 4, 4, ("conv1x1", "conv3x3"), edge.bit_widths)
    assert slot.weight_bits == (2, 4) and slot.act_bits == (4, 8) and slot.options == 8


def test_a_choice_is_named_after_what_shares_it():
    width = (Precision(8, 8),)
    assert Slot("cell1_skip", 4, 4, 4, ("conv1x1",), width, shared="cells_skip").choice == (
        "cells_skip"
    )
    assert Slot("head", 4, 4, 4, ("conv1x1",), width).choice == "head"


@pytest.mark.parametrize("side", [15, 16, 17, 31, 32, 64])
def test_areas_count_what_the_layers_leave(side):
    high = torch.zeros(1, 1, side, side + 3)
    strided = torch.nn.functional.conv2d(high, torch.zeros(1, 1, 3, 3), stride=2)
    outputs = {
        "low": high.numel(),
        "double": 4 * high.numel(),
        "high": 9 * high.numel(),
        "strided": strided.numel(),
        "pooled": torch.max_pool2d(strided, 7, 3).numel(),
        "single": 1,
    }
    assert {n: count(side, side + 3, 3) for n, count in search_space.AREAS.items()} == outputs


def test_a_search_in_float_has_no_bits_anywhere(tiny):
    plain = dict.fromkeys(tiny.edges, Edge(("conv1x1",), (32,)))
    space = dataclasses.replace(tiny, edges=plain)
    assert space.is_float and {w for s in registry.slots(space) for w in s.bit_widths} == {
        Precision(32, 32)
    }
    assert not tiny.is_float and tiny.fixed_width == Precision(8, 8)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match="no search space called 'rfnd'") as caught:
        search_space.load("rfnd")
    assert all(name in caught.value.remedy for name in BUILTIN)


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="Cannot read"):
        search_space.load(str(tmp_path / "none.yaml"))


def write(tiny: SearchSpace, path: Path, **changes: object) -> str:
    data = yaml.safe_load(search_space.to_yaml(tiny)) | changes
    path.write_text(yaml.safe_dump(data))
    return str(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scale", 5),
        ("scale", 1),
        ("channels", 7),
        ("channels", 0),
        ("channels", "wide"),
        ("cells", 0),
        ("adq", True),
        ("edges", {"body": {"ops": [], "bits": [8]}}),
        ("edges", {"body": {"ops": ["conv1x1"], "bits": []}}),
        ("edges", {"body": {"ops": ["conv1x1"], "bits": [5]}}),
        ("edges", {"body": {"ops": ["conv1x1"], "bits": [8, 32]}}),
        ("edges", {"body": {"ops": ["conv1x1"], "weight_bits": [8]}}),
        ("edges", {"body": {"ops": ["conv1x1"], "weight_bits": [32], "act_bits": [32]}}),
        ("edges", {"body": {"ops": ["conv1x1"], "bits": [8], "weight_bits": [8]}}),
        ("edges", {"body": {"ops": ["conv1x1"], "bits": [8], "weight_bits": [8], "act_bits": [8]}}),
        ("edges", {"body": {"ops": "conv1x1", "bits": [8]}}),
        ("skeletons", "rfdn"),
    ],
)
def test_a_value_that_cannot_be_is_an_error(tiny, tmp_path, key, value):
    path = write(tiny, tmp_path / "s.yaml", **{key: value})
    with pytest.raises(UsageError, match=r"s\.yaml"):
        search_space.load(path)


@pytest.mark.parametrize(
    "edge",
    [
        {"ops": ("conv1x1", "conv1x1"), "bits": (8,)},
        {"ops": ("conv1x1",), "bits": (4, 4)},
        {"ops": ("conv1x1",), "weight_bits": (4, 4), "act_bits": (8,)},
        {"ops": ("conv1x1",), "weight_bits": (4,), "act_bits": (8, 8)},
    ],
)
def test_a_choice_listed_twice_is_an_error(edge):
    with pytest.raises(ValueError, match="twice"):
        Edge(**edge)


def test_float_in_one_edge_alone_is_an_error(tiny):
    edges = tiny.edges | {"distill": Edge(("conv1x1",), (32,))}
    with pytest.raises(ValueError, match="none"):
        dataclasses.replace(tiny, edges=edges)


def test_a_scale_given_apart_wins_and_is_checked(tiny, tmp_path):
    path = write(tiny, tmp_path / "s.yaml")
    assert search_space.load(path, 4).scale == 4
    with pytest.raises(UsageError, match="scale"):
        search_space.load(path, 7)


def test_an_unknown_skeleton_is_an_error(tiny):
    with pytest.raises(UsageError, match="'skeleton' cannot be 'unet'") as caught:
        registry.slots(dataclasses.replace(tiny, skeleton="unet"))
    assert all(name in caught.value.remedy for name in registry.SKELETONS)


@pytest.mark.parametrize("build", [supernet.build, registry.slots])
def test_other_kinds_of_edges_than_the_skeleton_has_are_an_error(tiny, build):
    edges = tiny.edges
    for wrong in ({"body": edges["body"]}, edges | {"tail": edges["body"]}):
        with pytest.raises(UsageError, match="'edges' has") as caught:
            build(dataclasses.replace(tiny, edges=wrong))
        assert "body, distill, upsample" in caught.value.remedy


@pytest.mark.parametrize("build", [supernet.build, registry.slots])
def test_an_unknown_operation_is_an_error_that_names_its_place(tiny, build):
    edges = tiny.edges | {"distill": Edge(("conv1x1", "conv7x7"), (8,))}
    with pytest.raises(UsageError, match=r"'edges\.distill\.ops\.1' cannot be 'conv7x7'") as caught:
        build(dataclasses.replace(tiny, edges=edges))
    assert all(name in caught.value.remedy for name in operations.OPS)


@pytest.mark.parametrize(
    ("changes", "place", "edge"),
    [
        ({"scale": 3}, "upsample.ops.1' cannot be 'conv1x1_groups2'", "upsample"),
        ({"channels": 6}, "body.ops.1' cannot be 'conv5x5_groups2'", "cell0_body3"),
    ],
)
def test_channels_that_cannot_be_joined_are_an_error_that_names_the_place(
    tiny, changes, place, edge
):
    with pytest.raises(UsageError, match=rf"edges\.{place} on the edge {edge}"):
        supernet.build(dataclasses.replace(tiny, **changes))


@pytest.mark.parametrize(("field", "value"), [("cells", 0), ("cells", 10**30), ("channels", 10**8)])
def test_a_network_of_impossible_size_is_refused_at_once(tiny, field, value):
    with pytest.raises(ValueError, match=f"`{field}` is {value}; it must be .*at (least|most)"):
        dataclasses.replace(tiny, **{field: value})
