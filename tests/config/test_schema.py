"""Checks that settings are read strictly, and that every error names the key."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import yaml
from typing_extensions import TypedDict

from quantnas.config import schema, search_space
from quantnas.config.genotype import Genotype
from quantnas.config.run_config import QuantizeConfig, RunConfig, SearchConfig, TrainConfig
from quantnas.config.search_space import Edge, SearchSpace
from quantnas.errors import DataError, UsageError

SPACE = {
    "name": "s",
    "skeleton": "rfdn_deploy",
    "scale": 2,
    "channels": 8,
    "cells": 1,
    "edges": {"body": {"ops": ["conv1x1"], "bits": [8]}},
}


def test_nothing_given_means_the_defaults():
    assert schema.parse(RunConfig, {}, "x") == RunConfig()


def test_what_is_given_arrives_in_its_own_type():
    data = {"scale": 3, "benchmarks": ["a", "b"], "search": {"epochs": 9, "weight_lr": 1}}
    config = schema.parse(RunConfig, data, "x")
    assert config.scale == 3 and config.benchmarks == ("a", "b")
    assert config.search == dataclasses.replace(SearchConfig(), epochs=9, weight_lr=1.0)
    assert isinstance(config.search.weight_lr, float)
    assert config.train == TrainConfig() and config.quantize == QuantizeConfig()


def test_a_mapping_of_dataclasses_is_built():
    space = schema.parse(SearchSpace, SPACE, "x")
    assert space.edges == {"body": Edge(("conv1x1",), (8,))}


def test_numbers_in_exponent_notation_without_a_point_are_numbers():
    data = yaml.safe_load("search: {weight_lr: 2e-3}")
    assert schema.parse(RunConfig, data, "x").search.weight_lr == 0.002


@pytest.mark.parametrize(
    ("cls", "data", "key", "guess", "allowed", "foreign"),
    [
        (RunConfig, {"sede": 1}, "sede", "seed", RunConfig, "epochs"),
        (RunConfig, {"search": {"epoch": 1}}, "search.epoch", "epochs", SearchConfig, "device"),
        (RunConfig, {"train": {"qat": 1}}, "train.qat", None, TrainConfig, "epochs"),
        (RunConfig, {"quantize": {"crop": 1}}, "quantize.crop", "crops", QuantizeConfig, "seed"),
        (SearchSpace, SPACE | {"chanels": 8}, "chanels", "channels", SearchSpace, "seed"),
    ],
)
def test_an_unknown_key_is_named_with_those_allowed_there(cls, data, key, guess, allowed, foreign):
    with pytest.raises(UsageError, match=re.escape(f"my.yaml: unknown key '{key}'")) as caught:
        schema.parse(cls, data, "my.yaml")
    remedy = caught.value.remedy
    names = {f.name for f in dataclasses.fields(allowed)}
    assert names <= set(re.findall(r"\w+", remedy))
    assert foreign not in remedy
    if guess:
        assert f"Did you mean {guess}?" in remedy


def test_a_key_like_no_other_is_given_no_guess():
    with pytest.raises(UsageError) as caught:
        schema.parse(RunConfig, {"zzzz": 1}, "x")
    assert "Did you mean" not in caught.value.remedy


def test_an_unknown_key_inside_an_edge_is_an_error():
    edges = {"body": {"ops": ["conv1x1"], "bits": [8], "bitz": [4]}}
    with pytest.raises(UsageError, match=r"unknown key 'edges\.body\.bitz'") as caught:
        schema.parse(SearchSpace, SPACE | {"edges": edges}, "x")
    assert "Did you mean bits?" in caught.value.remedy


def test_an_unknown_key_inside_a_choice_is_an_error():
    choices = {"head": {"op": "conv3x3", "weights": 8, "activations": 8, "bits": 4}}
    with pytest.raises(UsageError, match=r"unknown key 'choices\.head\.bits'"):
        schema.parse(Genotype, {"space": "s", "choices": choices}, "x")


@pytest.mark.parametrize(
    ("cls", "data", "key"),
    [
        (RunConfig, {"seed": "many"}, "seed"),
        (RunConfig, {"seed": 1.5}, "seed"),
        (RunConfig, {"scale": 5}, "scale"),
        (RunConfig, {"bits": 5}, "bits"),
        (RunConfig, {"device": "tpu"}, "device"),
        (RunConfig, {"space": None}, "space"),
        (RunConfig, {"benchmarks": "folder"}, "benchmarks"),
        (RunConfig, {"search": 3}, "search"),
        (RunConfig, {"search": None}, "search"),
        (RunConfig, {"search": {"epochs": [1]}}, "search.epochs"),
        (SearchSpace, SPACE | {"edges": {"body": {"ops": ["a"], "bits": [5]}}}, "edges.body.bits"),
        (SearchSpace, SPACE | {"edges": []}, "edges"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_key(cls, data, key):
    with pytest.raises(UsageError, match=re.escape(f"my.yaml: '{key}")) as caught:
        schema.parse(cls, data, "my.yaml")
    assert "cannot be" in caught.value.cause and caught.value.remedy


@pytest.mark.parametrize("key", ["skeleton", "edges"])
def test_a_missing_key_is_named(key):
    data = {k: v for k, v in SPACE.items() if k != key}
    with pytest.raises(UsageError, match=f"my.yaml: the key '{key}' is missing"):
        schema.parse(SearchSpace, data, "my.yaml")


def test_a_key_missing_inside_an_edge_is_named():
    with pytest.raises(UsageError, match=r"edges\.body\.ops' is missing"):
        schema.parse(SearchSpace, SPACE | {"edges": {"body": {"bits": [8]}}}, "x")


@pytest.mark.parametrize("edge", [{}, {"weight_bits": [4]}, {"bits": [4], "act_bits": [8]}])
def test_an_edge_with_bits_missing_or_double_is_named(edge):
    edges = {"body": {"ops": ["conv1x1"]} | edge}
    with pytest.raises(UsageError, match=r"edges\.body") as caught:
        schema.parse(SearchSpace, SPACE | {"edges": edges}, "x")
    assert "both `weight_bits` and `act_bits`" in caught.value.cause


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"warmup_epochs": 20}, "warmup_epochs"),
        ({"target_bitops": 0}, "target_bitops"),
        ({"at": "32"}, "at"),
        ({"at": "32xmany"}, "at"),
        ({"floor": -0.1}, "floor"),
        ({"samples": 0}, "samples"),
        ({"strategy": "random", "epochs": 8, "steps_per_epoch": 2, "samples": 6}, "samples"),
        ({"relaxation": "float"}, "relaxation"),
        ({"probabilities": "apart"}, "probabilities"),
        ({"deviation": True}, "deviation"),
    ],
)
def test_a_search_that_cannot_be_is_named(settings, named):
    with pytest.raises(UsageError, match=named):
        schema.parse(RunConfig, {"search": settings}, "x")


def test_a_value_that_no_field_may_have_is_told_with_what_to_do():
    with pytest.raises(UsageError) as caught:
        schema.parse(RunConfig, {"quantize": {"max_drop": -0.1}}, "x")
    assert caught.value.cause.endswith("`max_drop` is -0.1.")
    assert caught.value.remedy == "It must be a number of at least 0."
    assert schema.parse(RunConfig, {"quantize": {"max_drop": 0}}, "x").quantize.max_drop == 0


def test_a_resolution_is_height_and_width():
    assert schema.parse(SearchConfig, {"at": "45x180"}, "x").resolution == (45, 180)


@pytest.mark.parametrize("text", ["- a\n- b\n", "word", "", "3"])
def test_yaml_that_is_no_mapping_is_an_error(tmp_path, text):
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="no mapping"):
        schema.read_yaml(path)


def test_text_that_is_no_yaml_is_an_error_with_the_line(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text("a: 1\nb: [1, 2\n")
    with pytest.raises(UsageError, match=r"f\.yaml is not valid YAML.*line"):
        schema.read_yaml(path)


def test_yaml_runs_no_code(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UsageError):
        schema.read_yaml(path)


def test_files_that_cannot_be_read_are_data_errors(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x80")
    for name in ("none.yaml", "binary.yaml", "."):
        with pytest.raises(DataError, match="Cannot read"):
            schema.read_yaml(tmp_path / name)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("seed=3", {"seed": 3}),
        ("search.epochs=5", {"search": {"epochs": 5}}),
        ("train.lr=1.5", {"train": {"lr": 1.5}}),
        ("data=a=b", {"data": "a=b"}),
        ("data=", {"data": None}),
        ("benchmarks=[a, b]", {"benchmarks": ["a", "b"]}),
    ],
)
def test_a_setting_goes_into_its_section(setting, expected):
    data = {}
    schema.assign(data, setting)
    assert data == expected


def test_a_setting_leaves_its_neighbours_alone_and_replaces_its_own():
    data = {"search": {"epochs": 5, "batch": 2}, "seed": 1}
    schema.assign(data, "search.epochs=7")
    assert data == {"search": {"epochs": 7, "batch": 2}, "seed": 1}


@pytest.mark.parametrize("setting", ["seed", "=3", "", "seed.x=3", "benchmarks=[a"])
def test_what_is_no_setting_is_an_error(setting):
    with pytest.raises(UsageError):
        schema.assign({"seed": 1}, setting)


YAML = {
    path.stem: path.read_text() for path in (Path(__file__).parents[1] / "cases/yaml").iterdir()
}
YAML |= {"digits": "name: " + "9" * 5000, "nested": "[" * 400, "circle": "a: [*a"}


@pytest.mark.parametrize("name", YAML)
def test_yaml_that_cannot_be_used_is_an_error_wherever_it_is_read(tmp_path, name):
    (tmp_path / "f.yaml").write_text(YAML[name])
    with pytest.raises(UsageError, match=r"not valid YAML|nested too deeply"):
        search_space.load(str(tmp_path / "f.yaml"))
    with pytest.raises(UsageError, match=r"not valid YAML|nested too deeply"):
        search_space.from_yaml(YAML[name])


@pytest.mark.parametrize("value", ["2024-13-45", "!!bool x", "[" * 400])
def test_a_setting_that_is_no_yaml_is_an_error(value):
    with pytest.raises(UsageError):
        schema.assign({}, f"seed={value}")


def test_a_huge_value_is_cut_in_the_message():
    """A list that stands for 10^10 values."""
    name = ["x", "x"]
    for _ in range(10):
        name = [name] * 10
    with pytest.raises(UsageError) as caught:
        schema.parse(search_space.SearchSpace, {"name": name}, "here")
    assert len(str(caught.value)) < 3000


class _Kind(TypedDict):
    number: float
    names: list[str]


def test_data_of_a_file_are_compared_with_the_types_that_are_read():
    schema.check(_Kind, {"number": 1, "names": ["a"], "more": None}, "f.json")
    schema.check(_Kind, {"number": 1.5}, "f.json", partial=True)
    for data in (
        {"number": 1},
        {"number": "1", "names": []},
        {"number": 1, "names": [2]},
        [],
        None,
    ):
        with pytest.raises(DataError, match=r"f\.json is damaged"):
            schema.check(_Kind, data, "f.json")
    with pytest.raises(DataError, match="number"):
        schema.check(_Kind, {"number": True}, "f.json", partial=True)


@pytest.mark.parametrize(
    "data",
    [
        {"seed": -1},
        {"seed": 10**30},
        {"data": "a\0b"},
        {"benchmarks": ["a" * 300]},
        {"train": {"teacher": "/".join(["a"] * 3000)}},
        {"search": {"target_bitops": 1e308}},
        {"search": {"target_bitops": math.nan}},
        {"search": {"epochs": 10**20}},
    ],
)
def test_settings_that_nothing_can_be_done_with_are_refused(data):
    with pytest.raises(UsageError, match="configuration"):
        schema.parse(RunConfig, data, "configuration")


@pytest.mark.parametrize("text", ["\ud800", "\udcff"])
@pytest.mark.parametrize("name", ["space", "data", "device", "quantize.train", "seed", "quantize"])
def test_text_that_is_no_utf_8_is_refused_unless_it_names_a_file(name, text):
    section, _, key = name.partition(".")
    data = {section: {key: text}} if key else {section: text}
    if name in ("space", "data") and text == "\udcff":  # a byte of a name that is no UTF-8
        assert getattr(schema.parse(RunConfig, data, "configuration"), name) == text
        return
    with pytest.raises(UsageError, match="configuration") as caught:
        schema.parse(RunConfig, data, "configuration")
    assert "codec" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["a: 2024-01-01", "2024-01-01: a", "a: [!!binary aGk=]", "a: !!set {x}", "a: !!omap [x: 1]"],
)
def test_yaml_values_that_json_cannot_hold_are_refused(text):
    with pytest.raises(UsageError, match="quotation marks"):
        schema.parse_yaml(text, "here", "Mend it.")


@pytest.mark.parametrize("name", ["channels", "cells"])
def test_a_search_space_beyond_all_measure_is_refused(name):
    plain = yaml.safe_load(search_space.to_yaml(search_space.load("rfdn_small")))
    with pytest.raises(UsageError, match=f"`{name}`|{name}"):
        schema.parse(SearchSpace, {**plain, name: 10**12}, "f.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a: &a [1, 2, 3, 4, 5, 6, 7, 8]\n"
        + "".join(
            f"{x}: &{x} [{', '.join([f'*{y}'] * 8)}]\n"
            for y, x in zip("abcdef", "bcdefg", strict=True)
        ),
    ],
)
def test_references_cannot_make_a_text_endless(text):
    with pytest.raises(UsageError, match="contains itself, or more than"):
        schema.parse_yaml(text, "here", "Mend it.")
