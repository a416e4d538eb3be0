"""Checks PSNR and SSIM against known values, scikit-image and the published bicubic tables."""

import math
from pathlib import Path

import numpy as np
import pytest

from quantnas.data import bicubic, image_files
from quantnas.evaluation import metrics

BICUBIC_PSNR = {
    "set5": {2: 33.673, 3: 30.403, 4: 28.429},
    "set14": {2: 30.325, 3: 27.631, 4: 26.088},
    "b100": {2: 29.560, 3: 27.209, 4: 25.961},
}


def noise(seed: int, height: int = 40, width: int = 33) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def bicubic_psnr(path: Path, scale: int) -> float:
    high = bicubic.crop_to_multiple(image_files.read(path), scale)
    low = bicubic.downscale(high, scale)
    return metrics.psnr_y(bicubic.upscale(low, scale), high, scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["set5", "set14", pytest.param("b100", marks=pytest.mark.slow)])
def test_bicubic_table(shared_data, name, scale):
    values = [bicubic_psnr(path, scale) for path in image_files.find(shared_data / "test" / name)]
    assert np.mean(values) == pytest.approx(BICUBIC_PSNR[name][scale], abs=0.001)


def test_luma_has_studio_range_and_is_not_rounded():
    corners = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 1]]], np.uint8)
    expected = [[16.0, 235.0, 81.481, 16 + 24.966 / 255]]
    np.testing.assert_allclose(metrics.luma(corners), expected, rtol=1e-12)


def test_psnr_of_a_known_difference():
    a = np.full((8, 8, 3), 100, np.uint8)
    step = 10 * 219 / 255  # ten grey levels in luma
    assert metrics.psnr_y(a, a + np.uint8(10), 2) == pytest.approx(20 * math.log10(255 / step))


def test_equal_images_have_the_best_values():
    assert metrics.psnr_y(noise(0), noise(0), 3) == math.inf
    assert metrics.ssim_y(noise(0), noise(0), 3) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("metric", metrics.METRICS.values(), ids=metrics.METRICS)
def test_metrics_are_symmetric_and_leave_the_border_out(metric):
    a, b, changed = noise(0), noise(1), noise(1)
    changed[:3], changed[-3:], changed[:, :3], changed[:, -3:] = 0, 9, 99, 255
    assert metric(a, b, 3) == metric(b, a, 3) == metric(a, changed, 3)
    assert metric(a, b, 2) != metric(a, changed, 2)


def test_ssim_of_flat_images_is_the_luminance_term():
    dark, light = np.zeros((11, 11, 3), np.uint8), np.full((11, 11, 3), 255, np.uint8)
    c1 = 2.55**2
    expected = (2 * 16 * 235 + c1) / (16**2 + 235**2 + c1)
    assert metrics.ssim_y(dark, light, 0) == pytest.approx(expected, rel=1e-9)


def spoilt(high: np.ndarray, how: str) -> np.ndarray:
    """A degraded copy of an image, which is compared with the original."""
    if how == "noise":
        rng = np.random.default_rng(0)
        return np.clip(high + rng.normal(0, 12, high.shape), 0, 255).astype(np.uint8)
    scale = int(how.removeprefix("x"))
    small = bicubic.crop_to_multiple(high, scale)
    return bicubic.resize(bicubic.downscale(small, scale), *high.shape[:2], antialias=False)


@pytest.mark.parametrize("how", ["x2", "x4", "noise"])
@pytest.mark.parametrize(("index", "cut"), [(0, (288, 432)), (1, (101, 64)), (3, (23, 190))])
def test_ssim_equals_scikit_image(index, cut, how):
    """SSIM is that of MATLAB: an 11x11 Gaussian window (truncated at 3.5 sigma), valid region only.

    scikit-image reflects the image at its edges instead: 5 pixels less on each side are the same.
    """
    library = pytest.importorskip("skimage.metrics")
    high = image_files.read(image_files.bundled().held_out[index])[: cut[0], : cut[1]]
    rebuilt, border = spoilt(high, how), 4
    inside = np.s_[border : high.shape[0] - border, border : high.shape[1] - border]
    _, full = library.structural_similarity(
        metrics.luma(high[inside]),
        metrics.luma(rebuilt[inside]),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    expected = full[5:-5, 5:-5].mean()
    assert expected < 0.999
    assert metrics.ssim_y(high, rebuilt, border) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", metrics.METRICS.values(), ids=metrics.METRICS)
def test_metrics_refuse_what_they_cannot_compare(metric):
    with pytest.raises(ValueError, match="differ in shape"):
        metric(noise(0), noise(0)[:-1], 0)
    with pytest.raises(ValueError, match="expected uint8"):
        metric(noise(0) / 255.0, noise(0) / 255.0, 0)
    for border in (-1, 17):
        with pytest.raises(ValueError, match="leaves nothing"):
            metric(noise(0), noise(0), border)


def test_ssim_needs_one_window():
    with pytest.raises(ValueError, match="11x11"):
        metrics.ssim_y(noise(0, 16, 40), noise(1, 16, 40), 3)
