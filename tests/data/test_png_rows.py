"""Checks PNG files that are written row by row, and pictures that are read so, against PIL."""

import errno
import io
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from quantnas.data import free_memory, image_files, image_modes, png_rows
from quantnas.errors import DataError

CASES = Path(__file__).parents[1] / "cases" / "images"


def picture(height: int, width: int, channels: int) -> np.ndarray:
    y, x, c = np.mgrid[:height, :width, :channels]
    noise = np.random.default_rng(0).integers(0, 9, (height, width, channels))
    return (np.sin(y / 5 + c) * 60 + np.cos(x / 7) * 60 + 120 + noise).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_pil_reads_what_was_written(tmp_path, channels):
    image, path = picture(150, 61, channels), tmp_path / "new" / "a.png"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with png_rows.writing(path, image.shape[:2], channels, profile, (300.0, 150.0)) as add:
        for start in (0, 7, 77):
            add(image[start : {0: 7, 7: 77, 77: 150}[start]])
    with Image.open(path) as file:
        file.verify()
    with Image.open(path) as file:
        assert np.array_equal(np.asarray(file).reshape(image.shape), image)
        assert file.info["icc_profile"] == profile
        assert file.info["dpi"] == pytest.approx((300, 150), abs=0.1)
    plain = io.BytesIO()
    Image.fromarray(image.squeeze()).save(plain, "PNG")
    assert path.stat().st_size < 1.15 * len(plain.getvalue()) + len(profile)


def test_an_unfinished_file_does_not_appear(tmp_path):
    with pytest.raises(ZeroDivisionError), png_rows.writing(tmp_path / "a.png", (9, 9), 3) as add:
        add(picture(3, 9, 3))
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_rows_are_those_of_the_whole_picture(tmp_path):
    image = picture(300, 40, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, mode, how in (
        ("a.png", "RGB", {}),
        ("b.jpg", "L", {"exif": exif}),
        ("c.bmp", "RGB", {}),
    ):
        Image.fromarray(image).convert(mode).save(tmp_path / name, **how)
        whole = image_modes.read(tmp_path / name)
        with image_modes.rows(tmp_path / name, tmp_path) as rows:
            assert (rows.height, rows.width, rows.grey) == (*whole.rgb.shape[:2], whole.grey)
            assert np.array_equal(rows.read(0, rows.height), whole.rgb)
            assert np.array_equal(rows.read(11, 31), whole.rgb[11:31])
    for mode in ("RGBA", "P", "1"):
        Image.fromarray(image).convert(mode).save(tmp_path / "d.png")
        with image_modes.rows(tmp_path / "d.png", tmp_path) as rows:
            assert rows is None


class FullDisk(io.BytesIO):
    """A temporary file on a disk that becomes full while `at` is called."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def _fail(self, method: str) -> None:
        if method == self.at or method == "close":
            raise OSError(errno.ENOSPC, "No space left on device")

    def write(self, content) -> int:
        self._fail("write")
        return super().write(content)

    def flush(self) -> None:
        self._fail("flush")

    def close(self) -> None:
        super().close()
        self._fail("close")


@pytest.mark.parametrize("at", ["open", "write", "flush"])
def test_rows_that_cannot_be_kept_are_no_fault_of_the_picture(monkeypatch, tmp_path, at):
    def open_(dir: Path) -> FullDisk:
        if at == "open":
            raise PermissionError(errno.EACCES, "Permission denied")
        return FullDisk(at)

    image_files.write(tmp_path / "a.png", picture(300, 40, 3))
    monkeypatch.setattr(tempfile, "TemporaryFile", open_)
    with (
        pytest.raises(DataError, match="cannot take a temporary file") as error,
        image_modes.rows(tmp_path / "a.png", tmp_path),
    ):
        pass
    wanted = "folder that can be written into" if at == "open" else "Make room on the disk"
    assert wanted in error.value.remedy and "a.png" not in str(error.value)


def test_a_picture_beyond_the_free_memory_is_refused_before_it_is_decoded(monkeypatch, tmp_path):
    Image.new("L", (9000, 8000)).save(tmp_path / "a.png")
    monkeypatch.setattr(free_memory, "free_memory", lambda: 10**9)
    for read in (image_files.read, image_modes.read):
        with pytest.raises(DataError, match=r"needs 1\.2 GB of memory, of which 1\.0 GB are free"):
            read(tmp_path / "a.png")
    assert image_files.size(tmp_path / "a.png") == (8000, 9000)


READ = """
import resource, sys
from quantnas.data import image_files
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
from quantnas.errors import DataError
try:
    image_files.read(sys.argv[1])
except DataError as error:
    print(error)
"""


def test_a_small_file_with_a_large_header_is_an_error_under_a_limit():
    """The limit of the process counts, too."""
    command = [sys.executable, "-c", READ, str(CASES / "huge_header.bmp")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "huge_header.bmp" in done.stdout
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != 1 << 30
