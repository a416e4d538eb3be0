"""Checks the names of new run folders, that nothing is overwritten, and copies between runs."""

import json
import math
import re

import pytest

from quantnas.errors import DataError, UsageError
from quantnas.runs import run_folder
from quantnas.runs.run_folder import Run


def test_without_a_name_the_next_free_number_is_taken(tmp_path):
    names = [run_folder.create(tmp_path, "search", None, "space").folder.name for _ in range(3)]
    assert names == ["space", "space-2", "space-3"]


def test_a_taken_name_is_refused_and_left_as_it_was(tmp_path):
    run = run_folder.create(tmp_path, "run", "mine", "space")
    run.log("hello")
    with pytest.raises(UsageError, match="mine is not empty"):
        run_folder.create(tmp_path, "run", "mine", "space")
    assert (run.folder / "log.txt").read_text() == "hello\n"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\\b", "../a", "é" * 150, "p\udcff"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="--name cannot be"):
        run_folder.create(tmp_path / "runs", "run", name, "space")
    assert not list(tmp_path.iterdir())


def test_a_root_that_is_a_file_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(DataError, match="Cannot make the folder"):
        run_folder.create(tmp_path / "runs", "run", None, "space")


def test_a_folder_without_configuration_is_no_run(tmp_path):
    with pytest.raises(DataError, match="not a run folder"):
        run_folder.existing(tmp_path)


def test_the_runs_that_there_are_are_named(tmp_path):
    for number in range(7):
        folder = tmp_path / "runs" / "run" / f"r{number}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
    for path in (tmp_path, tmp_path / "runs", tmp_path / "runs" / "run" / "r8"):
        with pytest.raises(DataError, match="not a run folder") as found:
            run_folder.existing(path)
        shown = ", ".join(str(tmp_path / "runs" / "run" / f"r{number}") for number in range(5))
        assert found.value.remedy == f"Give the folder of a run, such as {shown}, or one of 2 more."


def test_a_finished_step_leaves_its_result_and_no_resume_points(tmp_path):
    run = run_folder.Run(tmp_path)
    run.resume_point("search").write_bytes(b"state")
    assert run.result("search") is None
    run.finish("search", {"psnr": math.inf, "steps": 3})
    assert run.result("search") == {"step": "search", "psnr": None, "steps": 3}
    assert not list(tmp_path.rglob("*.resume"))
    assert not list(tmp_path.rglob("*.part"))


def test_metrics_are_lines_of_json(tmp_path):
    run = run_folder.Run(tmp_path)
    run.record("float", {"step": 1, "psnr": math.nan})
    run.record("float", {"step": 2, "psnr": 3.5})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["psnr"] for line in lines] == [None, 3.5]


def test_a_run_takes_over_only_what_came_before(tmp_path):
    old, new = run_folder.Run(tmp_path / "old"), run_folder.Run(tmp_path / "new")
    for step in ("search", "train", "quantize"):
        old.finish(step, {})
    for names in run_folder.MADE.values():
        for name in names:
            old.path(name).write_bytes(name.encode())
    run_folder.carry(old, new, until="quantize")
    assert new.weights("float").read_bytes() == b"checkpoints/float.safetensors"
    assert not (new.folder / "model.onnx").exists()
    assert not (new.folder / "precision.json").exists()
    assert new.result("train") is not None
    assert new.result("quantize") is None


def test_what_has_not_finished_is_named(tmp_path):
    run = run_folder.Run(tmp_path)
    run.finish("search", {})
    run_folder.require(run, until="train")
    with pytest.raises(DataError, match="'train' has not finished"):
        run_folder.require(run, until="export")


@pytest.mark.parametrize("files", [["half_begun"], ["half_begun", "config.yam", "steps/a.json"]])
def test_a_half_begun_folder_is_begun_again(tmp_path, files):
    """Its process was killed before it wrote the settings, which are written last."""
    folder = tmp_path / "run" / "it"
    for name in files:
        Run(folder).path(name).write_text("old")
    with pytest.raises(DataError, match="only begun") as caught:
        run_folder.existing(folder)
    assert caught.value.remedy.endswith("--name it.")
    run = run_folder.create(tmp_path, "run", "it", "space")
    with run_folder.beginning(run):
        assert {path.name for path in folder.iterdir()} <= {"half_begun", "lock", "lock.json"}
        assert run_folder.is_half_begun(folder)
        run.path("config.yaml").write_text("seed: 0")
    assert run_folder.existing(folder) == run
    assert not (folder / "half_begun").exists()
    with pytest.raises(UsageError, match="continue it with --resume"):
        run_folder.create(tmp_path, "run", "it", "space")
    with pytest.raises(UsageError, match="not empty"), run_folder.beginning(run):
        pass


@pytest.mark.parametrize("files", [["space.yaml", "metrics.jsonl"], ["checkpoints/a"], ["a.txt"]])
def test_other_folders_without_settings_are_left_alone(tmp_path, files):
    folder = tmp_path / "run" / "it"
    for name in files:
        Run(folder).path(name).write_text("mine")
    assert not run_folder.is_half_begun(folder)
    with pytest.raises(UsageError, match="not empty") as caught:
        run_folder.create(tmp_path, "run", "it", "space")
    assert caught.value.remedy == "Choose another --name."


@pytest.mark.parametrize("files", [["space.yaml"], ["space.yaml", "source.onnx", "lock"]])
def test_files_without_a_mark_are_never_removed(tmp_path, files):
    """An earlier version may have begun a run there, or a user may keep these files there."""
    folder = tmp_path / "run" / "it"
    for name in files:
        Run(folder).path(name).write_text("mine")
    remedy = r"earlier version.*remove .*it and begin it again.*another --name"
    with pytest.raises(UsageError, match="not empty") as caught:
        run_folder.create(tmp_path, "run", "it", "space")
    assert re.search(remedy, caught.value.remedy)
    with pytest.raises(DataError, match=r"it has only .*space\.yaml") as told:
        run_folder.existing(folder)
    assert re.search(remedy, told.value.remedy)
    with run_folder.beginning(Run(folder)):
        pass
    assert all((folder / name).exists() for name in files)


def test_a_folder_with_nothing_but_a_lock_is_empty(tmp_path):
    """A process was killed after it took the lock."""
    folder = tmp_path / "run" / "it"
    for name in ("lock", "lock.json"):
        Run(folder).path(name).write_text("{}")
    run = run_folder.create(tmp_path, "run", "it", "space")
    with run_folder.beginning(run):
        run.path("config.yaml").write_text("seed: 0")
    assert run_folder.existing(folder) == run


def test_a_failed_beginning_leaves_nothing(tmp_path):
    run = run_folder.create(tmp_path, "run", None, "space")
    with pytest.raises(ZeroDivisionError), run_folder.beginning(run):
        raise ZeroDivisionError
    assert run_folder.is_half_begun(run.folder)
    run_folder.remove_half_begun(run)
    assert not run.folder.exists()


def test_a_folder_that_cannot_be_removed_hides_no_error(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError("it is open")

    run = run_folder.create(tmp_path, "run", None, "space")
    monkeypatch.setattr("os.rmdir", refused)
    run_folder.remove_half_begun(run)
    monkeypatch.setattr("quantnas.runs.run_lock.is_held", _unwritable)
    run_folder.remove_half_begun(run)


def _unwritable(folder):
    raise DataError("Nothing can be written.", "Copy it.")
