"""Checks what is said of machines that are not at hand, and the command from end to end."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from quantnas import doctor, requirements, runnable, store
from quantnas.checks import Check
from quantnas.cli.main import main
from quantnas.machine import Machine
from quantnas.resources import Disk, Gpus, Memory, Threads

GIB = 1 << 30
ROOT = Path(__file__).parents[1]
FACTS = doctor.Facts(
    Machine("Fast 9", 4, {"avx2": True, "vnni": True, "amx": False}, "1.32.0"),
    Threads(4, None, 4, None, 0.5),
    Memory(16 * GIB, 8 * GIB),
    Disk("runs", 50 * GIB, True),
    Disk("cache", 50 * GIB, True),
    Gpus(None, (), False),
)


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def complete(check: Check) -> Check:
    """The same; it has a sentence of cause, and one of remedy where something is wrong."""
    assert check.finding.endswith(".") and "  " not in check.finding
    assert bool(check.remedy) == (check.verdict != "ok")
    return check


def test_a_machine_without_fault():
    checks = [complete(check) for check in doctor.judged(FACTS)]
    topics = ["processor", "threads", "memory", "output", "cache", "GPU"]
    assert [check.topic for check in checks] == topics
    assert {check.verdict for check in checks} == {"ok"}


def test_processors():
    check = complete(doctor.processor(FACTS.machine))
    assert check.finding == "Fast 9, 4 cores for this process; with avx2, vnni."
    old = dataclasses.replace(FACTS.machine, cores=1, features={"avx2": False, "vnni": False})
    check = complete(doctor.processor(old))
    assert check.verdict == "note" and not check.fatal
    assert "1 core for this process; with nothing of note, without VNNI" in check.finding
    check = complete(doctor.processor(dataclasses.replace(FACTS.machine, features=None)))
    assert check.verdict == "ok" and "does not tell" in check.finding


@pytest.mark.parametrize(
    ("found", "verdicts", "words"),
    [
        (Threads(4, None, 4, None, 0.5), ["ok"], "OMP_NUM_THREADS is not set."),
        (Threads(1, "1", 4, None, None), ["ok"], "1 thread; OMP_NUM_THREADS is 1."),
        (Threads(2, "2", 4, 2.0, 0.0), ["ok"], "a container leaves the time of 2 cores"),
        (Threads(2, "2", 4, 8.0, 0.0), ["ok"], "OMP_NUM_THREADS is 2."),
        (Threads(4, None, 4, 1.5, 0.0), ["problem"], "the time of 1.5, of 4 cores: they wait"),
        (Threads(4, None, 4, 1.5, 0.0), ["problem"], "Set OMP_NUM_THREADS=2."),
        (Threads(8, "8", 4, None, 0.0), ["problem"], "may use 4 cores"),
        (Threads(4, None, 4, None, 6.5), ["ok", "note"], "load 6.5 on 4 cores"),
        (Threads(4, None, 4, None, 6.5), ["ok", "note"], "Set OMP_NUM_THREADS=1:"),
        (Threads(1, "1", 1, None, 6.5), ["ok", "note"], "Wait for other programs"),
        (Threads(4, None, 4, None, 5.9), ["ok"], "4 threads"),
    ],
)
def test_threads(found, verdicts, words):
    checks = [complete(check) for check in doctor.threads(found)]
    assert [check.verdict for check in checks] == verdicts
    assert words in " ".join(f"{check.finding} {check.remedy}" for check in checks)
    assert not any(check.fatal for check in checks)


@pytest.mark.parametrize(
    ("found", "verdict", "fatal", "words"),
    [
        (None, "ok", False, "does not tell"),
        (Memory(16 * GIB, None), "ok", False, "16.0 GiB."),
        (Memory(16 * GIB, 8 * GIB, 4 * GIB), "ok", False, "a container leaves 4.0 GiB."),
        (Memory(16 * GIB, GIB), "note", False, "End other programs"),
        (Memory(16 * GIB, GIB // 8), "problem", False, "End other programs"),
        (Memory(16 * GIB, 8 * GIB, GIB // 8), "problem", True, "give the container more"),
        (Memory(GIB // 8, None), "problem", True, "more memory"),
    ],
)
def test_memory(found, verdict, fatal, words):
    check = complete(doctor.memory(found))
    assert (check.verdict, check.fatal) == (verdict, fatal)
    assert words in f"{check.finding} {check.remedy}"


@pytest.mark.parametrize(
    ("free", "writable", "verdict", "fatal", "words"),
    [
        (50 * GIB, True, "ok", False, "runs: 50.0 GiB free."),
        (doctor.DISK_NEED - 1, True, "problem", False, "Make room"),
        (0, True, "problem", True, "0 MiB free"),
        (50 * GIB, False, "problem", True, "--output"),
    ],
)
def test_the_disk_of_the_runs(free, writable, verdict, fatal, words):
    check = complete(doctor.output(Disk("runs", free, writable)))
    assert (check.verdict, check.fatal) == (verdict, fatal)
    assert words in f"{check.finding} {check.remedy}"


@pytest.mark.parametrize(
    ("free", "writable", "verdict", "words"),
    [
        (50 * GIB, True, "ok", "cache: 50.0 GiB free."),
        (store.FREE, True, "note", "held in memory"),
        (50 * GIB, False, "note", "QUANTNAS_CACHE"),
    ],
)
def test_the_disk_of_the_cache(free, writable, verdict, words):
    check = complete(doctor.cache(Disk("cache", free, writable)))
    assert (check.verdict, check.fatal) == (verdict, False)
    assert words in f"{check.finding} {check.remedy}"


CARD = ("Card 5", 8 * GIB)


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        (Gpus(None, (), False), "ok", "None"),
        (Gpus(None, (), True), "problem", "Install the CUDA build of torch"),
        (Gpus("CUDA 12.8", (), False), "ok", "computes without"),
        (Gpus("CUDA 12.8", (CARD, CARD), True), "ok", "Card 5 (8.0 GiB), Card 5 (8.0 GiB);"),
        (Gpus("CUDA 12.8", (), True, "", "x"), "note", "Unset"),
        (Gpus("CUDA 12.8", (), True, "-1", "x"), "note", "CUDA_VISIBLE_DEVICES"),
        (Gpus("CUDA 12.8", (), True, None, "too old."), "problem", "finds no GPU: too old."),
        (Gpus("CUDA 12.8", (), True), "problem", "Update the driver"),
    ],
)
def test_gpus(found, verdict, words):
    check = complete(doctor.gpus(found))
    assert (check.verdict, check.fatal) == (verdict, False)
    assert words in f"{check.finding} {check.remedy}"


def test_the_command_from_end_to_end(tmp_path, capsys):
    """As a person sees it: every line fits, every form of file is there, the last line sums up."""
    assert command("doctor", "--output", tmp_path / "runs") == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "ok" and all(len(line) <= 80 for line in lines if str(tmp_path) not in line)
    for case in runnable.cases():
        assert any(line.split("  ")[1] == case.name for line in lines if line.startswith("  "))
    assert lines[-2] == "" and ("well" in lines[-1] or "note" in lines[-1] or "pro" in lines[-1])
    assert "12/12" in captured.err
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def quick(monkeypatch):
    """Nothing is tried, and nothing of this machine is judged."""
    monkeypatch.setattr(runnable, "cases", lambda: [])
    monkeypatch.setattr(requirements, "examine", lambda: ([], []))
    monkeypatch.setattr(doctor, "read", lambda output: FACTS)


def test_json(quick, capsys):
    assert command("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"] == "all is well" and found["environment"]["versions"]["torch"]
    assert {check["topic"]: check["verdict"] for check in found["checks"]}["memory"] == "ok"
    assert found["read"]["output"] == {"folder": "runs", "free": 50 * GIB, "writable": True}


@pytest.mark.parametrize(
    ("changes", "code", "last"),
    [
        ({}, 0, "all is well"),
        ({"gpus": Gpus(None, (), True), "threads": Threads(1, "1", 1, None, 9.0)}, 0,
         "1 problem, 1 note"),
        ({"output": Disk("runs", 0, True)}, 3,
         "1 problem; `quantnas run` cannot work here"),
    ],
)  # fmt: skip
def test_the_exit_code_is_that_of_the_main_job(quick, monkeypatch, capsys, changes, code, last):
    facts = dataclasses.replace(FACTS, **changes)
    monkeypatch.setattr(doctor, "read", lambda output: facts)
    assert command("doctor") == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == last and ("problem" in lines) == bool(changes)
    assert command("doctor", "--json") == code
    assert json.loads(capsys.readouterr().out)["summary"] == last


def test_without_onnx_runtime_the_command_still_tells():
    code = "import sys; sys.modules['onnxruntime'] = None; import quantnas.cli.main as m; m.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "onnxruntime cannot be imported" in " ".join(done.stdout.split())
    assert done.stdout.splitlines()[-1].endswith("`quantnas run` cannot work here")
