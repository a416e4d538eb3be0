"""Checks the step `train`: its initial weights, its time limits, and its errors."""

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantnas import errors
from quantnas.cli.main import main
from quantnas.config import search_space
from quantnas.config.run_config import RunConfig, TrainConfig
from quantnas.pipeline import new_run, search_step, train_step
from quantnas.reporting import run_report
from quantnas.runs import run_folder, run_photographs
from quantnas.training import checkpoint

TINY = ["float_steps=12", "qat_steps=6", "batch=2", "patch=12", "check=4"]
SETTINGS = [part for s in TINY for part in ("--set", f"train.{s}")]


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def result(folder: Path) -> dict:
    return json.loads((folder / "steps" / "train.json").read_text())


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"{name}.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory) -> Path:
    """A trained run in a search space without choices."""
    root = tmp_path_factory.mktemp("fixed")
    assert command("train", "quicksrnet_small", "--output", root, *SETTINGS) == 0
    return root / "train" / "quicksrnet_small"


def test_a_space_without_choices_is_trained_as_it_is(fixed):
    found = json.loads((fixed / "genotype.json").read_text())["choices"]
    assert {c["op"] for c in found.values()} == {"conv3x3"}
    told = result(fixed)
    assert told["began_with"] == "scratch"
    assert told["psnr_patches_float"] > 20 and told["photographs"]["used"] == 12
    for name in ("float", "float_last", "trained", "rounded_last"):
        assert weights(fixed, name), name
    search = json.loads((fixed / "steps" / "search.json").read_text())
    assert search["kept"] == "nothing to choose" and search["bitops_at"]["32x32"] > 1e9


@pytest.mark.slow
def test_a_trained_fixed_network_goes_through_the_rest_of_the_chain(fixed, tmp_path):
    quick = ["--set", "quantize.steps=4", "--set", "quantize.batch=2", "--set", "quantize.crops=4"]
    assert command("quantize", fixed, *quick, "--output", tmp_path) == 0
    quantized = tmp_path / "quantize" / "quicksrnet_small"
    assert command("export", quantized, "--output", tmp_path) == 0
    exported = tmp_path / "export" / "quicksrnet_small"
    assert command("report", exported) == 0
    told = (exported / "report.md").read_text()
    assert "12 photographs (0 too small, 0 damaged)" in told and "'used'" not in told
    assert "kept nothing to choose" in told and "share decided" not in told
    assert "sensitive to rounding" not in told
    data = json.loads((exported / "report.json").read_text())
    data["export"]["verification"] |= {"psnr": 39.91, "sensitivity": 38.52}
    noisy = run_report.markdown(data)
    assert (
        "file and torch by 39.9 dB, the network with its own arithmetic noise by 38.5 dB" in noisy
    )


def test_a_space_with_open_choices_is_refused_with_what_to_do(capsys, tmp_path):
    assert command("train", "rfdn_small", "--output", tmp_path) == 2
    told = capsys.readouterr().err
    assert "leaves 15 choices open" in told and "quantnas search rfdn_small" in told
    assert not list(tmp_path.iterdir())


def test_a_genotype_is_trained_in_its_space(fixed, tmp_path):
    found = fixed / "genotype.json"
    assert command("train", found, "--output", tmp_path, "--name", "again", *SETTINGS) == 0
    again = tmp_path / "train" / "again"
    assert same(weights(again, "trained"), weights(fixed, "trained"))
    assert (again / "genotype.json").read_text() == found.read_text()


def test_a_genotype_of_another_space_is_refused_with_both_names(fixed, tmp_path, capsys):
    other = ["--space", "espcn", "--output", tmp_path]
    assert command("train", fixed / "genotype.json", *other, *SETTINGS) == 2
    told = capsys.readouterr().err
    assert "does not fit the space 'espcn'" in told and "'quicksrnet_small'" in told


def test_training_goes_on_from_the_float_network_of_a_run(fixed, tmp_path):
    root = ["--output", tmp_path]
    assert command("train", fixed, "--from", "float", "--qat-steps", 8, *root) == 0
    later = tmp_path / "train" / "quicksrnet_small"
    assert result(later)["began_with"] == "float"
    assert same(weights(later, "float"), weights(fixed, "float"))
    assert not (later / "checkpoints" / "float_last.safetensors").exists()


def test_training_begins_with_a_file_and_zero_steps_keep_it(fixed, tmp_path):
    file = fixed / "checkpoints" / "float.safetensors"
    steps = ["--float-steps", 0, "--qat-steps", 0]
    assert command("train", "quicksrnet_small", "--from", file, *steps, "--output", tmp_path) == 0
    assert same(weights(tmp_path / "train" / "quicksrnet_small", "float"), weights(fixed, "float"))


def test_weights_of_another_network_are_refused_with_both_names(fixed, tmp_path, capsys):
    file = fixed / "checkpoints" / "float.safetensors"
    assert command("train", "espcn", "--from", file, *SETTINGS, "--output", tmp_path) == 3
    told = capsys.readouterr().err
    assert "quicksrnet_small x2" in told and "espcn x2" in told
    assert str(file) in told and "or --from scratch" in told
    assert not list(tmp_path.iterdir())


def test_weights_of_another_network_are_refused_for_a_run_and_a_genotype(fixed, tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    save_file({"head.weight": torch.zeros(3)}, other)
    for source in (fixed, fixed / "genotype.json"):
        assert command("train", source, "--from", other, "--output", tmp_path / "runs") == 3
        assert f"{other} holds the weights of another network" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_run_in_float_has_all_the_time_for_it(tmp_path):
    how = TrainConfig(float_steps=1000, qat_steps=400, max_hours=1)
    assert train_step.schedule(RunConfig(train=how), False, True).seconds == pytest.approx(3600)
    copied = search_space.to_yaml(search_space.load("quicksrnet_small")).replace("- 8", "- 32")
    (tmp_path / "plain.yaml").write_text(copied)
    assert search_space.load(str(tmp_path / "plain.yaml")).is_float
    settings = ["--set", "train.batch=2", "--set", "train.patch=12"]
    limit = ["--max-hours", 4 / 3600, "--float-steps", 10**6, "--output", tmp_path]
    assert command("train", tmp_path / "plain.yaml", *limit, *settings) == 0
    assert result(tmp_path / "train" / "plain")["seconds"] > 3.5


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--from", "nowhere.safetensors"], 3, "There is no file nowhere.safetensors"),
        (["--from", "float"], 2, "from the float network of a run"),
        (["--set", "train.average=1.5"], 2, "at most 1"),
        (["--from", "float", "--float-steps", "9"], 2, "--float-steps is given, but"),
        (["--max-hours", "0"], 2, "--max-hours is 0"),
        (["--loss", "l3"], 2, "charbonnier"),
        (["--teacher", "nowhere"], 3, "nowhere is not a run folder"),
        (["--set", "train.patch=4000"], 3, "No photograph is as large"),
    ],
)
def test_what_cannot_be_is_refused(arguments, code, words, tmp_path, capsys):
    assert command("train", "quicksrnet_small", *arguments, "--output", tmp_path) == code
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_teacher_of_another_scale_is_refused(fixed, tmp_path, capsys):
    other = ["--scale", 3, "--teacher", fixed, "--output", tmp_path]
    assert command("train", "quicksrnet_small", *other, *SETTINGS) == 2
    assert "enlarges x2, the network x3" in capsys.readouterr().err


@pytest.mark.parametrize("teacher", ["own", "run"])
def test_a_teacher_changes_what_is_learned(fixed, tmp_path, teacher):
    name = fixed if teacher == "run" else "own"
    options = ["--teacher", name, "--output", tmp_path, *SETTINGS]
    assert command("train", "quicksrnet_small", *options) == 0
    taught = tmp_path / "train" / "quicksrnet_small"
    assert same(weights(taught, "float"), weights(fixed, "float")) == (teacher == "own")
    assert not same(weights(taught, "trained"), weights(fixed, "trained"))


def test_the_time_limit_is_shared_out_by_what_the_steps_cost():
    how = TrainConfig(float_steps=1000, qat_steps=400, max_hours=1)
    limits = [
        train_step.schedule(RunConfig(train=how), rounded).seconds for rounded in (False, True)
    ]
    assert sum(limits) == pytest.approx(3600) and limits[0] == pytest.approx(1800)
    alone = TrainConfig(start="float", qat_steps=400, max_hours=1)
    assert train_step.schedule(RunConfig(train=alone), True).seconds == pytest.approx(3600)


@pytest.mark.slow
def test_a_time_limit_of_the_command_is_kept(tmp_path):
    settings = ["--set", "train.batch=2", "--set", "train.patch=12"]
    began = time.monotonic()
    limit = ["--max-hours", 6 / 3600, "--float-steps", 10**6, "--qat-steps", 10**5]
    assert command("train", "quicksrnet_small", *limit, *settings, "--output", tmp_path) == 0
    assert time.monotonic() - began < 20
    assert result(tmp_path / "train" / "quicksrnet_small")["seconds"] < 12


def test_a_full_disk_leaves_the_last_state_and_says_so(tmp_path, monkeypatch):
    path = tmp_path / "float.resume"
    part = torch.nn.Linear(3, 2)
    checkpoint.save(path, 7, {"net": part})
    before = path.read_bytes()

    def full(state: object, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(errors.DataError, match="No space left") as told:
        checkpoint.save(path, 8, {"net": part})
    assert "intact" in told.value.remedy and path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["float.resume"]


def test_a_full_disk_elsewhere_is_said_in_words(fixed, tmp_path, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(run_folder.Run, "record", full)
    assert command("train", "quicksrnet_small", "--output", tmp_path, *SETTINGS) == 3
    assert "The disk is full: metrics.jsonl" in capsys.readouterr().err


def test_progress_shows_what_a_person_wants_to_know(tmp_path):
    config = RunConfig(space="quicksrnet_small", train=TrainConfig(float_steps=5, qat_steps=0))
    run = run_folder.create(tmp_path, "train", None, "x")
    new_run.begin(run, config, run_photographs.choose(config), {})
    where = search_space.load("quicksrnet_small")
    (run.folder / "space.yaml").write_text(search_space.to_yaml(where))
    list(search_step.search_step(run, config))
    records = [r for r in train_step.train_step(run, config) if r.phase == "float"]
    assert [(r.done, r.total) for r in records] == [(i, 5) for i in range(1, 6)]
    assert set(records[-1].facts) == {"loss", "PSNR", "patches/s"}
    assert float(records[-1].facts["patches/s"]) > 0 and records[-1].facts["PSNR"] != "-"
