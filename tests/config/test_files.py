import pytest

from quantnas.config import files


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


def test_a_file_with_a_long_name_can_be_written_and_copied(tmp_path):
    first, second = tmp_path / ("a" * 255), tmp_path / ("b" * 255)
    files.write_bytes(first, b"bytes")
    files.copy(first, second)
    assert second.read_bytes() == b"bytes"
    assert sorted(tmp_path.iterdir()) == [first, second]
