"""Checks that images are found, read, written and resized as documented."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantnas.data import bicubic, image_files
from quantnas.errors import DataError, UsageError

ORIENTATION = 0x0112


def gradient(height: int = 6, width: int = 8) -> np.ndarray:
    y, x, c = np.mgrid[:height, :width, :3]
    return (y * 31 + x * 17 + c * 60).astype(np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


# Finding


def test_find_is_recursive_sorted_and_skips_hidden_and_other_files(tmp_path):
    images = ["B.PNG", "a/z.jpeg", "a/z.webp", "b.bmp", "c.JPG"]
    others = [".hidden.png", ".cache/x.png", "a/notes.txt", "a/._c.jpg", "png"]
    for name in images + others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [p.relative_to(tmp_path).as_posix() for p in image_files.find(tmp_path)] == images


def test_find_works_below_a_hidden_folder(tmp_path):
    folder = tmp_path / ".data"
    image_files.write(folder / "a.png", gradient())
    assert image_files.find(str(folder)) == [folder / "a.png"]


def test_find_explains_bad_folders(tmp_path):
    file = tmp_path / "file.txt"
    file.touch()
    with pytest.raises(DataError, match=r"none' does not exist"):
        image_files.find(tmp_path / "none")
    with pytest.raises(DataError, match=r"file\.txt' is not a folder"):
        image_files.find(file)
    with pytest.raises(DataError, match=r"holds no images.*\.png.*\.webp"):
        image_files.find(tmp_path)


# Reading


@pytest.mark.parametrize(
    ("mode", "fill", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("I;16", 0, (0, 0, 0)),
        ("I;16", 128, (0, 0, 0)),
        ("I;16", 129, (1, 1, 1)),
        ("I;16", 257 * 100, (100, 100, 100)),
        ("I;16", 65535, (255, 255, 255)),
        ("LA", (40, 255), (40, 40, 40)),
        ("LA", (40, 0), (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 100, 200, 51), (204, 224, 244)),
    ],
)
def test_read_png_of_every_mode(tmp_path, mode, fill, expected):
    path = save(tmp_path / "a.png", Image.new(mode, (3, 2), fill))
    pixels = image_files.read(path)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (2, 3, 3)
    assert (pixels == expected).all()


def test_read_palette_with_and_without_transparency(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([9, 8, 7, 50, 60, 70])
    picture.putpixel((1, 0), 1)
    plain = image_files.read(save(tmp_path / "plain.png", picture))
    keyed = image_files.read(save(tmp_path / "keyed.png", picture, transparency=1))
    assert plain.tolist() == [[[9, 8, 7], [50, 60, 70]]]
    assert keyed.tolist() == [[[9, 8, 7], [255, 255, 255]]]


@pytest.mark.parametrize(("mode", "key"), [("L", 5), ("RGB", (5, 5, 5)), ("I;16", 5 * 257)])
def test_read_shows_a_transparent_colour_as_white(tmp_path, mode, key):
    picture = Image.new(mode, (2, 1), key)
    picture.putpixel((1, 0), (0, 0, 0) if mode == "RGB" else 0)
    pixels = image_files.read(save(tmp_path / "a.png", picture, transparency=key))
    assert pixels[0, :, 0].tolist() == [255, 0]


def test_read_cmyk_jpeg(tmp_path):
    path = save(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=100)
    assert np.abs(image_files.read(path).astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("extension", ["png", "webp", "bmp"])
def test_read_returns_what_was_written_losslessly(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    image_files.write(path, gradient())
    assert np.array_equal(image_files.read(path), gradient())


def test_read_applies_the_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = save(tmp_path / "a.png", Image.fromarray(gradient()), exif=exif)
    assert np.array_equal(image_files.read(path), np.rot90(gradient(), -1))
    assert image_files.read(path).flags.writeable


def test_read_ignores_damaged_exif_data(tmp_path):
    damaged = b"Exif\0\0II*\0\x08\0\0\0\x05\0"
    path = save(tmp_path / "a.jpg", Image.fromarray(gradient()), exif=damaged)
    assert image_files.read(path).shape == (6, 8, 3)


def png(path: Path, kind: int, values: np.ndarray) -> Path:
    """Write a 16-bit PNG of values (H, W, C).

    kind: grey (0), colour (2), grey with alpha (4) or colour with alpha (6).
    """
    rows = values.astype(">u2").reshape(len(values), -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    chunks = {b"IHDR": head, b"IDAT": zlib.compress(data), b"IEND": b""}
    content = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks.items()
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


@pytest.mark.parametrize(
    ("kind", "pixel", "expected"),
    [
        (0, (257 * 100,), (100, 100, 100)),
        (2, (257 * 10, 257 * 20, 65535), (10, 20, 255)),
        (2, (257 * 10 + 200, 257 * 20 + 100, 0), (11, 20, 0)),
        (4, (257 * 40, 65535), (40, 40, 40)),
        (4, (257 * 40, 0), (255, 255, 255)),
        (6, (257 * 10, 257 * 20, 257 * 30, 65535), (10, 20, 30)),
        (6, (0, 257 * 100, 257 * 200, 257 * 51), (204, 224, 244)),
    ],
)
def test_read_png_of_16_bits(tmp_path, kind, pixel, expected):
    """PIL drops the low byte of colours, so a value may be too dark by 1."""
    pixels = image_files.read(png(tmp_path / "a.png", kind, np.full((3, 2, len(pixel)), pixel)))
    assert pixels.shape == (3, 2, 3) and pixels.dtype == np.uint8
    difference = np.array(expected) - pixels.astype(int)
    assert difference.min() >= 0 and difference.max() <= (kind == 2)


def test_read_palette_with_partial_transparency(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 100, 200, 50, 60, 70])
    picture.putpixel((1, 0), 1)
    path = save(tmp_path / "a.png", picture, transparency=bytes([51, 255]))
    assert image_files.read(path).tolist() == [[[204, 224, 244], [50, 60, 70]]]


@pytest.mark.parametrize("extension", ["png", "jpg", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_that_of_what_is_read(tmp_path, extension, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / f"a.{extension}", Image.fromarray(gradient()), exif=exif)
    assert (
        image_files.size(path)
        == image_files.read(path).shape[:2]
        == ((6, 8) if orientation < 5 else (8, 6))
    )


def test_size_decodes_no_pixels(tmp_path):
    whole = save(tmp_path / "a.png", Image.fromarray(gradient(64, 48))).read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    assert image_files.size(tmp_path / "a.png") == (64, 48)
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"a\.png' is damaged or not a PNG"):
        image_files.size(tmp_path / "a.png")


def test_read_explains_unreadable_files(tmp_path):
    whole = save(tmp_path / "whole.png", Image.fromarray(gradient(64, 64))).read_bytes()
    for name, content in {
        "empty.png": b"",
        "text.png": b"not an image",
        "cut.png": whole[: len(whole) // 2],
        "flipped.png": whole[:60] + bytes([whole[60] ^ 255]) + whole[61:],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}' is damaged or not a PNG"):
            image_files.read(tmp_path / name)
    with pytest.raises(DataError, match=r"none\.png' does not exist"):
        image_files.read(tmp_path / "none.png")
    with pytest.raises(DataError, match="cannot be opened"):
        image_files.read(tmp_path)


def test_read_refuses_formats_that_are_not_accepted(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(gradient()), format="TIFF")
    with pytest.raises(DataError, match="not a PNG, JPEG, WebP or BMP"):
        image_files.read(path)


def test_read_refuses_only_images_above_the_size_limit(tmp_path, monkeypatch):
    image_files.write(tmp_path / "a.png", gradient(10, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    assert image_files.read(tmp_path / "a.png").shape == (10, 10, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(DataError, match=r"a\.png' has too many pixels"):
        image_files.read(tmp_path / "a.png")


# Writing


def test_write_jpeg_is_close_and_keeps_colour_edges(tmp_path):
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, 7:] = (255, 0, 0)
    image_files.write(tmp_path / "new" / "a.JPG", picture)
    assert np.abs(image_files.read(tmp_path / "new" / "a.JPG").astype(int) - picture).max() < 30


def test_write_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    image_files.write(path, gradient())
    assert np.array_equal(image_files.read(path), gradient())
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(self: Image.Image, target: Path, **options: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(DataError, match=r"a\.png' cannot be written \(No space left"):
        image_files.write(path, gradient())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_explains_bad_targets(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        image_files.write(tmp_path / "file" / "a.png", gradient())
    for name in ("a.gif", "a"):
        with pytest.raises(UsageError, match=r"known image extension.*\.png.*\.bmp"):
            image_files.write(tmp_path / "deep" / name, gradient())
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize(
    "image",
    [np.zeros((2, 2, 3)), np.zeros((2, 2), np.uint8), np.zeros((0, 2, 3), np.uint8)],
)
def test_write_takes_only_uint8_rgb(tmp_path, image):
    with pytest.raises(ValueError, match="expected uint8"):
        image_files.write(tmp_path / "a.png", image)


# Resizing


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_downscale_equals_matlab(shared_data, scale):
    paths = image_files.find(shared_data / "test" / "set5")
    assert len(paths) == 5
    for path in paths:
        expected = image_files.read(shared_data / "lr_reference" / f"x{scale}" / path.name)
        actual = bicubic.downscale(bicubic.crop_to_multiple(image_files.read(path), scale), scale)
        assert np.array_equal(actual, expected), path.name


def test_upscale_of_an_edge_has_the_bicubic_values():
    step = np.array([0, 0, 0, 160, 160, 160], np.uint8)[None, :, None]
    row = bicubic.upscale(step, 2)[0, :, 0]
    # Weights -9, 111, 29, -3 (in 128) and reversed: 160 * 26 / 128 = 32.5 and 160 * 102 / 128 =
    # 127.5 are rounded up, the undershoot is clipped to 0, the overshoot is 171.25 and 163.75.
    assert row.tolist() == [0, 0, 0, 0, 0, 33, 128, 171, 164, 160, 160, 160]


@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_resize_keeps_a_constant(value):
    flat = np.full((5, 7, 3), value, np.uint8)
    for size in [(1, 1), (2, 3), (5, 7), (11, 40), (3, 20)]:
        for antialias in (False, True):
            resized = bicubic.resize(flat, *size, antialias)
            assert resized.shape == (*size, 3)
            assert (resized == value).all()


def test_resize_to_the_same_size_is_the_identity():
    assert np.array_equal(bicubic.resize(gradient(), 6, 8, True), gradient())


def test_resize_mirrors_with_the_image():
    noise = np.random.default_rng(0).integers(0, 256, (12, 18, 3), np.uint8)
    for scaled in (bicubic.downscale, bicubic.upscale):
        assert np.array_equal(scaled(noise[::-1, ::-1], 3), scaled(noise, 3)[::-1, ::-1])


def test_resize_does_not_depend_on_the_block_size(monkeypatch):
    noise = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    whole = bicubic.resize(noise, 45, 10, True)
    monkeypatch.setattr(bicubic, "_BLOCK_ELEMENTS", 1)
    assert np.array_equal(bicubic.resize(noise, 45, 10, True), whole)


def test_resize_handles_images_smaller_than_the_kernel():
    assert bicubic.downscale(gradient(4, 4), 4).shape == (1, 1, 3)
    assert (bicubic.upscale(gradient(1, 1), 4) == gradient(1, 1)).all()


def test_resizing_refuses_wrong_input():
    with pytest.raises(ValueError, match="not multiples of 4"):
        bicubic.downscale(gradient(6, 8), 4)
    with pytest.raises(ValueError, match="expected uint8"):
        bicubic.upscale(gradient() / 255.0, 2)
    with pytest.raises(ValueError, match="cannot resize"):
        bicubic.resize(gradient(), 0, 4, True)


def test_crop_to_multiple_cuts_bottom_and_right():
    assert np.array_equal(bicubic.crop_to_multiple(gradient(7, 8), 3), gradient(7, 8)[:6, :6])
    with pytest.raises(DataError, match="8x2 pixels is too small for x3"):
        bicubic.crop_to_multiple(gradient(2, 8), 3)


# Choosing


def test_bundled_photographs_are_complete_and_licensed():
    photographs = image_files.bundled()
    assert (len(photographs.train), len(photographs.held_out)) == (12, 4)
    everything = photographs.train + photographs.held_out
    assert len(set(everything)) == 16
    assert list(photographs.train) == sorted(photographs.train)
    table = (everything[0].parent / "LICENSES.md").read_text(encoding="utf-8")
    for path in everything:
        part = "train" if path in photographs.train else "held out"
        assert f"| {path.name} | {part} |" in table
        assert image_files.read(path).shape == (288, 432, 3)
