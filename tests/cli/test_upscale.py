"""Checks that `quantnas upscale` enlarges files and folders, and keeps the kind of each image."""

import errno
import shlex
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from quantnas.cli import console
from quantnas.cli.main import main
from quantnas.data import bicubic, image_files, image_modes
from quantnas.data.image_modes import Picture
from quantnas.errors import DataError, UsageError
from quantnas.inference import tiling, upscale_files
from quantnas.inference.receptive_field import ReceptiveField
from quantnas.inference.tiling import Network, Tiling
from quantnas.runs import bundled_models, models

PHOTO = image_files.read(image_files.bundled().held_out[0])[:24, :30]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of two photographs and a broken one, in the current folder."""
    monkeypatch.chdir(tmp_path)
    image_files.write("photos/b.png", PHOTO)
    image_files.write("photos/deep/a.jpg", PHOTO)
    Path("photos/c.png").write_bytes(b"not an image")
    return tmp_path


def plain(pixels: int = 0) -> Network:
    """Bicubic interpolation in the form of a network."""
    found = ReceptiveField(pixels)
    return Network(2, lambda low: bicubic.upscale(low, 2), found, lambda: pytest.fail("no part"))


def enlarged(source: Path, target: str) -> Image.Image:
    """The enlarged file, opened."""
    job = upscale_files.UpscaleJob(source, source.with_name(target))
    list(upscale_files.one(job, plain(), Tiling()))
    with Image.open(job.target) as found:
        found.load()
        return found


# Files and folders


def test_a_folder_is_done_but_for_a_broken_file(here, capsys):
    assert command("upscale", "photos", "-o", "large") == 3
    told = capsys.readouterr()
    assert "failed: photos/c.png: 'photos/c.png' is damaged" in told.err
    assert "1 of 3 photographs could not be enlarged" in told.err
    found = sorted(p.relative_to("large").as_posix() for p in Path("large").rglob("*.png"))
    assert found == ["b_x2.png", "deep/a_x2.png"]
    assert all(f"large/{name}: 30x24 -> 60x48" in told.out for name in found)
    whole = models.resolve("plain-x2").upscaler()(PHOTO)
    assert np.array_equal(image_files.read("large/b_x2.png"), whole)


def test_what_is_there_is_neither_overwritten_nor_done_again(here, capsys):
    Path("photos/c.png").unlink()
    image_files.write("large/deep/a_x2.png", PHOTO)
    before = Path("large/deep/a_x2.png").read_bytes()
    assert command("upscale", "photos", "-o", "large") == 2
    assert "exists already" in capsys.readouterr().err
    assert not Path("large/b_x2.png").exists()  # nothing was begun
    assert command("upscale", "photos", "-o", "large", "--skip-existing") == 0
    assert "1 of 2 are there already" in capsys.readouterr().err
    assert Path("large/deep/a_x2.png").read_bytes() == before
    assert Path("large/b_x2.png").exists()
    assert command("upscale", "photos", "-o", "large", "--skip-existing") == 0
    assert command("upscale", "photos", "-o", "large", "--force", "--skip-existing") == 2
    assert command("upscale", "photos", "-o", "large", "--force") == 0
    assert Path("large/deep/a_x2.png").read_bytes() != before


def test_jobs_keep_names_and_places(here):
    def targets(*arguments):
        return [str(job.target) for job in upscale_files.jobs(*arguments)]

    one, two, folder = Path("photos/b.png"), Path("photos/deep/a.jpg"), Path("photos")
    assert targets([one], None, None, 3) == ["photos/b_x3.png"]
    assert targets([one], None, "jpg", 3) == ["photos/b_x3.jpg"]
    assert targets([one], Path("l.webp"), None, 3) == ["l.webp"]
    assert targets([one, two], Path("new"), "webp", 2) == ["new/b_x2.webp", "new/a_x2.webp"]
    assert targets([one], folder, None, 2) == ["photos/b_x2.png"]  # a folder that is there
    beside = [f"{here}/photos_x2/{name}_x2.png" for name in ("b", "c", "deep/a")]
    assert targets([folder], None, None, 2) == beside
    image_files.write(
        "photos/large/b_x2.png", PHOTO
    )  # a result below the photographs is none of them
    assert len(targets([folder], Path("photos/large"), None, 2)) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["photos", "-o", "a.png"], 2, "one file, for several"),
        (["photos/b.png", "-o", "a.tif"], 2, "known image extension"),
        (["photos/b.png", "-o", "a.png", "--format", "jpg"], 2, "the name of the result is a.png"),
        (["photos/b.png", "-o", "photos/b.png", "--force"], 2, "is a photograph itself"),
        (["photos/b.png", "photos/b.png", "-o", "new"], 2, "would both become"),
        (["photos/b.png", "-o", "photos/c.png/a.png"], 3, "cannot be written into"),
        (["photos/none.png"], 3, "none.png' does not exist"),
        (["photos/none", "-o", "new"], 3, "none' does not exist"),
        (["photos/c.png"], 3, "is damaged or not"),
        (["photos/b.png", "-m", "photos/c.onnx"], 3, "is damaged or no ONNX file"),
        (["photos/b.png", "-m", "cut.onnx"], 3, "is damaged or no ONNX file"),
        (["photos/b.png", "-m", "foreign.onnx"], 3, "is quantized already"),
        (["photos/b.png", "-m", "photos/b.png"], 3, "neither an ONNX file"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(here, capsys, arguments, code, words):
    import onnx

    Path("photos/c.onnx").write_bytes(b"not a model")
    whole = bundled_models.bundled()["plain-x2"].read_bytes()
    Path("cut.onnx").write_bytes(whole[: len(whole) // 2])
    foreign = onnx.load_from_string(whole)
    del foreign.metadata_props[:]
    Path("foreign.onnx").write_bytes(foreign.SerializeToString())
    before = sorted(here.rglob("*"))
    assert command("upscale", *arguments) == code
    told = capsys.readouterr().err
    assert words in told and "Traceback" not in told
    assert sorted(here.rglob("*")) == before


def test_a_folder_that_cannot_be_written_into_is_told_first(here, monkeypatch):
    def refuse(**options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(upscale_files.tempfile, "TemporaryFile", refuse)
    with pytest.raises(DataError, match=r"new/deep cannot be written into \(Permission denied\)"):
        upscale_files.check(
            [upscale_files.UpscaleJob(Path("a.png"), Path("new/deep/a.png"))], False, False
        )


def test_progress_counts_the_tiles_of_all_photographs(here):
    found = upscale_files.jobs([Path("photos")], Path("new"), None, 2)
    steps, records = upscale_files.perform(found, plain(2), Tiling(12)), []
    while True:
        try:
            records.append(next(steps))
        except StopIteration as end:
            outcome = end.value
            break
    assert {r.total for r in records} == {6 + 1 + 6}
    assert [r.done for r in records] == [*range(1, 14)]
    assert [job.source.name for job, _ in outcome.failed] == ["c.png"]
    assert outcome.done[0][1:] == ((24, 30), (48, 60))


def test_visible_seams_are_told(here, capsys):
    assert command("upscale", "photos/b.png", "--tile", "10", "--overlap", "1") == 0
    assert "of 255 where they meet" in capsys.readouterr().err
    assert command("upscale", "photos/b.png", "--tile", "10", "--overlap", "0", "--force") == 0
    assert "see nothing of their neighbours" in capsys.readouterr().err
    assert command("upscale", "photos/b.png", "--tile", "10", "--force") == 0
    assert "where they meet" not in capsys.readouterr().err


def test_an_interrupted_folder_says_how_to_go_on(here, monkeypatch, capsys):
    given = ["upscale", "photos", "-o", "my large", "--force"]
    monkeypatch.setattr("sys.argv", ["quantnas", *given])

    def stop(display, record):
        raise console.Interrupted(display.again)

    monkeypatch.setattr(console.Display, "__call__", stop)
    assert command(*given) == 130
    line = capsys.readouterr().err.splitlines()[-1]
    assert shlex.split(line) == [
        "quantnas", "upscale", "photos", "-o", "my large", "--skip-existing"
    ]  # fmt: skip


# Kinds of images


def test_transparency_is_enlarged_beside_the_colours(tmp_path):
    alpha = (np.arange(24)[:, None] * 10 + np.zeros(30)).astype(np.uint8)
    Image.fromarray(np.dstack([PHOTO, alpha])).save(tmp_path / "a.png")
    for name in ("b.png", "b.webp"):
        found = enlarged(tmp_path / "a.png", name)
        assert found.mode == "RGBA"
        seen = np.asarray(found)
        assert np.array_equal(seen[:, :, 3], bicubic.upscale(alpha[:, :, None], 2)[:, :, 0])
    assert np.array_equal(np.asarray(enlarged(tmp_path / "a.png", "c.png"))[:, :, :3],
                          bicubic.upscale(PHOTO, 2))  # fmt: skip


def test_a_format_without_transparency_gets_white_and_a_note(tmp_path):
    clear = np.dstack([PHOTO, np.zeros_like(PHOTO[:, :, 0])])
    Image.fromarray(clear).save(tmp_path / "a.png")
    assert (np.asarray(enlarged(tmp_path / "a.png", "b.jpg")) > 250).all()
    found = image_modes.read(tmp_path / "a.png")
    assert image_modes.losses(found, Path("b.jpg")) == [
        "JPEG has no transparency: the background becomes white"
    ]
    assert image_modes.losses(found, Path("b.png")) == []


@pytest.mark.parametrize(("mode", "kept"), [("L", "L"), ("1", "L"), ("LA", "LA")])
def test_grey_stays_grey(tmp_path, mode, kept):
    Image.fromarray(PHOTO).convert(mode).save(tmp_path / "a.png")
    assert enlarged(tmp_path / "a.png", "b.png").mode == kept
    assert enlarged(tmp_path / "a.png", "b.jpg").mode == "L"


def test_palettes_and_cmyk_become_colours(tmp_path):
    Image.fromarray(PHOTO).quantize(16).save(tmp_path / "p.png")
    Image.fromarray(PHOTO).convert("CMYK").save(tmp_path / "c.jpg", icc_profile=SRGB)
    assert enlarged(tmp_path / "p.png", "b.png").mode == "RGB"
    assert enlarged(tmp_path / "c.jpg", "d.png").mode == "RGB"


def test_16_bit_grey_stays_fine(tmp_path):
    ramp = np.linspace(20000, 24000, 24 * 30).reshape(24, 30).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    found = enlarged(tmp_path / "a.png", "b.png")
    assert found.mode == "I;16"
    values = np.asarray(found).astype(float)
    wanted = Image.fromarray(ramp.astype(np.float32)).resize((60, 48), Image.Resampling.BICUBIC)
    assert len(np.unique(values)) > 256
    assert np.abs(values - np.asarray(wanted)).max() <= 257
    eight = enlarged(tmp_path / "a.png", "c.jpg")
    assert eight.mode == "L" and abs(int(np.asarray(eight)[20, 20]) - values[20, 20] / 257) < 3
    assert "16-bit" in image_modes.losses(image_modes.read(tmp_path / "a.png"), Path("c.jpg"))[0]


def test_16_bit_colours_are_cut_with_a_note(tmp_path):
    image_files.write(tmp_path / "a.png", PHOTO)
    assert image_modes.losses(image_modes.read(tmp_path / "a.png"), Path("b.png")) == []
    found = deep_colours(tmp_path / "a.png", np.full((3, 2, 3), 257 * 40))
    assert (found.rgb == 40).all() and not found.grey
    assert "only 8 are read" in image_modes.losses(found, Path("b.png"))[0]


def deep_colours(path: Path, values: np.ndarray) -> Picture:
    """Write a PNG with 16 bits per colour, (H, W, 3), which PIL cannot, and read it."""
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    rows = values.astype(">u2").reshape(len(values), -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    content = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return image_modes.read(path)


def test_16_bit_grey_with_a_transparent_level(tmp_path):
    image = Image.new("I;16", (2, 1), 257 * 9)
    image.putpixel((1, 0), 0)
    image.save(tmp_path / "a.png", transparency=257 * 9)
    found = image_modes.read(tmp_path / "a.png")
    assert found.grey and found.deep is None and found.alpha.tolist() == [[0, 255]]
    assert found.cut


def test_orientation_is_applied_once_and_profile_and_resolution_stay(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif, "icc_profile": SRGB, "dpi": (300, 300)}
    Image.fromarray(PHOTO).save(tmp_path / "a.png", **options)
    for name in ("b.png", "b.jpg"):
        found = enlarged(tmp_path / "a.png", name)
        assert found.size == (48, 60) and 0x0112 not in found.getexif()
        assert found.info["icc_profile"] == SRGB
        assert np.allclose(found.info["dpi"], 300, atol=0.1)


def test_a_profile_of_other_colours_is_left_out(tmp_path):
    image_modes.write(tmp_path / "a.png", Picture(PHOTO, grey=True, icc=SRGB))
    assert image_modes.read(tmp_path / "a.png").icc is None


@pytest.mark.parametrize("dpi", [(0, 0), (float("nan"), 1), (1e9, 1e9), ("a", "b"), 72, (1,)])
def test_a_senseless_resolution_is_left_out(dpi):
    assert image_modes._dpi({"dpi": dpi}) is None


def test_a_format_that_cannot_hold_the_size_is_told_before_computing(tmp_path, monkeypatch):
    monkeypatch.setitem(image_modes.SIDES, "WEBP", 50)
    image_files.write(tmp_path / "a.png", PHOTO)
    monkeypatch.setattr(tiling, "enlarge", lambda *a: pytest.fail("computed"))
    with pytest.raises(UsageError, match="60x48 pixels, but a side of WEBP has 50"):
        enlarged(tmp_path / "a.png", "b.webp")


def test_files_of_other_kinds_are_named(here, capsys):
    folder = here / "album"
    image_files.write(folder / "a.png", np.zeros((20, 24, 3), np.uint8))
    (folder / "b.gif").write_bytes(b"GIF89a")
    (folder / ".hidden").write_bytes(b"")
    assert command("upscale", folder, "-o", here / "large") == 0
    told = capsys.readouterr().err
    assert f"left out, no photographs: {folder / 'b.gif'}\n" in told and ".hidden" not in told


# Large photographs


@pytest.mark.parametrize(("mode", "name"), [("RGB", "a.jpg"), ("L", "a.png"), ("RGB", "a.bmp")])
def test_a_large_photograph_is_written_row_by_row_as_it_is_as_a_whole(tmp_path, mode, name):
    """Profile and resolution stay, and the pixels are those of the image without tiles."""
    image = Image.fromarray(np.tile(PHOTO, (3, 3, 1))).convert(mode)
    kept = {"dpi": (300, 300)} if name != "a.bmp" else {}
    image.save(tmp_path / name, **kept)
    network = tiling.load(bundled_models.bundled()["plain-x2"], 2)
    jobs = [upscale_files.UpscaleJob(tmp_path / name, tmp_path / f"{i}.png") for i in range(2)]
    for job, cut in zip(jobs, (Tiling(0), Tiling(20)), strict=True):
        list(upscale_files.one(job, network, cut))
    whole, streamed = (Image.open(job.target) for job in jobs)
    with whole, streamed:
        assert (streamed.mode, streamed.size) == (whole.mode, whole.size)
        assert np.array_equal(np.asarray(streamed), np.asarray(whole))
        assert streamed.info.get("dpi") == whole.info.get("dpi")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "0.png", "1.png"])


@pytest.mark.parametrize("size", [(20, 30), (80, 300), (60, 300), (64, 65), (130, 200), (31, 65)])
def test_photographs_of_every_size_are_enlarged_in_tiles_of_one_size(tmp_path, size):
    """Sides of at most half the only side that the network takes are counted as tiles, too."""

    def whole(low: np.ndarray) -> np.ndarray:
        assert low.shape == (64, 128, 3)
        return low.repeat(2, 0).repeat(2, 1)

    fixed = Network(2, whole, ReceptiveField(64, whole=True), lambda: None, fixed=(64, 128))
    low = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    image_files.write(tmp_path / "a.png", low)
    job = upscale_files.UpscaleJob(tmp_path / "a.png", tmp_path / "b.png")
    told = list(upscale_files.perform([job], fixed, Tiling()))
    assert np.array_equal(image_files.read(job.target), low.repeat(2, 0).repeat(2, 1))
    assert told[-1].done == told[-1].total == len(tiling.tiles_of(fixed, *size, Tiling()))


def test_what_cannot_be_written_says_what_helps(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(DataError, match="No space left") as caught:
        image_files.write(tmp_path / "a.png", PHOTO)
    assert "Make room" in caught.value.remedy
