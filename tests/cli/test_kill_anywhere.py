"""Checks that commands killed at random moments end, once resumed, with the bytes of a whole run.

The moments are drawn with a seed from the time that the whole run takes; what a kill finds there
still depends on the machine.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from quantnas.config import search_space
from quantnas.data import image_files

PROGRAM = (
    "import sys, torch; torch.set_num_threads(1); "
    "from quantnas.runs import resumable; resumable.SAVE_EVERY = 0.05; "
    "from quantnas.cli.main import main; main(sys.argv[1:])"
)
KILLS = 3
"""Number of kills before a command may end."""
LONGEST = 300
"""Seconds that a command may take."""
RESULTS = (
    "checkpoints/*.safetensors", "genotype*.json", "precision.json", "damage.json", "drop.json",
    "damage_measured.json", "metrics.jsonl", "model.onnx", "crops/*", "steps/*.json",
)  # fmt: skip
"""Files of a run that do not depend on its name or on the time."""
SETTINGS = {
    "search": [
        "epochs=4",
        "steps_per_epoch=3",
        "warmup_epochs=1",
        "batch=2",
        "refresh=5",
        "patch=12",
    ],
    "train": ["float_steps=60", "qat_steps=10", "batch=2", "patch=12", "check=7"],
    "quantize": ["steps=40", "batch=2", "patch=12", "crops=4"],
}
"""Section of the settings -> values with which it takes seconds."""
STEPS = {
    "search": ("search",),
    "train": ("train",),
    "quantize": ("quantize",),
    "run": ("search", "train", "quantize"),
    "sweep": ("search", "train", "quantize"),
}
"""Command -> the sections that it uses."""


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, with the output going nowhere."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(
        command, env=env, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True
    )


def killed(process: subprocess.Popen[bytes], seconds: float, group: bool) -> bool:
    """Kill a process, with those that it started or alone, after a while; False if it has ended."""
    try:
        assert process.wait(seconds) == 0
        return False
    except subprocess.TimeoutExpired:
        (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        return True


@pytest.fixture
def place(tiny, tmp_path) -> Path:
    """A folder with a search space and a few small photographs."""
    (tmp_path / "tiny.yaml").write_text(search_space.to_yaml(tiny), encoding="utf-8")
    shipped = image_files.bundled()
    for kind, files in (("learn", shipped.train[:6]), ("held", shipped.held_out[:2])):
        for i, file in enumerate(files):
            image_files.write(tmp_path / kind / f"{i}.png", image_files.read(file)[40:100, 60:140])
    return tmp_path


def beginning(verb: str, name: str, place: Path) -> list[str]:
    """The arguments that begin a command in `place / verb / name`."""
    settings = [
        part
        for section in STEPS[verb]
        for setting in SETTINGS[section]
        for part in ("--set", f"{section}.{setting}")
    ]
    if verb == "train":
        source = ["quicksrnet_small"]
    elif verb == "quantize":
        source = [str(place / "train" / "source")]
    else:
        source = [str(place / "tiny.yaml"), "--target-bitops", "200M"]
    if verb == "sweep":
        source += ["--bits", "searched,2", "--workers", "2"]
    data = ["--data", str(place / "learn"), "--eval-data", str(place / "held"), "--device", "cpu"]
    data = {"quantize": data[2:], "search": data[:2] + data[4:]}.get(verb, data)
    return [verb, *source, *data, *settings, "--output", str(place), "--name", name]


def results(folder: Path) -> dict[str, Any]:
    """Path of a file below a run or a sweep -> its content, without times and names of folders."""
    runs = sorted((folder / "points").iterdir()) if (folder / "points").is_dir() else [folder]
    files = [path for run in runs for pattern in RESULTS for path in sorted(run.glob(pattern))]
    return {str(path.relative_to(folder)): content(path, folder) for path in files}


def content(path: Path, folder: Path) -> Any:
    if path.parent.name != "steps":
        return path.read_bytes()
    text = path.read_text(encoding="utf-8").replace(str(folder), "FOLDER")
    return without_times(json.loads(text))


def without_times(value: Any) -> Any:
    """A value without the keys that say how long something took."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if "seconds" not in k}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def resuming(verb: str, folder: Path, begin: list[str]) -> list[str]:
    """The arguments that go on; a folder in which nothing has begun yet is begun again."""
    mark = "sweep.yaml" if verb == "sweep" else "env.json"
    if (folder / mark).is_file():
        return [verb, "--resume", str(folder)]
    shutil.rmtree(folder, ignore_errors=True)
    return begin


def moments(seed: str, whole: float) -> Iterator[tuple[float, bool]]:
    """Seconds until each kill, and whether the processes that a command started die with it."""
    rng = Random(seed)
    for _ in range(KILLS):
        yield rng.uniform(0.1, whole), rng.random() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("verb", STEPS)
def test_a_command_killed_anywhere_ends_with_the_same_bytes(verb, seed, place):
    if verb == "quantize":
        before = beginning("train", "source", place)
        assert start(before).wait(LONGEST) == 0
    began = time.monotonic()
    assert start(beginning(verb, "whole", place)).wait(LONGEST) == 0
    whole = time.monotonic() - began
    folder, begin = place / verb / "killed", beginning(verb, "killed", place)
    arguments, ended = begin, False
    for seconds, group in moments(f"{verb} {seed}", whole):
        ended = not killed(start(arguments), seconds, group)
        if ended:
            break
        arguments = resuming(verb, folder, begin)
    assert ended or start(arguments).wait(LONGEST) == 0
    expected = results(place / verb / "whole")
    assert expected and results(folder) == expected
    assert not list(folder.rglob("*.resume"))
