"""Checks how limits and sizes are read from the files of the system."""

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from quantnas.data import free_memory
from quantnas.diagnostics import resources
from quantnas.diagnostics.resources import control_groups, cores_limit, memory_limit

MIB = 1 << 20


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("200000 100000\n", 2.0),
        ("50000 100000", 0.5),
        ("max 100000\n", None),
        ("-1 100000", None),
        ("", None),
        ("many", None),
    ],
)
def test_quotas(tmp_path, text, cores):
    write(tmp_path, cpu_DOT_max=text)
    assert cores_limit([tmp_path]) == cores


def test_the_least_limit_of_the_second_version_holds(tmp_path):
    write(tmp_path, cpu_DOT_max="max 100000", a__cpu_DOT_max="150000 100000")
    write(tmp_path, a__b__cpu_DOT_max="400000 100000", a__memory_DOT_max="max")
    write(tmp_path, a__b__memory_DOT_max=f"{64 * MIB}\n")
    assert cores_limit(control_groups("cpu", "0::/a/b\n", tmp_path)) == 1.5
    assert cores_limit(control_groups("cpu", "0::/\n", tmp_path)) is None
    assert memory_limit(control_groups("memory", "0::/a/b\n", tmp_path)) == 64 * MIB
    assert memory_limit(control_groups("memory", "0::/a\n", tmp_path)) is None


def test_a_path_that_is_not_seen_from_here_ends_at_the_root(tmp_path):
    write(tmp_path, cpu_DOT_max="300000 100000")
    for path in ("/../../elsewhere", "/docker/123", "/"):
        assert cores_limit(control_groups("cpu", f"0::{path}\n", tmp_path)) == 3


def test_limits_of_the_first_version(tmp_path):
    folder = tmp_path / "cpu,cpuacct" / "box"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("250000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    write(tmp_path, memory__box__memory_DOT_limit_in_bytes=f"{512 * MIB}\n")
    listed = "12:cpu,cpuacct:/box\n5:memory:/box\n3:cpuset:/\n0::/\n"
    assert cores_limit(control_groups("cpu", listed, tmp_path)) == 2.5
    assert memory_limit(control_groups("memory", listed, tmp_path)) == 512 * MIB
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert cores_limit(control_groups("cpu", listed, tmp_path)) is None
    assert control_groups("cpu", "", tmp_path) == []


@pytest.mark.parametrize(("limit", "kept"), [(None, None), (1 << 62, None), (MIB, MIB)])
def test_memory(monkeypatch, tmp_path, limit, kept):
    monkeypatch.setattr(resources, "memory_limit", lambda groups: limit)
    there = SimpleNamespace(total=4 * MIB, available=MIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: there)
    found = resources.read(tmp_path)
    assert (found.memory, found.memory_free, found.memory_limit) == (4 * MIB, MIB, kept)


def test_a_disk_is_that_of_the_nearest_folder_there(tmp_path, monkeypatch):
    found = resources.read(tmp_path / "none" / "runs")
    assert found.output == str(tmp_path / "none" / "runs")
    assert found.output_writable and found.output_free > 0
    (tmp_path / "file").write_text("")
    assert not resources.read(tmp_path / "file").output_writable
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert not resources.read(tmp_path).output_writable


def test_this_machine(monkeypatch):
    found = resources.read(Path("runs"))
    assert found.threads >= 1 and found.cores >= 1 and found.load >= 0
    assert 0 < found.memory_free <= found.memory
    monkeypatch.setattr(free_memory, "MEMBERSHIP", Path("none"))
    assert resources.read(Path("runs")).cores_limit is None
