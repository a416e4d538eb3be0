"""Checks the points of a sweep, and the errors about impossible ones."""

import pytest

from quantnas.config import run_config
from quantnas.errors import DataError, UsageError
from quantnas.sweeps import plan
from quantnas.sweeps.plan import Sweep


def test_every_combination_is_a_point_named_after_what_differs():
    vary = {"search.target_bitops": ["0.3G", 1.2e9], "bits": [None, "w2a4"], "seed": [0]}
    found = plan.points(Sweep({"scale": 3, "train": {"batch": 4}}, vary), "here")
    assert [p.name for p in found] == ["0.3G-searched", "0.3G-w2a4", "1.2G-searched", "1.2G-w2a4"]
    last = found[-1].config
    assert (last.search.target_bitops, last.bits, last.act_bits) == (1.2e9, 2, 4)
    assert (last.scale, last.train.batch, last.seed) == (3, 4, 0)
    assert found[0].config.bits is None
    assert found[1].varied == {"search.target_bitops": "0.3G", "bits": "w2a4", "seed": 0}


def test_points_are_given_one_by_one_with_all_that_varies():
    given = ({"space": "basic", "search": {"penalty": 1e-3}}, {"space": "espcn", "bits": 8})
    found = plan.points(Sweep({}, {"seed": [1, 2]}, given), "here")
    assert [p.name for p in found] == [
        "basic-penalty0.001-seed1", "basic-penalty0.001-seed2", "espcn-w8-seed1", "espcn-w8-seed2",
    ]  # fmt: skip
    assert found[0].config.search.penalty == 1e-3
    assert found[2].config.search.penalty == run_config.RunConfig().search.penalty


def test_a_point_changes_no_other_ones_section():
    base = {"train": {"batch": 4}}
    found = plan.points(Sweep(base, {"train.float_steps": [1, 2]}), "here")
    assert [p.config.train.float_steps for p in found] == [1, 2]
    assert base == {"train": {"batch": 4}}


def test_names_are_unique_and_plain():
    spaces = ["one/rfdn.yaml", "two/rfdn.yaml", "rfdn-2.yaml", "../a b.yaml", 200 * "c"]
    found = plan.points(Sweep({}, {"space": spaces}), "here")
    assert [p.name for p in found] == ["rfdn", "rfdn-2", "rfdn-2-2", "a_b", plan.LONGEST * "c"]


def test_settings_of_all_points_are_written_as_those_that_vary():
    base = {"bits": "w2a4", "search": {"target_bitops": "0.5G"}}
    found = plan.points(Sweep(base, {"seed": [0, 1]}), "here")[0].config
    assert (found.bits, found.act_bits, found.search.target_bitops) == (2, 4, 5e8)
    found = plan.points(Sweep({}, {"bits": ["searched", 2]}), "here")
    assert [p.config.bits for p in found] == [None, 2] and found[0].name == "searched"


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        (Sweep({}, {}), "Nothing varies"),
        (Sweep({}, {"space": ["basic"]}), "Nothing varies"),
        (Sweep({}, {"seed": [1, 1]}), "are the same"),
        (Sweep({}, {"seed": [1, 2]}, ({"seed": 2},)), "'seed' varies, and stands"),
        (Sweep({"varry": {"seed": [0, 1]}}, {}), "unknown key 'varry'"),
        (Sweep({}, {"serch.penalty": [1, 2]}), "unknown key 'serch"),
        (Sweep({}, {"search.penaltee": [1, 2]}), "unknown key 'search.penaltee'"),
        (Sweep({}, {"bits": ["w2", 3]}), "bits cannot be"),
        (Sweep({}, {"search.target_bitops": ["much", 1e9]}), "cannot be 'much'"),
        (Sweep({"scale": 3}, {"scale.x": [1, 2]}), "'scale' is no section"),
        (Sweep({}, {"bits": [5, 8]}), "'bits' cannot be 5"),
    ],
)
def test_what_cannot_be_is_told(sweep, said):
    with pytest.raises(UsageError) as caught:
        plan.points(sweep, "here")
    assert said in caught.value.cause


def test_a_file_holds_settings_and_what_varies(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("scale: 2\nvary: {seed: [0, 1]}\npoints: [{space: basic}]\n")
    assert plan.read(path) == Sweep({"scale": 2}, {"seed": [0, 1]}, ({"space": "basic"},))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vary: [seed]", "`vary` is no mapping"),
        ("vary: {seed: 3}", "`vary.seed` is no list"),
        ("vary: {seed: []}", "`vary.seed` is no list"),
        ("points: {seed: 3}", "`points` is no list"),
        ("points: [seed]", "`points` is no list"),
    ],
)
def test_a_file_of_another_form_is_an_error_with_its_name(tmp_path, text, said):
    path = tmp_path / "sweep.yaml"
    path.write_text(text + "\n")
    with pytest.raises(UsageError) as caught:
        plan.read(path)
    assert said in caught.value.cause and str(path) in caught.value.cause


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="Cannot read"):
        plan.read(tmp_path / "none.yaml")
