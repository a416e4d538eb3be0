"""Checks that photographs enlarged in tiles equal those that are enlarged whole."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from quantnas.architectures import cost, network, registry
from quantnas.config import genotype, search_space
from quantnas.data import image_files, patches
from quantnas.errors import DataError
from quantnas.exporters import onnx_export
from quantnas.inference import receptive_field
from quantnas.inference.receptive_field import ReceptiveField
from quantnas.inference.tiling import (
    SIDE,
    Enlarged,
    Network,
    Tiling,
    enlarge,
    load,
    plan,
    spans,
    upscaler,
)
from quantnas.quantization import post_training
from quantnas.runs import bundled_models

PHOTO = image_files.read(image_files.bundled().held_out[0])


def run(found: Network, low: np.ndarray, *tiling: int | None) -> Enlarged:
    steps = enlarge(found, low, Tiling(*tiling))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def off(found: Network, low: np.ndarray, *tiling: int | None) -> int:
    """Largest difference between an image enlarged in tiles and enlarged whole."""
    whole = run(found, low, 0).image
    assert np.array_equal(whole, found.whole(low))
    return int(np.abs(run(found, low, *tiling).image.astype(int) - whole).max())


def built(
    space: search_space.SearchSpace, found: genotype.Genotype, bits: int, tmp_path: Path
) -> Path:
    """An exported file of a small network with these bit widths."""
    slots = list(registry.slots(space))
    precision = genotype.uniform_precision(slots, bits, bits)
    net = network.build(space, found, precision)
    network.initialise(net, patches.to_tensor(PHOTO[None, :24, :24]))
    totals = cost.total(cost.layers(slots, found, precision, space.scale), space.scale)
    onnx_export.to_onnx(post_training.freeze(net), totals, space.scale, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


# Receptive field


@pytest.mark.parametrize("skeleton_", ["tiny", "apart", "basic", "edsr"])
def test_the_reach_is_where_a_changed_pixel_shows(small, random_genotype, skeleton_):
    """Pixels beyond the receptive field have no effect, and it is not much too large.

    3x1 and 1x3 kernels in a row count twice.
    """
    space = small[skeleton_]
    net = network.build(space, random_genotype(space, 1), None).eval()
    found, side = receptive_field.of_network(net), 61
    x = torch.rand(1, 3, side, side, requires_grad=True)
    middle = space.scale * (side // 2)
    net(x)[0, :, middle : middle + space.scale, middle : middle + space.scale].sum().backward()
    seen = x.grad.abs().sum((0, 1)).nonzero()
    farthest = int((seen - side // 2).abs().max())
    assert farthest <= found.pixels <= 2 * farthest


def test_the_reach_of_known_networks(small, random_genotype):
    fixed = {name: search_space.load(name, 4) for name in ("edsr_baseline", "imdn", "rfdn50")}
    found = {
        name: receptive_field.of_network(network.build(space, random_genotype(space, 0), None))
        for name, space in fixed.items()
    }
    assert found["edsr_baseline"] == ReceptiveField(
        36
    )  # 35 convolutions, then at 2 and 4 times the size
    assert found["imdn"] == ReceptiveField(1 + 4 * 6 + 2, whole=True)
    assert found["rfdn50"] == ReceptiveField(
        1 + 4 * (4 + receptive_field.ATTENTION) + 2, attention=True
    )


@pytest.mark.parametrize("name", ["tiny", "rfdn_published", "imdn", "edsr"])
def test_file_and_network_have_one_reach(small, random_genotype, tmp_path, name):
    space = small[name]
    found = random_genotype(space, 2)
    file = receptive_field.of_file(built(space, found, 8, tmp_path))
    assert file == receptive_field.of_network(network.build(space, found, None))


@pytest.mark.parametrize(("full", "origin", "size"), [(50, 0, 50), (37, 0, 37), (15, 0, 15)])
def test_stretching_the_whole_is_bilinear(full, origin, size):
    cells = search_space.pooled(full)
    x = torch.rand(1, 2, cells, cells)
    matrix = torch.from_numpy(receptive_field.stretching(full, origin, size))
    wanted = F.interpolate(x, (full, full), mode="bilinear", align_corners=False)
    assert torch.allclose(receptive_field.stretch(x, matrix, matrix.T), wanted, atol=1e-5)


def test_stretching_a_part_gives_that_part():
    whole = receptive_field.stretching(100, 0, 100)
    part = receptive_field.stretching(100, 30, 60)  # cells 5 to 5 + pooled(60)
    cells = slice(5, 5 + search_space.pooled(60))
    assert np.allclose(part[12:40], whole[42:70, cells], atol=1e-5)


# Tiles


@pytest.mark.parametrize(
    ("length", "side", "overlap"), [(1, 1, 0), (7, 3, 2), (100, 33, 9), (40, 0, 5)]
)
@pytest.mark.parametrize("attention", [False, True])
def test_spans_cover_an_axis_once(length, side, overlap, attention):
    length += 14 * attention
    found = spans(length, side, overlap, ReceptiveField(0, attention))
    assert [n for s in found for n in range(s.start, s.stop)] == list(range(length))
    for s in found:
        assert 0 <= s.first <= max(0, s.start - overlap)
        assert min(length, s.stop + overlap) <= s.last <= length
        assert not attention or (s.first % 6 == 0 and s.last - s.first >= 15)
        assert side == 0 or s.stop - s.start <= side


def test_tiled_equals_whole_for_a_bundled_model():
    found = load(bundled_models.bundled()["plain-x4"], 4)
    assert off(found, PHOTO[:97, :121], 40) == 0
    result = run(found, PHOTO[:97, :121], 40, 1)
    assert result.seam > 0  # it tells when the overlap is too small


def test_tiled_equals_whole_for_random_sizes(tiny, random_genotype, tmp_path):
    found = load(built(tiny, random_genotype(tiny, 0), 4, tmp_path), tiny.scale)
    rng = np.random.default_rng(0)
    for height, width, side in rng.integers((5, 5, 4), (60, 60, 30), (6, 3)):
        low = PHOTO[:height, :width]
        assert off(found, low, int(side)) == 0 and run(found, low, int(side)).seam == 0


@pytest.mark.parametrize(("height", "width", "side"), [(97, 83, 40), (64, 101, 17), (15, 90, 30)])
def test_tiled_is_within_a_level_for_attention(small, random_genotype, height, width, side):
    space = small["rfdn_published"]
    net = network.build(space, random_genotype(space, 0), None)
    found = load(net, space.scale)
    assert found.receptive_field.attention
    assert off(found, PHOTO[:height, :width], side) <= 1


def test_tiled_is_within_a_level_for_attention_in_a_file(small, random_genotype, tmp_path):
    space = small["rfdn_published"]
    file = built(space, random_genotype(space, 0), 8, tmp_path)
    found = load(file, space.scale)
    assert off(found, PHOTO[:97, :83], 40, 60) <= 1
    assert run(found, PHOTO[:97, :83], 40, 60).seam <= 1


def fake(found: ReceptiveField, sizes: list[tuple[int, int]]) -> Network:
    """A network that repeats pixels and records the sizes of its inputs."""

    def whole(low: np.ndarray) -> np.ndarray:
        sizes.append(low.shape[:2])
        return low.repeat(2, 0).repeat(2, 1)

    return Network(2, whole, found, lambda: lambda low, rows, columns: whole(low))


@pytest.mark.parametrize("kind", [ReceptiveField(25), ReceptiveField(67, attention=True)])
def test_no_tile_is_larger_than_the_memory_allows(kind):
    sizes: list[tuple[int, int]] = []
    low = np.random.default_rng(0).integers(0, 256, (1300, 700, 3), np.uint8)
    assert np.array_equal(run(fake(kind, sizes), low).image, low.repeat(2, 0).repeat(2, 1))
    most = SIDE + (receptive_field.GRID if kind.attention else 0)
    assert max(map(max, sizes)) <= most and len(sizes) == len(plan(1300, 700, kind, Tiling()))


def test_small_photographs_and_those_of_global_networks_stay_whole():
    for found, side in ((ReceptiveField(25), 512), (ReceptiveField(27, whole=True), 1024)):
        assert len(plan(side, side, found, Tiling())) == 1
        assert len(plan(side, side + 1, found, Tiling())) > 1
    assert len(plan(5000, 5000, ReceptiveField(25), Tiling(0))) == 1


def test_the_seam_is_the_difference_of_neighbours():
    """The fake network gives every tile a constant brightness that grows from tile to tile."""
    count = iter(range(0, 250, 5))
    whole = lambda low: np.full((low.shape[0], low.shape[1], 3), next(count), np.uint8)  # noqa: E731
    found = Network(
        1, whole, ReceptiveField(1, whole=True), lambda: pytest.fail("no part is needed")
    )
    assert run(found, np.zeros((4, 6, 3), np.uint8), 2).seam == 15  # three tiles in a row


def test_a_photograph_too_small_for_attention_is_mirrored(small, random_genotype):
    space = small["rfdn_published"]
    found = load(network.build(space, random_genotype(space, 0), None), space.scale)
    low = PHOTO[:8, :20]
    mirrored = np.concatenate([low, low[::-1]])[:15]
    wanted = found.whole(mirrored)[: 8 * space.scale]
    assert np.array_equal(upscaler(found)(low), wanted)
    assert upscaler(found)(PHOTO[:1, :1]).shape == (space.scale, space.scale, 3)


def test_a_failing_part_is_one_clear_sentence():
    def fail(*arguments: object) -> np.ndarray:
        raise RuntimeError("no memory")

    found = Network(2, fail, ReceptiveField(3, attention=True), lambda: fail)
    with pytest.raises(DataError, match="cannot enlarge 46x46 pixels: no memory"):
        run(found, PHOTO[:80, :80], 40, 6)
