"""Checks which settings a run records, and which ones a run that continues it inherits."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml

from quantnas.cli import options
from quantnas.cli.main import main
from quantnas.config import search_space
from quantnas.config.files import write_text
from quantnas.config.run_config import RunConfig, TrainConfig
from quantnas.config.schema import read_yaml
from quantnas.errors import UsageError
from quantnas.pipeline import driver
from quantnas.pipeline.run_sources import Request
from quantnas.runs import run_settings
from quantnas.runs.run_folder import Run

TINY = ["float_steps=4", "qat_steps=2", "batch=2", "patch=12"]
QUICK = [part for s in TINY for part in ("--set", f"train.{s}")]


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def edit(run: Run, **changes: object) -> None:
    """Overwrite settings in the configuration of the run."""
    config = run_settings.plain(dataclasses.replace(run_settings.written(run), **changes))
    write_text(run.path("config.yaml"), yaml.safe_dump(config))


@pytest.fixture
def run(make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "runs" / "mine")


def test_the_space_and_the_genotype_are_those_in_the_folder(run, tmp_path):
    config = RunConfig(space="gone.yaml", scale=3, genotype="gone.json")
    found = run_settings.own(run, config)
    assert (found.space, found.scale) == (str(run.folder / "space.yaml"), None)
    assert found.genotype == "gone.json"
    shutil.copy(run.folder / "genotype.json", run.folder / run_settings.GIVEN)
    assert run_settings.own(run, config).genotype == str(run.folder / run_settings.GIVEN)
    assert run_settings.own(Run(tmp_path / "empty"), config) == config


def test_what_stays_outside_is_named_by_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    how = TrainConfig(start="a.safetensors", teacher="runs/b")
    config = RunConfig(data="photos", benchmarks=("../Set5",), genotype="g.json", train=how)
    found = run_settings.settled(config)
    assert found.data == str(tmp_path / "photos") and found.eval_data is None
    assert found.benchmarks == (str(tmp_path.parent / "Set5"),)
    assert found.genotype == str(tmp_path / "g.json") and found.space == config.space
    assert found.train.start == str(tmp_path / "a.safetensors")
    assert found.train.teacher == str(tmp_path / "runs" / "b")
    assert run_settings.settled(found) == found
    own = RunConfig(train=TrainConfig(teacher="own", start="float"))
    assert run_settings.settled(own) == own and run_settings.settled(RunConfig()) == RunConfig()


def test_a_training_begins_by_its_own_settings_alone(run):
    how = TrainConfig("scratch", batch=3, teacher="own", max_hours=2.0)
    edit(run, train=how, genotype="gone.json", seed=5)
    made = run_settings.inherit(run, "train")
    assert made["train"] == dataclasses.asdict(TrainConfig(batch=3))
    assert made["genotype"] is None and made["seed"] == 5
    assert run_settings.inherit(run, "quantize")["train"] == dataclasses.asdict(how)


OTHER = [
    ({"scale": 3}, "is x2, but x3 is given"),
    ({"space": "espcn"}, "has the space 'tiny' in its space.yaml, but espcn is another one"),
    ({"space": "nothing"}, "no search space called 'nothing'"),
    ({"genotype": "other.json"}, r"has another genotype than other\.json"),
]


@pytest.mark.parametrize(("change", "words"), OTHER)
def test_a_step_stays_with_the_network_of_its_run(run, random_genotype, tiny, change, words):
    Path("other.json").write_text(random_genotype(tiny, 8).to_json())
    edit(run, space="tiny.yaml", scale=4)  # as older versions may have recorded
    config = RunConfig(**run_settings.inherit(run, "export") | {"search": None})
    found = run_settings.continued(run, config)
    assert (found.space, found.scale, found.genotype) == ("tiny.yaml", 2, None)
    with pytest.raises(UsageError, match=words):
        run_settings.continued(run, dataclasses.replace(config, **change))


def test_the_same_once_more_is_no_change(run):
    write_text(
        Path("copy.yaml"), search_space.to_yaml(search_space.load(str(run.folder / "space.yaml")))
    )
    same = {"space": "copy.yaml", "scale": 2, "genotype": str(run.folder / "genotype.json")}
    config = RunConfig(**run_settings.inherit(run, "export") | {"search": None} | same)
    assert run_settings.continued(run, config).space == run_settings.written(run).space


@pytest.mark.parametrize(
    "arguments",
    [["train", "--scale", "3"], ["quantize", "--set", "scale=3"], ["train", "--set", "scale=3"]],
)
def test_every_command_refuses_another_scale_before_anything_is_made(run, capsys, arguments):
    verb, *rest = arguments
    assert command(verb, run.folder, *rest, "--output", "new") == 2
    assert f"The run {run.folder} is x2, but x3 is given" in capsys.readouterr().err
    assert command(verb, run.folder, "--set", "space=espcn", "--output", "new") == 2
    assert "espcn is another one" in capsys.readouterr().err
    assert not Path("new").exists()


def test_a_run_needs_nothing_of_what_it_was_begun_with(run, tmp_path, monkeypatch, capsys):
    """The folder holds space, genotype and the teacher's path, wherever the next step starts."""
    shutil.move(run.folder / "space.yaml", "mine.yaml")
    shutil.move(run.folder / "genotype.json", "mine.json")
    shutil.copytree("runs/mine", "teacher")
    for name in ("space.yaml", "genotype.json"):
        shutil.copy(f"mine.{name.split('.')[1]}", f"teacher/{name}")
    perform = driver.perform
    monkeypatch.setattr(driver, "perform", lambda *_: 1 / 0)
    given = ["mine.json", "--space", "mine.yaml", "--teacher", "teacher", *QUICK]
    assert command("train", *given, "--name", "first") == 1
    monkeypatch.setattr(driver, "perform", perform)
    first = tmp_path / "runs" / "train" / "first"
    config = read_yaml(first / "config.yaml")
    assert (config["space"], config["train"]["teacher"]) == ("mine.yaml", str(tmp_path / "teacher"))
    assert (first / "space.yaml").exists() and (first / "genotype_given.json").exists()
    Path("mine.yaml").unlink()
    Path("mine.json").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command("train", "--resume", first) == 0, capsys.readouterr().err
    less = ["--from", "float", "--set", "train.qat_steps=1"]
    assert command("train", first, *less) == 0, capsys.readouterr().err
    again = read_yaml(Path("runs/train/first/config.yaml"))
    assert (again["space"], again["genotype"]) == ("mine.yaml", None)
    assert again["train"]["teacher"] is None and again["train"]["start"] == "float"
    fast = ["--set", "quantize.steps=1", "--set", "quantize.crops=2", "--set", "quantize.batch=2"]
    assert command("quantize", "runs/train/first", *fast) == 0, capsys.readouterr().err
    assert command("info", "runs/quantize/first") == 0


def test_options_win_over_set_and_both_over_the_file(tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text("seed: 3\nbits: 2\nquantize: {minutes: 5, train: none, rate: 0.1}\n")
    new = options.New(
        file, ["quantize.average_bits=3", "seed=4"], {"seed": 5, "quantize.steps": 9}, file, None
    )
    config = Request("run", **new.arguments).over({"scale": 2})
    c = config.quantize
    assert (config.scale, config.seed, config.bits, c.average_bits) == (2, 5, None, 3)
    assert (c.minutes, c.steps, c.train, c.rate) == (None, 9, "weights", 0.1)


def test_sections_of_a_file_that_are_one_in_yaml_are_set_apart(tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text("search: &s {batch: 4, patch: 16}\ntrain: *s\nquantize: *s\n")
    config = Request("run", file, {"quantize.steps": 9}).over({})
    assert (config.search.batch, config.train.batch, config.quantize.steps) == (4, 4, 9)
