"""Checks that photographs are found with their partners, and read at both resolutions."""

import json
from pathlib import Path

import numpy as np
import pytest

from quantnas.data import bicubic, holdout, image_files, photographs
from quantnas.data.photographs import Photograph
from quantnas.errors import DataError


def picture(height: int = 12, width: int = 16) -> np.ndarray:
    y, x, c = np.mgrid[:height, :width, :3]
    return (y * 3 + x * 2 + c * 40).astype(np.uint8)


def lay(root: Path, *names: str) -> None:
    for name in names:
        image_files.write(root / name, picture())


def shown(root: Path, folder: str = "", scale: int = 4) -> dict[str, str | None]:
    """High-resolution path -> low-resolution path of all photographs, relative to `root`."""
    return {
        p.high.relative_to(root).as_posix(): p.low and p.low.relative_to(root).as_posix()
        for p in photographs.find(root / folder, scale)
    }


# Finding


def test_pictures_of_runs_and_evaluations_are_no_photographs(tmp_path):
    lay(tmp_path, "a.png", "runs/run/x/plots/b.png", "runs/evaluate/y/plots/c.png", "own/d.png")
    for name in (
        "runs/run/x/config.yaml",
        "runs/run/x/env.json",
        "runs/evaluate/y/evaluation.json",
    ):
        (tmp_path / name).touch()
    (tmp_path / "own" / "config.yaml").touch()  # it may be of anything
    assert list(shown(tmp_path)) == ["a.png", "own/d.png"]
    for folder in ("runs", "runs/run/x"):
        with pytest.raises(DataError, match="are pictures of runs or evaluations"):
            shown(tmp_path, folder)


def test_a_plain_folder_holds_photographs_alone(tmp_path):
    lay(tmp_path, "b.png", "deeper/a.png", "LR/X4/c.png", "HR.png")
    files = shown(tmp_path)
    assert list(files) == ["HR.png", "LR/X4/c.png", "b.png", "deeper/a.png"]
    assert not any(files.values())
    assert photographs.find(tmp_path, 4)[2].name == "b"


LAYOUTS = {
    "DIV2K": ("DIV2K_train_HR/{}.png", "DIV2K_train_LR_bicubic/X{scale}/{}x{scale}.png"),
    "small x": ("Flickr2K_HR/{}.png", "Flickr2K_LR_bicubic/x{scale}/{}x{scale}.png"),
    "flat": ("a+b_HR/{}.png", "a+b_LR_bicubic_X{scale}/{}x{scale}.png"),
    "BasicSR": ("GTmod12/{}.png", "LRbicx{scale}/{}.png"),
    "GT": ("GT/{}.png", "LRbicx{scale}/{}.png"),
    "benchmark": ("HR/{}.png", "LR_bicubic/X{scale}/{}x{scale}.png"),
    "plainest": ("HR/{}.png", "LR/X{scale}/{}.png"),
    "plainest, flat": ("HR/{}.jpg", "LR_x{scale}/{}.png"),
    "deeper": ("HR/one/{}.png", "LR/X{scale}/one/{}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_known(tmp_path, monkeypatch, layout):
    """A layout is found from its folder, the one above, the photographs' folder and from within."""
    high, low = LAYOUTS[layout]
    names = ("0001", "0002")
    for scale in (2, 4):
        lay(tmp_path, *(f"set/{low.format(n, scale=scale)}" for n in names))
    lay(tmp_path, *(f"set/{high.format(n)}" for n in names))
    folder = f"set/{high.split('/')[0]}"
    for scale in (2, 4):
        expected = {f"set/{high.format(n)}": f"set/{low.format(n, scale=scale)}" for n in names}
        for start in ("", "set", folder):
            assert shown(tmp_path, start, scale) == expected
    assert shown(tmp_path, scale=3) == {f"set/{high.format(n)}": None for n in names}
    monkeypatch.chdir(tmp_path / folder)
    photos = photographs.find(".", 4)
    assert [p.low and p.low.resolve() for p in photos] == [
        tmp_path / "set" / low.format(n, scale=4) for n in names
    ]


def test_what_lies_beside_a_layout_is_left_out(tmp_path):
    """Such files are low resolution that is not bicubic, and photographs that are not cropped."""
    lay(tmp_path, "a/HR/1.png", "a/LR_unknown/X4/1x4.png", "a/original/1.png", "other/2.png")
    assert shown(tmp_path) == {"a/HR/1.png": None, "other/2.png": None}


def test_names_that_only_look_alike_are_no_layout(tmp_path):
    lay(tmp_path, "HR/1.png", "LRcamera/2.png", "a_HR/3.png", "b_LR_bicubic/X4/3x4.png")
    assert len(shown(tmp_path)) == 4


def test_a_folder_above_that_cannot_be_listed_is_no_obstacle(tmp_path, monkeypatch):
    lay(tmp_path, "HR/1.png", "LR/X4/1.png")
    listed = Path.iterdir

    def fail(self: Path):
        if self == tmp_path:
            raise PermissionError(13, "Permission denied")
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", fail)
    assert shown(tmp_path, "HR") == {"HR/1.png": None}


def test_two_layouts_in_one_folder_are_both_found(tmp_path):
    for part in ("train", "valid"):
        lay(tmp_path, f"D_{part}_HR/1.png", f"D_{part}_LR_bicubic/X4/1x4.png")
    assert shown(tmp_path) == {
        f"D_{part}_HR/1.png": f"D_{part}_LR_bicubic/X4/1x4.png" for part in ("train", "valid")
    }


def test_files_without_a_partner_are_an_error(tmp_path):
    lay(tmp_path, *(f"HR/{n}.png" for n in range(6)), "LR/X4/0.png", "LR/X4/9.png")
    with pytest.raises(DataError, match=r"^5 photographs in .*HR' have no .*\(1, 2, 3, \.\.\.\)"):
        photographs.find(tmp_path, 4)
    with pytest.raises(DataError, match=r", and 1 file in .*X4' has no photograph in .* \(9\)\. "):
        photographs.find(tmp_path, 4)


def test_only_what_is_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lay(tmp_path, "HR/a.png", "HR/baby.png", "LR/X4/a.png")
    with pytest.raises(DataError) as error:
        photographs.find("HR", 4)
    assert error.value.cause == "1 photograph in 'HR' has no file in 'LR/X4' (baby)."
    lay(tmp_path, "LR/X4/baby.png", "LR/X4/b.png", "LR/X4/c.png")
    with pytest.raises(DataError) as error:
        photographs.find(".", 4)
    assert error.value.cause == "2 files in 'LR/X4' have no photograph in 'HR' (b, c)."


@pytest.mark.parametrize("folder", ["HR", "LR/X4"])
def test_two_files_of_one_name_are_an_error(tmp_path, folder):
    lay(tmp_path, "HR/x.png", "LR/X4/x.png", f"{folder}/x.jpg")
    with pytest.raises(DataError, match=rf"{folder}/x\.jpg' and .*{folder}/x\.png' have the same"):
        photographs.find(tmp_path, 4)


@pytest.mark.parametrize("high", ["hr", "Hr", "gt", "b_hr"])
def test_case_does_not_matter(tmp_path, high):
    low = high.lower().replace("hr", "lr").replace("gt", "lr")
    lay(tmp_path, f"{high}/1.png", f"{low}/X4/1.png", f"{low}_Bicubic/x2/1.png")
    assert shown(tmp_path) == {f"{high}/1.png": f"{low}/X4/1.png"}
    assert shown(tmp_path, scale=2) == {f"{high}/1.png": f"{low}_Bicubic/x2/1.png"}
    assert shown(tmp_path, scale=3) == {f"{high}/1.png": None}


def test_a_flat_folder_is_taken_when_all_its_sizes_fit(tmp_path):
    lay(tmp_path, "HR/1.png", "HR/2.png")
    for k in (1, 2):
        image_files.write(tmp_path / f"LR/{k}.png", picture(3, 4))
    assert shown(tmp_path) == {f"HR/{k}.png": f"LR/{k}.png" for k in (1, 2)}
    assert shown(tmp_path, scale=2) == {"HR/1.png": None, "HR/2.png": None}
    lay(tmp_path, "LR/2.png")
    assert shown(tmp_path) == {"HR/1.png": None, "HR/2.png": None}
    (tmp_path / "LR/2.png").unlink()
    with pytest.raises(DataError, match=r"^1 photograph in .*HR' has no file in .*LR' \(2\)\."):
        photographs.find(tmp_path, 4)
    (tmp_path / "LR/1.png").unlink()
    assert shown(tmp_path) == {"HR/1.png": None, "HR/2.png": None}


@pytest.mark.parametrize("folder", ["LR", "LR/X2", "lr_unknown"])
def test_low_resolution_is_no_photograph(tmp_path, monkeypatch, folder):
    lay(tmp_path, "HR/1.png", f"{folder}/1.png")
    monkeypatch.chdir(tmp_path / folder)
    for start in (tmp_path / folder, "."):
        with pytest.raises(DataError, match=r"holds the low resolution of '.*HR'\. Give '.*HR'"):
            photographs.find(start, 4)


def test_an_empty_folder_of_low_resolution_is_an_error(tmp_path):
    lay(tmp_path, "HR/1.png")
    (tmp_path / "LR" / "X4").mkdir(parents=True)
    with pytest.raises(DataError, match=r"X4' holds no images"):
        photographs.find(tmp_path, 4)


def test_bad_folders_are_explained(tmp_path):
    with pytest.raises(DataError, match=r"none' does not exist"):
        photographs.find(tmp_path / "none", 4)


# Choosing


@pytest.mark.parametrize(
    ("count", "held_out"),
    [
        (2, [1]),
        (3, [2]),
        (4, [3]),
        (9, [3, 7]),
        (39, [3, 7, 11, 15, 19, 23, 27, 31]),
        (80, [9, 19, 29, 39, 49, 59, 69, 79]),
    ],
)
def test_split_is_deterministic_and_spread(count, held_out):
    photos = [Photograph(Path(f"{k:03}.png")) for k in range(count)]
    train, kept = photographs.split(photos[::-1])
    assert kept == tuple(photos[k] for k in held_out)
    assert sorted(train + kept, key=lambda photo: photo.high) == photos


@pytest.mark.parametrize(
    ("count", "barred", "held_out"),
    [
        (4, [3], [2]),
        (8, [3, 7], [2, 6]),
        (9, [*range(8)], [8]),
        (39, range(31), range(31, 39)),
        (80, range(0, 80, 10), range(9, 80, 10)),
    ],
)
def test_as_many_are_held_out_when_some_cannot_be(count, barred, held_out):
    photos = [Photograph(Path(f"{k:03}.png")) for k in range(count)]
    train, kept = photographs.split(photos, barred={photos[k] for k in barred})
    assert kept == tuple(photos[k] for k in held_out)
    assert sorted(train + kept, key=lambda photo: photo.high) == photos
    with pytest.raises(DataError, match=f"None of {count} photographs can be held out"):
        photographs.split(photos, barred=photos)


def test_split_needs_two_images():
    with pytest.raises(DataError, match=r"At least 2 images.*Add photographs"):
        photographs.split([Photograph(Path("a.png"))])


# Reading


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_pair_is_the_photograph_and_its_small_form(tmp_path, scale):
    path = tmp_path / "a.png"
    image_files.write(path, picture(29, 38))
    pair = photographs.read(Photograph(path), scale)
    height, width = 29 // scale, 38 // scale
    assert pair.name == "a" and pair.low.shape == (height, width, 3)
    assert np.array_equal(pair.high, image_files.read(path)[: height * scale, : width * scale])
    blocks = pair.high.reshape(height, scale, width, scale, 3).mean((1, 3))
    inside = np.abs(blocks - pair.low)[2:-2, 2:-2]
    assert np.median(inside) < 1


def test_its_own_low_resolution_is_taken_as_it_is(tmp_path):
    """It may show any degradation, and rows and columns beyond it are cut off the photograph."""
    photo = Photograph(tmp_path / "a.png", tmp_path / "b.png")
    image_files.write(photo.high, picture(23, 35))
    low = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    image_files.write(photo.low, low)
    pair = photographs.read(photo, 4, longest=10)
    assert np.array_equal(pair.low, low)
    assert np.array_equal(pair.high, picture(23, 35)[:20, :32])
    assert photographs.low_size(photo, 4, longest=10) == (5, 8)


@pytest.mark.parametrize("size", [(19, 35), (20, 31), (24, 35), (20, 36), (35, 20)])
def test_a_pair_of_other_sizes_is_an_error(tmp_path, size):
    photo = Photograph(tmp_path / "a.png", tmp_path / "b.png")
    image_files.write(photo.high, picture(*size))
    image_files.write(photo.low, picture(5, 8))
    message = rf"a\.png' has {size[1]}x{size[0]} pixels.* not 4 times the 8x5 of '.*b\.png'"
    for read in (photographs.read, photographs.low_size):
        with pytest.raises(DataError, match=message):
            read(photo, 4)
    with pytest.raises(DataError, match=r"^2 photographs are not 4 times .* \(a\.png, a\.png\)"):
        photographs.require_fitting([photo, Photograph(photo.high), photo], 4)


def test_sizes_are_compared_without_decoding(tmp_path, monkeypatch):
    fine = Photograph(tmp_path / "a.png", tmp_path / "b.png")
    image_files.write(fine.high, picture(20, 32))
    image_files.write(fine.low, picture(5, 8))
    damaged = Photograph(tmp_path / "c.png", fine.low)
    damaged.high.write_bytes(b"not an image")
    monkeypatch.setattr(image_files, "read", None)
    photographs.require_fitting([fine, damaged], 4)


def test_a_photograph_smaller_than_a_pixel_is_named(tmp_path):
    photo = Photograph(tmp_path / "a.png")
    image_files.write(photo.high, picture(3, 9))
    assert photographs.low_size(photo, 4) == (0, 2)
    with pytest.raises(DataError, match=r"a\.png' of 9x3 pixels is too small for x4"):
        photographs.read(photo, 4)


@pytest.mark.parametrize(("size", "smaller"), [((15, 44), (7, 20)), ((44, 30), (20, 14))])
def test_large_photographs_are_shrunk(tmp_path, size, smaller):
    photo = Photograph(tmp_path / "a.png")
    image_files.write(photo.high, picture(*size))
    pair = photographs.read(photo, 2, longest=20)
    whole = bicubic.resize(picture(*size), *smaller, antialias=True)
    assert np.array_equal(pair.high, bicubic.crop_to_multiple(whole, 2))
    assert photographs.low_size(photo, 2, longest=20) == pair.low.shape[:2]
    as_it_is = photographs.read(photo, 2, longest=44)
    assert np.array_equal(as_it_is.high, photographs.read(photo, 2).high)


def test_the_middle_of_a_pair_is_aligned(tmp_path):
    photo = Photograph(tmp_path / "a.png")
    image_files.write(photo.high, picture(60, 90))
    whole = photographs.read(photo, 3)
    part = photographs.middle(whole, 20)
    assert part.low.shape == (6, 6, 3) and part.high.shape == (18, 18, 3)
    assert np.array_equal(part.low, whole.low[7:13, 12:18])
    assert np.array_equal(part.high, whole.high[21:39, 36:54])
    same = photographs.middle(whole, 200)
    assert np.array_equal(same.high, whole.high) and np.array_equal(same.low, whole.low)


def test_bundled_photographs_that_a_run_of_before_names_are_found_where_they_are_now(tmp_path):
    here = image_files.bundled().train[0]
    before = f"/elsewhere/quantnas/data/photographs/{here.name}"
    rows = {"train": [{"high": before, "low": None}], "held_out": [], "known": [before]}
    (tmp_path / "photographs.json").write_text(json.dumps(rows))
    loaded = holdout.load(tmp_path / "photographs.json")
    assert loaded.train[0].high.resolve() == here.resolve() == loaded.known[0].resolve()
