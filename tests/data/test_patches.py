"""Checks that patches are aligned, disjoint between splits, and a function of seed and step."""

import dataclasses
import random
import threading

import numpy as np
import pytest
import torch

from quantnas.data import patches
from quantnas.data.patches import Pair, Patches
from quantnas.errors import DataError

SIZES = ((31, 47), (26, 20), (13, 90))


def coded(index: int, height: int, width: int, scale: int) -> Pair:
    """A pair whose pixels hold their own position (row, column, index), at both resolutions."""

    def plane(h: int, w: int) -> np.ndarray:
        y, x = np.mgrid[:h, :w]
        return np.stack([y, x, np.full_like(y, index)], -1).astype(np.uint8)

    return Pair(str(index), plane(height, width), plane(scale * height, scale * width))


def pairs(scale: int = 2) -> list[Pair]:
    return [coded(i, h, w, scale) for i, (h, w) in enumerate(SIZES)]


def positions(batch: torch.Tensor) -> np.ndarray:
    """Row, column and index that the pixels of a batch hold, (N, H, W, 3)."""
    return (batch * 255).round().permute(0, 2, 3, 1).numpy().astype(int)


def covered(part: Patches) -> set[tuple[int, int, int]]:
    """(pair, row, column) of all pixels in the regions of a set."""
    return {
        (r.pair, y, x)
        for r in part.regions
        for y in range(r.top, r.top + r.height)
        for x in range(r.left, r.left + r.width)
    }


@pytest.mark.parametrize("size", [4, 5, 7])
@pytest.mark.parametrize("shares", [(1, 1), (0.9, 0.1), (3, 2, 1)])
def test_splits_share_no_pixel_and_leave_none_out(size, shares):
    parts = patches.split(pairs(), size, 3, shares)
    areas = [covered(part) for part in parts]
    assert sum(map(len, areas)) == len(set.union(*areas)) == sum(h * w for h, w in SIZES)
    for part, area in zip(parts, areas, strict=True):
        for step in range(6):
            found = positions(part.batch(step, 8)[0])
            seen = {(i, y, x) for y, x, i in found.reshape(-1, 3)}
            assert seen <= area


def test_splits_have_about_their_shares():
    parts = patches.split(pairs(), 3, 0, (0.75, 0.25))
    counts = [len(part.regions) for part in parts]
    assert abs(counts[0] / sum(counts) - 0.75) <= 1 / sum(counts)


@pytest.mark.parametrize(
    "shares", [(0.9, 0.1), (0.02, 0.98), (0.98, 0.01, 0.01), (0.45, 0.01, 0.54)]
)
@pytest.mark.parametrize("count", [3, 4, 6])
def test_every_split_has_a_region_when_there_are_enough(count, shares):
    photos = [coded(i, 9, 9, 2) for i in range(count)]
    parts = patches.split(photos, 8, 0, shares)
    assert all(part.regions for part in parts)
    assert sum(len(part.regions) for part in parts) == count


def test_splits_depend_on_the_seed_alone():
    first, again, other = (patches.split(pairs(), 4, seed, (1, 1)) for seed in (0, 0, 1))
    assert first[0].regions == again[0].regions != other[0].regions


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_both_resolutions_show_the_same_place(scale):
    size, small = 5, [coded(0, 13, 17, scale), coded(1, 11, 12, scale)]
    part = patches.split(small, size, 0, (1,))[0]
    low, high = part.batch(0, 40)
    assert low.shape == (40, 3, size, size) and high.shape == (40, 3, scale * size, scale * size)
    low, high = positions(low), positions(high)
    nearest = low.repeat(scale, 1).repeat(scale, 2)
    assert (high[..., 2] == nearest[..., 2]).all()
    assert (high[..., :2] // scale == nearest[..., :2]).all()
    for step in (np.diff(high[..., :2], axis=1), np.diff(high[..., :2], axis=2)):
        assert (np.abs(step).sum(-1) == 1).all()
        assert (step == step[:, :1, :1]).all()


def test_all_eight_orientations_are_drawn():
    part = patches.split([coded(0, 12, 12, 2)], 4, 0, (1,))[0]
    low = positions(part.batch(0, 200)[0])
    orientations = {
        tuple(np.sign(p[1, 0, :2] - p[0, 0, :2])) + tuple(p[0, 1, :2] - p[0, 0, :2]) for p in low
    }
    assert len(orientations) == 8


def test_every_position_is_drawn():
    part = patches.split([coded(0, 5, 6, 2)], 4, 0, (1,))[0]
    low = positions(part.batch(0, 200)[0])
    corners = {tuple(p.reshape(-1, 3).min(0)[:2]) for p in low}
    assert corners == {(y, x) for y in range(2) for x in range(3)}


def test_a_batch_is_a_function_of_seed_and_step():
    part = patches.split(pairs(), 4, 5, (1, 1))[0]
    expected = part.batch(7, 3)
    part.batch(8, 3)
    np.random.seed(1)
    random.seed(1)
    torch.manual_seed(1)
    again = patches.split(pairs(), 4, 5, (1, 1))[0].batch(7, 3)
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert not torch.equal(part.batch(8, 3)[0], expected[0])
    other = Patches(part.pairs, part.regions, part.size, seed=6)
    assert not torch.equal(other.batch(7, 3)[0], expected[0])


def test_pixels_are_between_0_and_1():
    part = patches.split([coded(255, 9, 9, 2)], 4, 0, (1,))[0]
    for batch in part.batch(0, 2):
        assert batch.dtype == torch.float32 and (batch[:, 2] == 1).all() and batch.min() >= 0


def test_too_few_regions_are_an_error():
    with pytest.raises(DataError, match="only 1 separate regions for 8-pixel"):
        patches.split([coded(0, 12, 12, 2)], 8, 0, (1, 1))


def test_batches_are_those_of_the_steps_from_wherever_they_begin():
    part = patches.split(pairs(), 4, 5, (1, 1))[0]
    expected = [part.batch(step, 3) for step in range(9)]
    for first in (0, 1, 5, 8, 9):
        batches = list(part.batches(first, 9, 3))
        assert len(batches) == 9 - first
        for mine, theirs in zip(batches, expected[first:], strict=True):
            assert all(map(torch.equal, mine, theirs))
    assert list(part.batches(3, 2, 3)) == []


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("patches")]


@pytest.mark.parametrize("how", ["close", "let go", "end", "raise"])
def test_no_thread_outlives_its_batches(how):
    batches = patches.split(pairs(), 4, 5, (1,))[0].batches(0, 5, 2)
    next(batches)
    assert threads()
    if how == "close":
        batches.close()
    elif how == "let go":
        del batches
    elif how == "end":
        assert len(list(batches)) == 4
    else:
        with pytest.raises(KeyboardInterrupt):
            batches.throw(KeyboardInterrupt)
    assert not threads()


def test_what_fails_in_the_thread_fails_here():
    part = patches.split(pairs(), 4, 5, (1,))[0]
    broken = dataclasses.replace(part, regions=())
    with pytest.raises(ValueError):
        next(broken.batches(0, 5, 2))
    assert not threads()


def test_tensors_and_images_convert_into_one_another():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    x = patches.to_tensor(image[None])
    assert x[0, 2, 4, 6].item() == pytest.approx(image[4, 6, 2] / 255)
    assert np.array_equal(patches.to_image(x[0]), image)
    outside = torch.tensor([-0.5, 0.5, 1.7]).view(3, 1, 1)
    assert patches.to_image(outside).ravel().tolist() == [0, 128, 255]
