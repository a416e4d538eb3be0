"""Checks the crops of a photograph in all versions."""

import numpy as np
import pytest

from quantnas.data import bicubic, image_files
from quantnas.data.photographs import Photograph
from quantnas.evaluation.scoring import MOST
from quantnas.reporting import photo_slider
from quantnas.runs.run_folder import Run


@pytest.fixture
def photos(tmp_path):
    """Write four photographs; the first exceeds a crop and has detail only at its lower right."""
    rng, found = np.random.default_rng(0), []
    for i in range(4):
        image = np.full((400, 600, 3) if i == 0 else (61, 72, 3), 128, np.uint8)
        image[-40:, -40:] = rng.integers(0, 256, (40, 40, 3))
        image_files.write(tmp_path / "photos" / f"{i}.png", image)
        found.append(Photograph(tmp_path / "photos" / f"{i}.png"))
    return found


def enlarge(low):
    return bicubic.upscale(low, 2)


def test_every_version_is_the_same_part(tmp_path, photos):
    run = Run(tmp_path / "run")
    found = photo_slider.make(run, photos, {"float": enlarge, "quantized": enlarge}, 2)
    assert photo_slider.load(run) == found and found.scale == 2
    first = found.views[0]
    assert (first.photograph, first.width, first.height) == ("0", 512, 384)
    assert [v.name for v in first.versions] == ["bicubic", "float", "quantized", "original"]
    pictures = [image_files.read(run.folder / "crops" / v.file) for v in first.versions]
    assert np.array_equal(pictures[3], image_files.read(photos[0].high)[-384:, -512:])
    assert np.array_equal(pictures[0], pictures[1])  # also at the edges of the part
    assert first.versions[0].psnr == first.versions[2].psnr and first.versions[3].psnr is None


def test_three_photographs_are_taken_and_small_ones_whole(tmp_path, photos):
    found = photo_slider.make(Run(tmp_path / "run"), photos, {"float": enlarge}, 2)
    assert [view.photograph for view in found.views] == ["0", "1", "2"]
    assert (found.views[1].width, found.views[1].height) == (72, 60)


def test_a_file_of_one_size_sees_whole_photographs(tmp_path, photos):
    seen = []

    def watch(low):
        seen.append(low.shape[:2])
        return enlarge(low)

    photo_slider.make(Run(tmp_path / "run"), photos[:1], {"quantized": watch}, 2, whole=True)
    assert seen == [(200, 300)]


def test_equal_images_count_as_the_most(tmp_path, photos):
    flat = np.full((60, 60, 3), 9, np.uint8)
    image_files.write(photos[1].high, flat)
    (view,) = photo_slider.make(Run(tmp_path / "run"), photos[1:2], {}, 2).views
    assert view.versions[0].psnr == MOST


def test_a_run_without_crops_has_none(tmp_path):
    assert photo_slider.load(Run(tmp_path)) is None


def test_crops_of_before_do_not_stay(tmp_path, photos):
    run = Run(tmp_path / "run")
    photo_slider.make(run, photos, {"float": enlarge}, 2)
    photo_slider.make(run, photos[:1], {}, 2)
    assert len(list((run.folder / "crops").glob("*.webp"))) == 2
