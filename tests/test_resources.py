"""Checks how limits and sizes are read from what the system tells."""

import os
from pathlib import Path

import pytest

from quantnas import resources
from quantnas.resources import Disk

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("200000 100000\n", 2.0),
        ("50000 100000", 0.5),
        ("max 100000\n", None),
        ("-1 100000", None),
        ("100000 0", None),
        ("", None),
        ("many", None),
    ],
)
def test_quotas(text, cores):
    assert resources.quota(text) == cores


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_least_limit_of_the_second_version_holds(tmp_path):
    write(tmp_path, cpu_DOT_max="max 100000", a__cpu_DOT_max="150000 100000")
    write(tmp_path, a__b__cpu_DOT_max="400000 100000", a__memory_DOT_max="max")
    write(tmp_path, a__b__memory_DOT_max=f"{64 * MIB}\n")
    assert resources.cores_allowed("0::/a/b\n", tmp_path) == 1.5
    assert resources.cores_allowed("0::/\n", tmp_path) is None
    assert resources.memory_allowed("0::/a/b\n", tmp_path) == 64 * MIB
    assert resources.memory_allowed("0::/a\n", tmp_path) is None


def test_a_path_that_is_not_seen_from_here_ends_at_the_root(tmp_path):
    write(tmp_path, cpu_DOT_max="300000 100000")
    for path in ("/../../elsewhere", "/docker/123", "/"):
        assert resources.cores_allowed(f"0::{path}\n", tmp_path) == 3


def test_limits_of_the_first_version(tmp_path):
    folder = tmp_path / "cpu,cpuacct" / "box"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("250000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    write(tmp_path, memory__box__memory_DOT_limit_in_bytes=f"{512 * MIB}\n")
    listed = "12:cpu,cpuacct:/box\n5:memory:/box\n3:cpuset:/\n0::/\nnothing\n"
    assert resources.cores_allowed(listed, tmp_path) == 2.5
    assert resources.memory_allowed(listed, tmp_path) == 512 * MIB
    assert resources.cores_allowed("", tmp_path) is None


@pytest.mark.parametrize(("limit", "kept"), [(None, None), (1 << 62, None), (MIB, MIB)])
def test_memory(monkeypatch, tmp_path, limit, kept):
    monkeypatch.setattr(resources, "memory_allowed", lambda membership: limit)
    monkeypatch.setattr(resources, "MEMINFO", tmp_path / "meminfo")
    text = "MemTotal:        4096 kB\nMemAvailable:    1024 kB\nHugePages_Total:       0\n"
    (tmp_path / "meminfo").write_text(text)
    found = resources.memory()
    assert found == resources.Memory(4 * MIB, MIB, kept)


def test_memory_where_there_is_no_such_file(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1024}.__getitem__)
    found = resources.memory()
    assert found is not None and (found.total, found.available) == (4 * MIB, None)

    def refuse(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", refuse)
    assert resources.memory() is None


def test_a_disk_is_that_of_the_nearest_folder_there(tmp_path, monkeypatch):
    found = resources.disk(tmp_path / "none" / "runs")
    assert found.folder == str(tmp_path / "none" / "runs") and found.writable and found.free > 0
    (tmp_path / "file").write_text("")
    assert not resources.disk(tmp_path / "file").writable
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert not resources.disk(tmp_path).writable


def test_this_machine():
    found = resources.threads(2)
    assert found.torch >= 1 and found.cores == 2
    assert isinstance(resources.disk(Path("runs")), Disk)
    assert resources.gpus().trouble is not None
