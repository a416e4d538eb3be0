import math
import os
import subprocess
import sys

import pytest

from quantnas.config import files
from quantnas.errors import DataError


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    with files.replacing(path) as part:
        part.write_text("new")
        assert not path.exists() and part.parent == tmp_path and part.name.startswith(".")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="full"), files.replacing(path) as part:
        part.write_text("half")
        raise ValueError("full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with files.replacing(path) as one, files.replacing(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"  # the writer of "one" finished last
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from quantnas.config import files
with files.replacing(Path(sys.argv[1])) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="only POSIX tells whether a process has ended")
def test_what_a_killed_process_left_is_removed_when_the_file_is_written_again(tmp_path):
    path, other = tmp_path / "a.txt", tmp_path / ".mine.part"
    other.touch()
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    files.write_text(tmp_path / "b.txt", "another file")
    assert len(list(tmp_path.iterdir())) == 3
    files.write_text(path, "new")
    assert sorted(tmp_path.iterdir()) == [other, path, tmp_path / "b.txt"]


def test_a_file_with_a_long_name_can_be_written_and_copied(tmp_path):
    first, second = tmp_path / ("a" * 255), tmp_path / ("b" * 255)
    files.write_bytes(first, b"bytes")
    files.copy(first, second)
    assert second.read_bytes() == b"bytes"
    assert sorted(tmp_path.iterdir()) == [first, second]


@pytest.mark.parametrize("name", ["a", "a b.c", "é" * 127, "..."])
def test_a_plain_name_stays_inside(tmp_path, name):
    assert files.inside(tmp_path, name, tmp_path / "s.json") == tmp_path / name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "../a", "a\\b", "a\0", "é" * 128, "\udcff", None, 3, ["a"]]
)
def test_other_names_are_refused(tmp_path, name):
    with pytest.raises(DataError, match=r"s\.json names .* does not lie in"):
        files.inside(tmp_path, name, tmp_path / "s.json")


def test_links_out_of_the_folder_are_followed_only_where_that_is_said(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "out").symlink_to(tmp_path)
    (inner / "circle").symlink_to(inner / "circle")
    for name in ("out", "circle"):
        with pytest.raises(DataError, match="does not lie in"):
            files.inside(inner, name, inner)
    assert files.inside(inner, "out", inner, follow=True) == inner / "out"


@pytest.mark.parametrize(
    "text", ["[" * 10**5, "NaN", "-Infinity", "1e400", "9" * 19, "9" * 5000, "{", b"\xff", ""]
)
def test_json_that_cannot_be_used_is_a_value_error(text):
    with pytest.raises(ValueError):
        files.parse_json(text)


def test_json_of_this_project_is_read():
    data = {"a": [1, -2.5, None, True], "b": {"c": "é"}, "n": 2**62}
    assert files.parse_json(files.to_json(data)) == data
    assert files.parse_json(files.to_json({"a": math.inf})) == {"a": None}


def test_names_that_are_no_utf_8_are_written_readably(tmp_path):
    name = os.fsdecode(b"p\xff.png")
    files.write_text(tmp_path / "a.md", f"| {name} | é |")
    assert (tmp_path / "a.md").read_text(encoding="utf-8") == "| p\\udcff.png | é |"
    assert files.parse_json(files.to_json(name)) == name
