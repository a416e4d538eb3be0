"""Checks that a killed search or training ends, once resumed, with the same result."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from quantnas import errors
from quantnas.config import search_space
from quantnas.training import checkpoint

SETTINGS = [
    "search.epochs=4",
    "search.steps_per_epoch=4",
    "search.warmup_epochs=1",
    "search.batch=2",
    "search.refresh=5",
]
PROGRAM = (
    "import sys, torch; torch.set_num_threads(1); "
    "from quantnas.runs import resumable; resumable.SAVE_EVERY = 0.0; "
    "from quantnas.cli.main import main; main(sys.argv[1:])"
)


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """Start the command so that it saves its state after every step."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def begin(folder: Path, name: str, target: list[str]) -> list[str]:
    settings = [part for s in SETTINGS for part in ("--set", s)]
    return ["search", str(folder / "tiny.yaml"), "--output", str(folder), "--name", name,
            *settings, *target]  # fmt: skip


@pytest.mark.slow
def test_a_killed_search_ends_where_it_would_have(tiny, tmp_path):
    target = ["--target-bitops", "200M"]
    (tmp_path / "tiny.yaml").write_text(search_space.to_yaml(tiny), encoding="utf-8")
    whole = start(*begin(tmp_path, "whole", target))
    killed = start(*begin(tmp_path, "killed", target))
    run = tmp_path / "search" / "killed"
    kill_and_resume(run, "search", killed, "search")
    assert whole.wait(120) == 0
    same(tmp_path / "search" / "whole", run)


def kill_and_resume(run: Path, verb: str, process: subprocess.Popen[bytes], phase: str) -> None:
    """Kill the command as soon as it has saved a state of that phase, and resume it to the end."""
    state = run / "checkpoints" / f"{phase}.resume"
    deadline = time.monotonic() + 90
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert state.exists() and not (run / "steps" / f"{verb}.json").exists()
    assert start(verb, "--resume", str(run)).wait(120) == 0


@pytest.mark.slow
def test_a_killed_training_ends_where_it_would_have(tmp_path):
    """The weights, their average, the best state and metrics.jsonl are the same."""
    how = ["float_steps=200", "qat_steps=6", "batch=2", "patch=12", "check=4", "average=0.9"]
    settings = [part for s in how for part in ("--set", f"train.{s}")]
    whole, killed = (
        start("train", "quicksrnet_small", "--output", str(tmp_path), "--name", name, *settings)
        for name in ("whole", "killed")
    )
    run = tmp_path / "train" / "killed"
    kill_and_resume(run, "train", killed, "float")
    assert whole.wait(120) == 0
    for name in ("float", "float_last", "trained", "rounded_last"):
        file = f"checkpoints/{name}.safetensors"
        assert (run / file).read_bytes() == (tmp_path / "train" / "whole" / file).read_bytes(), name
    lines = [(tmp_path / "train" / n / "metrics.jsonl").read_text() for n in ("whole", "killed")]
    assert lines[0] == lines[1] and len(lines[0].splitlines()) > 20


def same(first: Path, second: Path) -> None:
    for name in ("genotype.json", "genotype_last.json", "genotype_best.json"):
        assert (first / name).read_text() == (second / name).read_text(), name
    weights = "checkpoints/searched.safetensors"
    assert (first / weights).read_bytes() == (second / weights).read_bytes()
    metrics = [(run / "metrics.jsonl").read_text() for run in (first, second)]
    assert metrics[0] == metrics[1] and len(metrics[0].splitlines()) >= 4
    results = [json.loads((run / "steps" / "search.json").read_text()) for run in (first, second)]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]


def test_a_torn_checkpoint_is_recognised(tmp_path):

    part = torch.nn.Linear(3, 2)
    path = tmp_path / "search.resume"
    checkpoint.save(path, 7, {"net": part})
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(errors.DataError, match="cannot be restored"):
            checkpoint.load(path, {"net": part})
    path.write_bytes(whole)
    assert checkpoint.load(path, {"net": part}) == 7
