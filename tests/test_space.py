"""Checks search spaces: reading, writing, and that every built-in one can be used."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from quantnas import network, skeleton, space, supernet
from quantnas.errors import DataError, UsageError
from quantnas.genotype import searched_precision, uniform_precision
from quantnas.space import Edge, SearchSpace

BUILTIN = sorted(space.builtin())
FOLDER = Path(__file__).parents[1] / "search_spaces"


def test_every_shipped_file_is_a_built_in_space():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(BUILTIN) != set()


@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_space_is_called_as_its_file(name):
    assert space.load(name).name == name


@pytest.mark.parametrize("name", BUILTIN)
def test_a_space_written_as_yaml_reads_back_equal(name, tmp_path):
    loaded = space.load(name, scale=3)
    path = tmp_path / "copy.yaml"
    path.write_text(space.to_yaml(loaded))
    assert space.load(str(path)) == loaded


def test_every_field_survives_yaml(tiny, tmp_path):
    path = tmp_path / "copy.yaml"
    odd = dataclasses.replace(tiny, adq=False, scale=4, name="0123")
    path.write_text(space.to_yaml(odd))
    assert space.load(str(path)) == odd


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_space_makes_networks_of_the_right_size(name, scale, random_genotype, pixels):
    where = space.load(name, scale)
    assert where.scale == scale
    low, wanted = pixels(1, 6, 5), (1, 3, 6 * scale, 5 * scale)
    genotype = random_genotype(where, scale)
    slots = skeleton.slots(where)
    with torch.no_grad():
        assert supernet.build(where)(low).shape == wanted
        assert network.build(where, genotype, None)(low).shape == wanted
        for precision in (searched_precision(genotype), uniform_precision(slots, 2)):
            assert network.build(where, genotype, precision)(low).shape == wanted


@pytest.mark.parametrize("cells", [1, 3])
def test_slots_are_distinct_and_fit_one_another(tiny, cells):
    slots = skeleton.slots(dataclasses.replace(tiny, cells=cells, scale=3))
    by_name = {slot.name: slot for slot in slots}
    assert len(by_name) == len(slots) == 4 + cells * 8
    assert slots[0].name == "head" and slots[0].c_in == 3
    assert slots[-1].name == "upsample" and slots[-1].c_out == 3 * 3 * 3
    assert by_name["fuse"].c_in == 8 * cells
    searched = [slot for slot in slots if len(slot.ops) * len(slot.bits) > 1]
    assert len(searched) == cells * 7 + 1
    for k in range(cells):
        kept = [by_name[f"cell{k}_distill{i}"].c_out for i in range(3)]
        assert sum(kept) + by_name[f"cell{k}_body3"].c_out == by_name[f"cell{k}_fuse"].c_in
        assert by_name[f"cell{k}_body0"].ops == tiny.edges["body"].ops
        assert by_name[f"cell{k}_distill2"].bits == tiny.edges["distill"].bits


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match="no search space called 'rdfn'") as caught:
        space.load("rdfn")
    assert all(name in caught.value.remedy for name in BUILTIN)


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="Cannot read"):
        space.load(str(tmp_path / "none.yaml"))


def write(tiny: SearchSpace, path: Path, **changes: object) -> str:
    data = yaml.safe_load(space.to_yaml(tiny)) | changes
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
        ("adq", "perhaps"),
        ("edges", {"body": {"ops": [], "bits": [8]}}),
        ("edges", {"body": {"ops": ["conv1x1"], "bits": []}}),
        ("edges", {"body": {"ops": ["conv1x1"], "bits": [5]}}),
        ("edges", {"body": {"ops": "conv1x1", "bits": [8]}}),
        ("skeletons", "rfdn"),
    ],
)
def test_a_value_that_cannot_be_is_an_error(tiny, tmp_path, key, value):
    path = write(tiny, tmp_path / "s.yaml", **{key: value})
    with pytest.raises(UsageError, match=r"s\.yaml"):
        space.load(path)


@pytest.mark.parametrize("edge", [(("conv1x1", "conv1x1"), (8,)), (("conv1x1",), (4, 4))])
def test_a_choice_listed_twice_is_an_error(edge):
    with pytest.raises(ValueError):
        Edge(*edge)


def test_a_scale_given_apart_wins_and_is_checked(tiny, tmp_path):
    path = write(tiny, tmp_path / "s.yaml")
    assert space.load(path, 4).scale == 4
    with pytest.raises(UsageError, match="scale"):
        space.load(path, 7)


def test_an_unknown_skeleton_is_an_error(tiny):
    with pytest.raises(UsageError, match="unknown skeleton 'unet'"):
        skeleton.slots(dataclasses.replace(tiny, skeleton="unet"))


@pytest.mark.parametrize("build", [supernet.build, lambda s: skeleton.slots(s)])
def test_other_kinds_of_edges_than_the_skeleton_has_are_an_error(tiny, build):
    edges = tiny.edges
    for wrong in ({"body": edges["body"]}, edges | {"tail": edges["body"]}):
        with pytest.raises(UsageError, match="body, distill, upsample"):
            build(dataclasses.replace(tiny, edges=wrong))


def test_an_unknown_operation_is_an_error_that_names_the_edge(tiny):
    edges = tiny.edges | {"distill": Edge(("conv7x7",), (8,))}
    with pytest.raises(UsageError, match=r"cell0_distill0.*'conv7x7'"):
        supernet.build(dataclasses.replace(tiny, edges=edges))


def test_channels_that_cannot_be_grouped_are_an_error_that_names_the_edge(tiny):
    with pytest.raises(UsageError, match=r"upsample.*conv1x1_groups2"):
        supernet.build(dataclasses.replace(tiny, scale=3))
