"""Checks the judgement of made-up machines, and the command from end to end."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quantnas.cli.main import main
from quantnas.diagnostics import export_trials, machine_check, packages
from quantnas.diagnostics.findings import Check
from quantnas.diagnostics.resources import Resources
from quantnas.evaluation.processor import Machine

GIB = 1 << 30
ROOT = Path(__file__).parents[2]
MACHINE = Machine("Fast 9", 4, {"avx2": True, "vnni": True, "amx": False}, "1.32.0")
RESOURCES = Resources(
    threads=4,
    cores=4,
    cores_limit=None,
    load=0.5,
    memory=16 * GIB,
    memory_free=8 * GIB,
    memory_limit=None,
    output="runs",
    output_free=50 * GIB,
    output_writable=True,
    gpus=(),
    gpu_build=None,
    gpu_driver=False,
)


def changed(**changes: Any) -> Resources:
    """The resources `RESOURCES` with other values."""
    return dataclasses.replace(RESOURCES, **changes)


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def complete(check: Check) -> Check:
    """The check itself, after asserting a whole sentence, and a remedy unless all is ok."""
    assert check.finding.endswith(".") and "  " not in check.finding
    assert bool(check.remedy) == (check.verdict != "ok")
    return check


def test_a_machine_without_fault():
    checks = [complete(check) for check in machine_check.judged(RESOURCES)]
    assert [check.topic for check in checks] == ["threads", "memory", "output", "GPU"]
    assert {check.verdict for check in checks} == {"ok"}


def test_processors():
    check = complete(machine_check.processor(MACHINE))
    assert check.finding == "Fast 9, 4 cores for this process; with avx2, vnni."
    old = dataclasses.replace(MACHINE, cores=1, features={"avx2": False, "vnni": False})
    check = complete(machine_check.processor(old))
    assert check.verdict == "note" and not check.fatal
    assert "1 core for this process; with nothing of note, without VNNI" in check.finding
    check = complete(machine_check.processor(dataclasses.replace(MACHINE, features=None)))
    assert check.verdict == "ok" and "does not tell" in check.finding


@pytest.mark.parametrize(
    ("threads", "cores", "limit", "verdict", "words"),
    [
        (4, 4, None, "ok", "4 threads; this process may use 4 cores."),
        (1, 4, None, "ok", "1 thread; this process"),
        (2, 4, 2.0, "ok", "a container grants the time of 2 of 4 cores."),
        (2, 4, 8.0, "ok", "this process may use 4 cores."),
        (4, 4, 1.5, "problem", "the time of 1.5 of 4 cores: the threads wait"),
        (4, 4, 1.5, "problem", "Set OMP_NUM_THREADS=2."),
        (8, 4, None, "problem", "may use 4 cores"),
    ],
)
def test_threads(threads, cores, limit, verdict, words):
    found = changed(threads=threads, cores=cores, cores_limit=limit)
    check = complete(machine_check.threads(found))
    assert (check.verdict, check.fatal) == (verdict, False)
    assert words in f"{check.finding} {check.remedy}"


@pytest.mark.parametrize(
    ("threads", "cores", "load", "words"),
    [
        (4, 4, 6.5, "load 6.5 on 4 cores. Wait for other programs"),
        (1, 1, 6.5, "load 6.5 on 1 core. Wait for other programs"),
        (4, 4, 5.9, None),
    ],
)
def test_load(threads, cores, load, words):
    found = changed(threads=threads, cores=cores, load=load)
    checks = [complete(check) for check in machine_check.judged(found) if check.topic == "load"]
    assert [check.verdict for check in checks] == ([] if words is None else ["note"])
    assert all(words in f"{check.finding} {check.remedy}" for check in checks)


@pytest.mark.parametrize(
    ("total", "free", "limit", "verdict", "fatal", "words"),
    [
        (16 * GIB, 8 * GIB, None, "ok", False, "16.0 GiB, 8.0 GiB of it free."),
        (16 * GIB, 8 * GIB, 4 * GIB, "ok", False, "a container grants 4.0 GiB."),
        (16 * GIB, GIB, None, "note", False, "End other programs"),
        (16 * GIB, GIB // 8, None, "problem", False, "End other programs"),
        (16 * GIB, 8 * GIB, GIB // 8, "problem", True, "give the container more"),
        (GIB // 8, GIB // 8, None, "problem", True, "more memory"),
    ],
)
def test_memory(total, free, limit, verdict, fatal, words):
    found = changed(memory=total, memory_free=free, memory_limit=limit)
    check = complete(machine_check.memory(found))
    assert (check.verdict, check.fatal) == (verdict, fatal)
    assert words in f"{check.finding} {check.remedy}"


@pytest.mark.parametrize(
    ("free", "writable", "verdict", "fatal", "words"),
    [
        (50 * GIB, True, "ok", False, "runs: 50.0 GiB free."),
        (machine_check.DISK_NEED - 1, True, "problem", False, "Make room"),
        (0, True, "problem", True, "0 MiB free"),
        (50 * GIB, False, "problem", True, "--output"),
    ],
)
def test_the_disk_of_the_runs(free, writable, verdict, fatal, words):
    check = complete(machine_check.output(changed(output_free=free, output_writable=writable)))
    assert (check.verdict, check.fatal) == (verdict, fatal)
    assert words in f"{check.finding} {check.remedy}"


CARD = ("Card 5", 8 * GIB)


@pytest.mark.parametrize(
    ("build", "devices", "driver", "verdict", "words"),
    [
        (None, (), False, "ok", "None; torch is built for processors alone."),
        (None, (), True, "problem", "Install the CUDA build of torch"),
        ("CUDA 12.8", (), False, "ok", "None; torch is built for CUDA 12.8."),
        ("CUDA 12.8", (CARD, CARD), True, "ok", "Card 5 (8.0 GiB), Card 5 (8.0 GiB);"),
        ("CUDA 12.8", (), True, "problem", "CUDA_VISIBLE_DEVICES"),
        ("CUDA 12.8", (), True, "problem", "update the driver"),
    ],
)
def test_gpus(build, devices, driver, verdict, words):
    check = complete(machine_check.gpus(changed(gpu_build=build, gpus=devices, gpu_driver=driver)))
    assert (check.verdict, check.fatal) == (verdict, False)
    assert words in f"{check.finding} {check.remedy}"


def test_the_command_from_end_to_end(tmp_path, capsys):
    """Every line fits a terminal, every form of file is listed, and the last line sums up."""
    assert command("doctor", "--output", tmp_path / "runs") == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "ok" and all(len(line) <= 80 for line in lines if str(tmp_path) not in line)
    for case in export_trials.CASES:
        assert any(line.split("  ")[1] == case.name for line in lines if line.startswith("  "))
    assert lines[-2] == "" and ("well" in lines[-1] or "note" in lines[-1] or "pro" in lines[-1])
    assert f"{len(export_trials.CASES)}/{len(export_trials.CASES)}" in captured.err
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def quick(monkeypatch):
    """Let the command neither try files nor judge this machine."""
    monkeypatch.setattr(export_trials, "CASES", ())
    monkeypatch.setattr(packages, "examine", lambda: ([], []))
    monkeypatch.setattr(
        machine_check, "read", lambda output: machine_check.Facts(MACHINE, RESOURCES)
    )


def test_json(quick, capsys):
    assert command("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"] == "all is well" and found["environment"]["versions"]["torch"]
    assert {check["topic"]: check["verdict"] for check in found["checks"]}["memory"] == "ok"
    assert found["read"]["machine"]["processor"] == "Fast 9"
    assert found["read"]["resources"]["output_free"] == 50 * GIB


@pytest.mark.parametrize(
    ("changes", "code", "last"),
    [
        ({}, 0, "all is well"),
        ({"gpu_driver": True, "load": 9.0}, 0, "1 problem, 1 note"),
        ({"output_free": 0}, 3, "1 problem; `quantnas run` cannot work here"),
    ],
)  # fmt: skip
def test_the_exit_code_is_that_of_the_main_job(quick, monkeypatch, capsys, changes, code, last):
    facts = machine_check.Facts(MACHINE, changed(**changes))
    monkeypatch.setattr(machine_check, "read", lambda output: facts)
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
