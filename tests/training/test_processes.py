"""Checks how the processes of a run connect, what process 0 sends the others, and how they end."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quantnas import errors
from quantnas.cli.main import main
from quantnas.config import run_config, schema
from quantnas.data import holdout, image_files
from quantnas.data.photographs import Photograph
from quantnas.pipeline import run_sources, shared_loops
from quantnas.training import processes

ROOT = Path(__file__).parents[2]
QUANTNAS = [sys.executable, "-m", "quantnas.cli"]
SETTINGS = [
    f"--set=train.{s}"
    for s in ("float_steps=30", "qat_steps=12", "batch=4", "patch=12", "check=10", "average=0.9",
              "teacher=own")
]  # fmt: skip


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


# Before anything begins


@pytest.fixture
def torchrun(monkeypatch):
    """Pretend that this is process 0 of several that torchrun has started."""

    def pretend(world: int, local: int) -> None:
        variables = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": local}
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return pretend


def test_more_processes_than_gpus_are_refused():
    if torch.cuda.device_count() >= 64:
        pytest.skip("this machine has them")
    with pytest.raises(errors.UsageError, match="GPUs for 64 processes"):
        processes.check(64, cuda=True)


def test_of_several_machines_each_needs_gpus_for_its_own(torchrun, monkeypatch):
    torchrun(8, 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    processes.check(8, cuda=True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(errors.UsageError, match="3 GPUs for 4 processes"):
        processes.check(8, cuda=True)


def test_without_fabric_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.UsageError, match=r"quantnas\[several\]"):
        processes.launch(2)


def test_torchrun_must_have_started_as_many(torchrun):
    torchrun(4, 2)
    processes.check(4, cuda=False)
    for number, message in ((2, "but --processes is 2"), (1, "but one does this")):
        with pytest.raises(errors.UsageError, match=f"started 4 processes, {message}") as error:
            processes.launch(number)
        assert "--processes 4" in error.value.remedy


def test_who_was_started_to_help_knows(torchrun, monkeypatch):
    assert not processes.launched() and not processes.is_helper()
    torchrun(2, 2)
    assert processes.launched() and not processes.is_helper()
    monkeypatch.setenv("RANK", "1")
    assert processes.is_helper()
    monkeypatch.delenv("RANK")  # as in a process that process 0 has started by itself
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert processes.is_helper() and not processes.launched()


def test_alone_leading_is_only_doing():
    assert list(processes.lead(lambda: 1 / 0, iter([1, 2]))) == [1, 2]
    assert processes.size() == 1 and processes.local_rank() == 0
    processes.launch(1)
    processes.disconnect()


@pytest.mark.parametrize("section", [run_config.SearchConfig, run_config.TrainConfig])
def test_a_batch_must_be_a_multiple(section):
    section(batch=6, processes=3)
    with pytest.raises(ValueError, match="`batch` is 8, no multiple of 3 `processes`"):
        section(batch=8, processes=3)


@pytest.mark.parametrize("verb", ["run", "train"])
def test_the_option_is_named_when_the_batch_is_no_multiple(verb, capsys, tmp_path):
    batches = ["--set", "search.batch=6", "--set", "train.batch=16"]
    options = ["espcn", "--processes", 3, "--output", tmp_path, *batches]
    assert command(verb, *options) == 2
    assert "`batch` is 16, no multiple of 3 --processes" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_both_steps_have_the_same_number_or_one():
    both = run_config.RunConfig(
        search=run_config.SearchConfig(processes=2), train=run_config.TrainConfig(processes=4)
    )
    with pytest.raises(errors.UsageError, match=r"`search.processes` is 2 and `train.processes`"):
        run_sources.together("run", both, lambda: pytest.fail("must not begin"))


def test_settings_from_before_the_training_was_shared_are_read():
    old = schema.parse(run_config.RunConfig, {"search": {"processes": 2}, "train": {}}, "old")
    assert (old.search.processes, old.train.processes) == (2, 1)


# Sent tasks


def test_photographs_of_the_package_are_found_where_it_lies(tmp_path):
    ours = [Photograph(path) for path in image_files.bundled().train]
    sent = holdout.sent(ours)
    assert all(not Path(row["high"]).is_absolute() and row["low"] is None for row in sent)
    assert holdout.received(sent) == [Photograph(photo.high.resolve()) for photo in ours]
    other = [Photograph(tmp_path / "high.png", tmp_path / "low.png")]
    assert holdout.received(holdout.sent(other)) == other


def test_other_photographs_are_found_out(tmp_path):
    from quantnas.config import search_space
    from quantnas.data import patches, photo_cache

    where = search_space.load("espcn", 2)
    photos = [Photograph(path) for path in image_files.bundled().train[:3]]
    found = patches.split(photo_cache.load(photos, 2, 12).pairs, 12, 0, (0.9, 0.1))
    task = {
        "space": search_space.to_yaml(where),
        "photographs": holdout.sent(photos),
        "fingerprint": found[0].fingerprint(),
    }
    same, received = shared_loops.material(task, run_config.RunConfig(), 12, (0.9, 0.1))
    assert same == where and received[0].fingerprint() == found[0].fingerprint()
    task["photographs"] = holdout.sent(photos[:2])
    with pytest.raises(errors.DataError, match="not those of the first process"):
        shared_loops.material(task, run_config.RunConfig(), 12, (0.9, 0.1))


# Whole trainings


def begin(*arguments: object, before: tuple[str, ...] = tuple(QUANTNAS)) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*before, *map(str, arguments)], env=env, cwd=ROOT, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a process, check its exit code, and return its error output."""
    _, messages = process.communicate(timeout=240)
    assert process.returncode == code, messages
    return messages


def joined(*arguments: object) -> list[subprocess.Popen[str]]:
    """Start torchrun twice, as if on two machines."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
    torchrun += ["--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    rest = ("-m", "quantnas.cli")
    return [
        begin(*arguments, before=(*torchrun, "--node-rank", str(node), *rest)) for node in (0, 1)
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = ("float_last", "rounded_last")
    return {
        f"{file}.{name}": value
        for file in files
        for name, value in load_file(folder / "checkpoints" / f"{file}.safetensors").items()
    }


def require_close(a: Path, b: Path, **tolerance: float) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], msg=name, **tolerance)


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """The run folder of a training by one process."""
    root = tmp_path_factory.mktemp("one")
    ended(begin("train", "espcn", "--output", root, *SETTINGS))
    return root / "train" / "espcn"


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """The run folder of the same training by two processes, the second started by the first."""
    root = tmp_path_factory.mktemp("two")
    ended(begin("train", "espcn", "--processes", 2, "--output", root, *SETTINGS))
    return root / "train" / "espcn"


@pytest.mark.slow
def test_the_command_trains_the_same_with_two(one, two):
    require_close(one, two, rtol=1e-3, atol=2e-3)
    assert {p.name for p in one.rglob("*")} == {p.name for p in two.rglob("*")}


@pytest.mark.slow
def test_processes_of_torchrun_on_two_machines_do_the_same(two, tmp_path):
    launchers = joined("train", "espcn", "--processes", 2, "--output", tmp_path, *SETTINGS)
    for process in launchers:
        ended(process)
    require_close(two, tmp_path / "train" / "espcn", rtol=1e-4, atol=1e-4)
    assert [p.name for p in (tmp_path / "train").iterdir()] == ["espcn"]


@pytest.mark.slow
def test_the_wrong_number_ends_all_processes_of_torchrun(tmp_path):
    first, second = joined("train", "espcn", "--processes", 4, "--output", tmp_path, *SETTINGS)
    assert "torchrun has started 2 processes, but --processes is 4" in ended(first, 1)
    ended(second)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_stop_and_go_on(tmp_path):
    long = [*SETTINGS, "--set=train.float_steps=400"]
    whole = ["train", "espcn", "--processes", 2, "--output", tmp_path]
    ended(begin(*whole, "--name", "whole", *long))
    process = begin(*whole, "--name", "part", *long)
    metrics = tmp_path / "train" / "part" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and '"float"' in metrics.read_text(), process)
    process.send_signal(signal.SIGINT)
    assert "quantnas train --resume" in ended(process, 130)
    assert not (tmp_path / "train/part/steps/train.json").exists()
    ended(begin("train", "--resume", tmp_path / "train/part"))
    require_close(tmp_path / "train/whole", tmp_path / "train/part", rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_when_a_process_is_lost_the_first_one_says_so(tmp_path):
    long = [*SETTINGS, "--set=train.float_steps=100000"]
    process = begin("train", "espcn", "--processes", 2, "--output", tmp_path, *long)
    metrics = tmp_path / "train" / "espcn" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and '"float"' in metrics.read_text(), process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in map(int, children):
        os.kill(child, signal.SIGKILL)
    assert "Another process of this run has ended" in ended(process, 1)


def wait_for(true, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not true():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
