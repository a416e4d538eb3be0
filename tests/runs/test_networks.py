"""Checks which photographs a run uses, and that bad ones are reported before it begins."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from quantnas.config.run_config import RunConfig
from quantnas.data import holdout, image_files, photographs
from quantnas.data.photographs import Photograph
from quantnas.errors import DataError
from quantnas.pipeline import new_run, preflight
from quantnas.runs import networks, run_photographs
from quantnas.runs.run_folder import Run
from quantnas.runs.run_settings import load_config


def lay(folder: Path, count: int = 5, low: tuple[int, int] | None = (40, 50)) -> str:
    """A folder of photographs; `low`, (height, width), adds low-resolution files at x2."""
    rng = np.random.default_rng(0)
    for k in range(count):
        high = rng.integers(0, 256, (81, 100, 3), dtype=np.uint8)
        image_files.write(folder / "HR" / f"{k}.png", high)
        if low is not None:
            image_files.write(folder / "LR" / "X2" / f"{k}.png", high[: low[0], : low[1]])
    return str(folder)


def settings(**changes: object) -> RunConfig:
    return RunConfig(space="rfdn_small", scale=2, **changes)


@pytest.mark.parametrize(
    ("step", "name"), [("train", "checkpoints/float.safetensors"), ("export", "model.onnx")]
)
def test_a_file_that_is_lost_is_told_from_a_step_that_was_not_done(tmp_path, step, name):
    run = Run(tmp_path)
    with pytest.raises(DataError, match=f"the step '{step}' has not finished"):
        networks.need(run.folder / name, step)
    run.finish(step, {})
    with pytest.raises(DataError, match=r"is not there any more, although .* has finished"):
        networks.need(run.path(name), step)


def test_the_bundled_photographs_stand_alone():
    chosen = run_photographs.choose(settings())
    assert [p.high for p in chosen.train] == list(image_files.bundled().train)
    assert not any(p.low for p in chosen.train + chosen.held_out)


@pytest.mark.parametrize("paired", [True, False])
def test_a_run_remembers_its_photographs(tmp_path, monkeypatch, paired):
    monkeypatch.chdir(tmp_path)
    config = settings(data="data")
    lay(Path("data"), low=(40, 50) if paired else None)
    chosen = run_photographs.choose(config)
    assert (len(chosen.train), len(chosen.held_out)) == (4, 1)
    assert all(bool(p.low) is paired for p in chosen.train + chosen.held_out)
    run, other = Run(tmp_path / "run"), Run(tmp_path / "other")
    new_run.begin(run, config, chosen, {})
    lay(Path("data"), count=9, low=(40, 50) if paired else None)
    monkeypatch.chdir("/")
    found = run_photographs.photographs_of(run, config)
    for mine, theirs in zip(
        found.train + found.held_out, chosen.train + chosen.held_out, strict=True
    ):
        assert mine.high == tmp_path / theirs.high
        assert mine.low == (tmp_path / theirs.low if paired else None)
    assert run_photographs.inherited(run, settings(seed=1, data=str(tmp_path / "data"))) == found
    monkeypatch.chdir(tmp_path)
    assert len(run_photographs.photographs_of(other, config).train) == 7


def test_a_folder_to_evaluate_on_may_be_paired(tmp_path):
    config = settings(data=lay(tmp_path / "a", low=None), eval_data=lay(tmp_path / "b"))
    chosen = run_photographs.choose(config)
    assert len(chosen.train) == len(chosen.held_out) == 5
    assert all(p.low for p in chosen.held_out) and not any(p.low for p in chosen.train)
    preflight.check(config, chosen)
    again = dataclasses.replace(config, eval_data=str(tmp_path / "a" / "HR"))
    with pytest.raises(DataError, match=r"5 photographs to evaluate on are among those to learn"):
        run_photographs.choose(again)


@pytest.mark.parametrize("where", ["data", "eval_data", "benchmarks"])
def test_pairs_of_wrong_sizes_are_told_of_before_anything_is_decoded(tmp_path, monkeypatch, where):
    folder = lay(tmp_path / "bad", low=(40, 49))
    config = settings(**{where: (folder,) if where == "benchmarks" else folder})
    monkeypatch.setattr(photographs, "read", None)
    monkeypatch.setattr(image_files, "read", None)
    with pytest.raises(DataError, match=r"5 photographs are not 2 times as large .*\(0\.png, 1\.p"):
        preflight.check(config, run_photographs.choose(config))


def test_a_damaged_file_to_evaluate_on_is_told_of_at_once(tmp_path):
    config = settings(eval_data=lay(tmp_path))
    low = tmp_path / "LR" / "X2" / "3.png"
    low.write_bytes(low.read_bytes()[:900])
    with pytest.raises(DataError, match=r"X2.3\.png' is damaged"):
        preflight.check(config, run_photographs.choose(config))


def test_a_damaged_file_to_learn_from_is_left_to_the_step(tmp_path):
    config = settings(data=lay(tmp_path / "a", 12), eval_data=lay(tmp_path / "b"))
    (tmp_path / "a" / "HR" / "0.png").write_bytes(b"not an image")
    preflight.check(config, run_photographs.choose(config))


def test_more_than_a_tenth_damaged_is_refused_before_anything_is_written(tmp_path):
    config = settings(data=lay(tmp_path / "a"), eval_data=lay(tmp_path / "b"))
    (tmp_path / "a" / "HR" / "0.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match="More than 10% of 5 photographs"):
        preflight.check(config, run_photographs.choose(config))


def test_photographs_without_a_patch_are_told_of(tmp_path):
    image_files.write(tmp_path / "a.png", np.zeros((400, 30, 3), np.uint8))
    alone = holdout.Photographs((Photograph(tmp_path / "a.png"),), ())
    with pytest.raises(DataError, match="No photograph is as large as a patch of"):
        preflight.check(settings(), alone)


# What a run goes on from


def begun(folder: Path, config: RunConfig, source: Run | None = None) -> Run:
    """A run that has chosen its photographs."""
    chosen = run_photographs.inherited(source, config) if source else run_photographs.choose(config)
    new_run.begin(Run(folder), config, chosen, {})
    return Run(folder)


def heldout(run: Run) -> set[str]:
    found = run_photographs.photographs_of(run, load_config(run)).held_out
    return {photo.high.relative_to(run.folder.parent).as_posix() for photo in found}


@pytest.fixture
def grown(tmp_path) -> tuple[Run, str]:
    """A run, and a folder with its photographs and four new ones."""
    first = begun(tmp_path / "first", settings(data=lay(tmp_path / "all" / "a", 7, None)))
    assert heldout(first) == {"all/a/HR/3.png"}
    lay(tmp_path / "all" / "b", 4, None)
    return first, str(tmp_path / "all")


def test_what_the_source_has_learned_from_is_never_held_out(tmp_path, grown):
    first, data = grown
    second = begun(tmp_path / "second", settings(data=data), first)
    assert heldout(second) == {"all/b/HR/0.png", "all/b/HR/2.png"}
    chosen = run_photographs.photographs_of(second, settings())
    assert len(chosen.train) == 9 and len(chosen.known) == 6
    assert run_photographs.inherited(second, settings(data=data, seed=3)) == chosen


def test_what_a_source_of_the_source_has_learned_from_is_known_too(tmp_path, grown):
    first, data = grown
    other = settings(data=lay(tmp_path / "other", 4, None), eval_data=f"{data}/b")
    second = begun(tmp_path / "second", other, first)
    third = begun(tmp_path / "third", settings(data=f"{data}/a"), second)
    assert heldout(third) == {"all/a/HR/3.png"}
    assert {path.name for path in run_photographs.learned(third)} == {f"{k}.png" for k in range(7)}


@pytest.mark.parametrize("named", ["source", "teacher", "start"])
def test_an_evaluation_on_what_was_learned_from_before_is_refused(tmp_path, grown, named):
    first, data = grown
    config = settings(data=f"{data}/b", eval_data=f"{data}/a")
    if named != "source":
        value = first.folder if named == "teacher" else first.weights("float")
        train = dataclasses.replace(config.train, **{named: str(value)})
        config, first = dataclasses.replace(config, train=train), None
    message = (
        r"^6 photographs to evaluate on are among those that .*first has learned from \(.*0\.png"
    )
    with pytest.raises(DataError, match=message):
        begun(tmp_path / "second", config, first)


def test_a_teacher_may_not_know_what_a_run_keeps_from_its_source(tmp_path, grown):
    first, data = grown
    source = begun(tmp_path / "source", settings(data=f"{data}/b", eval_data=f"{data}/a"))
    config = load_config(source)
    train = dataclasses.replace(config.train, teacher=str(first.folder))
    with pytest.raises(DataError, match=r"^6 photographs to evaluate on .* Give --eval-data"):
        run_photographs.inherited(source, dataclasses.replace(config, train=train))


# What cannot be measured


@pytest.mark.parametrize("paired", [True, False])
def test_the_split_draws_from_sound_photographs(tmp_path, paired):
    data = lay(tmp_path, 12, (40, 50) if paired else None)
    (tmp_path / "HR" / "3.png").write_bytes(b"not an image")
    if paired:
        (tmp_path / "LR" / "X2" / "7.png").write_bytes(b"not an image")
    else:
        image_files.write(tmp_path / "HR" / "7.png", np.zeros((17, 90, 3), np.uint8))
    chosen = run_photographs.choose(settings(data=data))
    preflight.check(settings(data=data), chosen, "export")
    assert len(chosen.held_out) == 3 and len(chosen.train) == 9
    assert not {"3", "7"} & {photo.name for photo in chosen.held_out}


def test_of_a_file_damaged_further_inside_the_way_around_is_told(tmp_path):
    config = settings(data=lay(tmp_path, 4, None))
    file = tmp_path / "HR" / "3.png"
    file.write_bytes(file.read_bytes()[:900])
    chosen = run_photographs.choose(config)
    with pytest.raises(DataError, match=r"3\.png' is damaged.*or give --eval-data a folder of"):
        preflight.check(config, chosen, "export")
