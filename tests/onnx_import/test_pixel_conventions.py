"""Checks how pixel conventions are judged from the closeness to photographs."""

import pytest

from quantnas.onnx_import import pixel_conventions
from quantnas.onnx_import.pixel_conventions import SEVERAL


class Entry:
    dtype, channels, batch = "float32", 3, None


class Imported:
    entry, scale, channels = Entry, 2, 3


@pytest.fixture
def judged(monkeypatch):
    """A function (bicubic, PSNR by convention) -> what is judged from these alone."""

    def judge(function, bicubic, psnrs, *more):
        monkeypatch.setattr(pixel_conventions, "_bicubic", lambda *_: bicubic)
        monkeypatch.setattr(
            pixel_conventions, "_psnrs", lambda _, __, peaks, turned: psnrs[peaks, turned]
        )
        return function(Imported, [], *more)

    return judge


def peaks_of(judged, bicubic, small, large):
    """White in input and output, and the reason; small, large: PSNR for 0..1 and for 0..255."""
    psnrs = {((a, b), False): [10.0] for a in (1, 255) for b in (1, 255)}
    psnrs[(1, 1), False], psnrs[(255, 255), False] = [small], [large]
    return judged(pixel_conventions._peaks, bicubic, psnrs)[:2]


@pytest.mark.parametrize(
    ("bicubic", "small", "large", "peaks", "assumed"),
    [
        (25.0, 21.2, 22.5, (1, 1), True),  # a network that sharpens
        (25.0, 21.2, 21.2 + SEVERAL + 0.1, (255, 255), False),
        (25.0, 22.5, 21.2, (1, 1), True),
        (25.0, 22.5, 12.0, (1, 1), False),
        (25.0, 26.2, 27.5, (255, 255), False),
        (25.0, 26.25, 26.3, (1, 1), False),
    ],
)
def test_the_usual_range_holds_unless_another_is_clearly_better(
    judged, bicubic, small, large, peaks, assumed
):
    found, reason = peaks_of(judged, bicubic, small, large)
    assert found == peaks and reason.startswith("assumed") == assumed
    other = large if peaks == (1, 1) else small
    assert f"{other:.1f} dB" in reason or other < 15


@pytest.mark.parametrize(
    ("bicubic", "rgb", "bgr", "order", "assumed"),
    [
        (28.0, [25.9, 25.8], [26.1, 26.0], "RGB", True),  # a network that sharpens
        (28.0, [20.0, 20.5], [26.1, 26.0], "BGR", False),
        (25.0, [25.9, 25.8], [26.1, 26.0], "BGR", False),
        (25.0, [26.1, 26.0], [25.9, 25.8], "RGB", False),
        (25.0, [26.1, 25.8], [25.9, 26.2], "RGB", True),
    ],
)
def test_red_comes_first_unless_blue_is_clearly_better(judged, bicubic, rgb, bgr, order, assumed):
    psnrs = {((1, 1), False): rgb, ((1, 1), True): bgr}
    found, reason = judged(pixel_conventions._order, bicubic, psnrs, (1, 1))
    assert found == order and reason.startswith("assumed") == assumed
    assert "dB as RGB" in reason and "dB as BGR" in reason
