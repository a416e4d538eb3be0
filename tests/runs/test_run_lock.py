"""Checks that one process at a time works in a run, says who it is, and that folders are unique."""

import errno
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from quantnas.errors import DataError, UsageError
from quantnas.pipeline import driver
from quantnas.runs import run_folder, run_lock
from quantnas.runs.run_folder import Run

HOLD = """
import sys
from pathlib import Path
from quantnas.runs import run_lock
with run_lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(source):
    """A process that holds the lock of the run `source`."""
    command = [sys.executable, "-c", HOLD, str(source)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process


def test_a_second_process_is_told_who_is_at_work(source, other):
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    with pytest.raises(UsageError, match=f"at work in .*mine: process {other.pid} on "):
        driver.perform("run", Run(source))
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before
    other.communicate()
    with run_lock.held(source):
        assert run_lock.is_held(source) is False  # this process may take it again
    assert not (source / run_lock.HOLDER).exists()


def test_a_run_of_this_process_is_not_removed_for_another_one(source, other):
    with pytest.raises(UsageError, match="at work"):
        driver.perform("export", Run(source, new=True))
    assert (source / "config.yaml").exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_file_system_without_locks_is_worked_on_without(tmp_path, monkeypatch, code):
    def refused(*arguments):
        raise OSError(code, "No locks available")

    monkeypatch.setattr("fcntl.flock", refused)
    with run_lock.held(tmp_path), run_lock.held(tmp_path):
        assert not run_lock.is_held(tmp_path)
    with pytest.raises(UsageError, match="its own"), run_lock.held(tmp_path):
        raise UsageError("An error of its own.", "None.")


def test_a_new_run_is_removed_after_its_lock_is_released(source, monkeypatch):
    def remove(folder, ignore_errors):
        assert ignore_errors and not (folder / run_lock.HOLDER).exists()
        assert not FileLock(folder / run_lock.FILE, is_singleton=True).is_locked
        removed.append(folder)

    def fail(*arguments):
        raise DataError("The photographs are gone.", "Bring them back.")

    removed = []
    for path in (source / "steps").glob("*.json"):
        path.unlink()
    (source / "metrics.jsonl").unlink(missing_ok=True)
    monkeypatch.setattr("shutil.rmtree", remove)
    monkeypatch.setattr(driver.step_records, "require_unchanged", fail)
    with pytest.raises(DataError, match="photographs are gone"):
        driver.perform("run", Run(source, new=True))
    assert removed == [source]


def _create(root: str, barrier, names) -> None:
    barrier.wait()
    names.put(run_folder.create(Path(root), "search", None, "x").folder.name)


def test_processes_that_begin_at_once_get_different_folders(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, names = context.Barrier(4), context.Queue()
    arguments = (str(tmp_path), barrier, names)
    processes = [context.Process(target=_create, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    assert {names.get(timeout=30) for _ in processes} == {"x", "x-2", "x-3", "x-4"}
    for process in processes:
        process.join()
