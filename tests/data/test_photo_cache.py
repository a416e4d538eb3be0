"""Checks that photographs are decoded once, and that bad files are reported and left out."""

import dataclasses
import os
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from quantnas.data import image_files, photo_cache, photographs
from quantnas.data.photographs import Photograph
from quantnas.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder for one test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("QUANTNAS_CACHE", str(folder))
    return folder


def photograph(folder: Path, name: str, height: int = 24, width: int = 32) -> Photograph:
    y, x, c = np.mgrid[:height, :width, :3]
    image_files.write(folder / f"{name}.png", (y * 3 + x * 2 + c * 40 + len(name)).astype(np.uint8))
    return Photograph(folder / f"{name}.png")


def paired(folder: Path, name: str) -> Photograph:
    low = photograph(folder / "low", name, 12, 16).high
    return dataclasses.replace(photograph(folder, name), low=low)


def equal(a, b) -> bool:
    return a.name == b.name and np.array_equal(a.low, b.low) and np.array_equal(a.high, b.high)


@pytest.mark.parametrize("make", [photograph, paired])
def test_what_was_read_once_is_not_decoded_again(tmp_path, monkeypatch, cache, make):
    photo = make(tmp_path, "a")
    expected = photographs.read(photo, 2, photographs.LONGEST)
    first, kept = photo_cache.fetch(photo, 2)
    assert kept and equal(first, expected)
    assert sorted(p.suffixes for p in cache.iterdir()) == [[".high", ".npy"], [".low", ".npy"]]
    monkeypatch.setattr(photographs, "read", None)
    again, kept = photo_cache.fetch(photo, 2)
    assert kept and equal(again, expected)
    assert np.array_equal(np.load(cache / f"{photo_cache.key(photo, 2)}.high.npy"), expected.high)
    with pytest.raises(ValueError):
        again.low[0, 0, 0] = 1


def test_a_copy_under_another_name_is_found(tmp_path, monkeypatch):
    photo = photograph(tmp_path, "a")
    photo_cache.fetch(photo, 2)
    shutil.copy(photo.high, tmp_path / "b.png")
    monkeypatch.setattr(photographs, "read", None)
    assert photo_cache.fetch(Photograph(tmp_path / "b.png"), 2)[0].name == "b"


def test_the_key_tells_all_that_matters(tmp_path, monkeypatch):
    photo, pair = photograph(tmp_path, "a"), paired(tmp_path, "a")
    keys = [photo_cache.key(photo, 2), photo_cache.key(photo, 3), photo_cache.key(pair, 2)]
    photograph(tmp_path / "low", "a", 13, 16)
    keys.append(photo_cache.key(pair, 2))
    swapped = Photograph(pair.low, pair.high)
    keys += [photo_cache.key(swapped, 2), photo_cache.key(photograph(tmp_path, "aa"), 2)]
    monkeypatch.setattr(photo_cache, "LONGEST", 20)
    keys.append(photo_cache.key(photo, 2))
    assert photo_cache.key(pair, 2) == keys[3]  # never shrunk
    monkeypatch.setattr(photo_cache, "VERSION", 99)
    keys.append(photo_cache.key(photo, 2))
    assert len(set(keys)) == len(keys)


def test_new_content_under_the_old_name_is_read(tmp_path):
    photo = photograph(tmp_path, "a")
    photo_cache.fetch(photo, 2)
    photograph(tmp_path, "a", 40, 32)
    assert photo_cache.fetch(photo, 2)[0].high.shape == (40, 32, 3)


@pytest.mark.parametrize("part", ["low", "high"])
@pytest.mark.parametrize("damage", ["cut", "long", "empty", "text", "shape", "type", "object"])
def test_a_damaged_file_is_made_anew(tmp_path, cache, part, damage):
    photo = photograph(tmp_path, "a")
    expected = photographs.read(photo, 2)
    photo_cache.fetch(photo, 2)
    file = cache / f"{photo_cache.key(photo, 2)}.{part}.npy"
    whole = file.read_bytes()
    array = np.load(file)
    if damage in ("shape", "type", "object"):
        bad = {"shape": array[1:], "type": array.astype(np.int16), "object": array.astype(object)}
        np.save(file, bad[damage])
    else:
        bad = {"cut": whole[:-9], "long": whole + b"more", "empty": b"", "text": b"text" * 99}
        file.write_bytes(bad[damage])
    pair, kept = photo_cache.fetch(photo, 2)
    assert kept and equal(pair, expected)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("obstacle", ["file", "full", "write"])
def test_without_a_cache_the_pairs_are_held_in_memory(tmp_path, cache, monkeypatch, obstacle):
    photo = photograph(tmp_path, "a")
    if obstacle == "file":
        cache.write_text("not a folder")
    elif obstacle == "full":
        monkeypatch.setattr(photo_cache, "FREE", 1 << 62)
    else:

        def fail(file, array, version):
            file.write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np.lib.format, "write_array", fail)
    loaded = photo_cache.load([photo], 2, 4)
    assert not loaded.cached and equal(loaded.pairs[0], photographs.read(photo, 2))
    assert loaded.remarks() == [
        f"photographs are held in memory, since {cache} takes no more files"
    ]
    assert cache.is_file() or not list(cache.iterdir())


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything may be written")
def test_a_folder_that_may_not_be_written_is_no_obstacle(tmp_path, cache):
    cache.mkdir(mode=0o500)
    assert not photo_cache.load([photograph(tmp_path, "a")], 2, 4).cached


def test_many_photographs_keep_no_files_open(tmp_path):
    photo = photograph(tmp_path, "a")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit[1]))
    try:
        loaded = photo_cache.load([photo] * 200, 2, 4)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert loaded.cached and len(loaded.pairs) == 200


def test_several_may_fill_it_at_once(tmp_path, cache):
    """Threads stand for processes, which meet in the file system in the same way."""
    photos = [photograph(tmp_path, "a" * k) for k in range(1, 31)]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: photo_cache.load(photos, 2, 4), range(4)))
    assert all(loaded.cached for loaded in results)
    for same in zip(*(loaded.pairs for loaded in results), strict=True):
        assert all(equal(same[0], other) for other in same[1:])
    assert len(list(cache.iterdir())) == 2 * len(photos)


def test_the_folder_is_the_users_own(monkeypatch, tmp_path):
    assert photo_cache.folder() == tmp_path / "cache"
    monkeypatch.delenv("QUANTNAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert photo_cache.folder() == Path("/somewhere/quantnas")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert photo_cache.folder() == Path("/home/me/.cache/quantnas")


# Photographs that cannot be used


def test_photographs_that_are_too_small_are_left_out_and_counted(tmp_path):
    photos = [photograph(tmp_path, "a", 40, 15), photograph(tmp_path, "b", 25, 33)]
    photos.append(photograph(tmp_path, "c", 1, 33))
    loaded = photo_cache.load([*photos, *[photos[1]] * 9], 2, 12)
    assert {p.name for p in loaded.pairs} == {"b"} and len(loaded.pairs) == 10
    assert loaded.small == 2 and not loaded.damaged
    assert loaded.remarks() == ["photographs left out, smaller than a patch: 2"]
    with pytest.raises(DataError, match="as large as a patch of 26x26"):
        photo_cache.load(photos[:2], 2, 13)


def test_a_few_damaged_photographs_are_named_and_left_out(tmp_path):
    photos = [photograph(tmp_path, f"{k}", 24, 32) for k in range(20)]
    photos[3].high.write_bytes(b"not an image")
    whole = photos[7].high.read_bytes()
    photos[7].high.write_bytes(whole[: len(whole) // 2])
    records = list(photo_cache.loading(photos, 2, 4))
    assert [r.done for r in records] == list(range(1, 21))
    assert (records[-1].total, records[-1].small, records[-1].damaged) == (20, 0, 2)
    loaded = photo_cache.load(photos, 2, 4)
    assert len(loaded.pairs) == 18 and loaded.cached
    for name, cause in zip("37", loaded.damaged, strict=True):
        assert f"{name}.png' is damaged" in cause
    assert loaded.remarks() == [f"photograph left out: {cause}" for cause in loaded.damaged]
    counts = {"used": 18, "too_small": 0, "damaged": list(loaded.damaged), "cached": True}
    assert loaded.counts() == counts
    photos[9].high.unlink()
    message = (
        r"More than 10% of 20 .*3\.png' is damaged.*7\.png' is damaged.*9\.png' does not exist"
    )
    with pytest.raises(DataError, match=message):
        photo_cache.load(photos, 2, 4)


def test_a_pair_of_wrong_sizes_is_among_the_damaged(tmp_path):
    photo = dataclasses.replace(paired(tmp_path, "a"), low=photograph(tmp_path, "b", 5, 5).high)
    with pytest.raises(DataError, match=r"a\.png' has 32x24 pixels"):
        photo_cache.load([photo], 2, 4)


def test_large_photographs_are_shrunk_for_learning_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(photo_cache, "LONGEST", 20)
    photo, pair = photograph(tmp_path, "a"), paired(tmp_path / "own", "a")
    loaded = photo_cache.load([photo, pair], 2, 4)
    assert [p.high.shape for p in loaded.pairs] == [(14, 20, 3), (24, 32, 3)]
    assert photo_cache.any_holds([photo], 2, 7)
    assert not photo_cache.any_holds([photo], 2, 8) and photo_cache.any_holds([photo, pair], 2, 8)


def test_a_moved_folder_is_told_as_such(tmp_path):
    gone = [Photograph(tmp_path / "old" / f"{i}.png") for i in range(4)]
    for load in (photo_cache.load, photo_cache.any_holds):
        with pytest.raises(DataError, match=r"old/0\.png' does not exist") as caught:
            load(gone, 2, 8)
        assert caught.value.remedy.startswith("If their folder was moved")
