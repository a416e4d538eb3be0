"""Checks that the pictures are written, show every layer, and crop where images differ."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from quantnas import cost, crops, diagram, images, metrics, skeleton, space
from quantnas.genotype import Choice, Genotype
from quantnas.space import Precision

WIDTHS = (2, 3, 4, 8)
OPS = ("conv3x3", "growth3x3", "conv5x5_groups2", "conv1x1")


def decided(cells: int = 2, scale: int = 2) -> tuple[space.SearchSpace, list[cost.Layer]]:
    """A network with every width and, among its operations, some of two convolutions."""
    shipped = space.load("rfdn_small", scale=scale)
    where = dataclasses.replace(shipped, cells=cells)
    slots = skeleton.slots(where)
    choices, precision = {}, {}
    for i, slot in enumerate(slots):
        searched = len(slot.ops) > 1
        bits = WIDTHS[i % 4]
        choices[slot.name] = Choice(OPS[i % 4] if searched else slot.ops[0], bits, 8)
        precision[slot.name] = Precision(bits, 8)
    return where, cost.layers(slots, Genotype(where.name, choices), precision, scale)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 200, (height, width, 3), dtype=np.uint8)


# The network


@pytest.mark.parametrize("cells", [1, 3])
def test_every_convolution_is_drawn(cells):
    where, layers = decided(cells)
    found = texts(diagram.architecture_figure(where, layers))
    slots = skeleton.slots(where)
    for name in ("head", "smooth", "upsample"):
        assert found.count(name) == 1
    for kind in ("body0", "body1", "body2", "body3", "distill0", "distill1", "distill2"):
        assert found.count(kind) == cells
    assert found.count("fuse") == cells + 1
    assert [name for name in found if name.startswith("cell")] == [f"cell{k}" for k in range(cells)]
    ops = {layer.name.split(".")[0]: layer.op for layer in layers}
    assert len(ops) == len(slots)
    for op, short in zip(OPS, ("3x3", "growth 3x3", "5x5 g2", "1x1"), strict=True):
        assert found.count(short) == list(ops.values()).count(op) > 0
    assert sum("→" in text for text in found) == len(layers) > len(slots)
    for bits in WIDTHS:
        drawn = sum(text.startswith(f"w{bits} a8") and ":" not in text for text in found)
        assert drawn == sum(layer.weight_bits == bits for layer in layers)
        assert f"{bits} bits" in found


def test_channels_count_all_groups_and_shares_add_up():
    where, layers = decided()
    found = texts(diagram.architecture_figure(where, layers))
    grouped = next(layer for layer in layers if layer.op == "conv5x5_groups2")
    assert grouped.shape[1] == 8
    assert not any(text.startswith("8→") for text in found)
    assert f"16→{grouped.shape[0]}" in found
    percents = [text.split()[-1] for text in found if text.endswith("%") and ":" not in text]
    assert len(percents) == len(layers)
    assert sum(float(text.rstrip("%")) for text in percents) == pytest.approx(100, abs=2)


def test_channels_by_themselves_and_edges_without_convolution_are_drawn():
    where, layers = decided()
    first = next(layer for layer in layers if layer.name == "cell0_body0")
    pair = [
        dataclasses.replace(first, name="cell0_body0.0", op="separable3x3", shape=(16, 1, 3, 3)),
        dataclasses.replace(first, name="cell0_body0.1", op="separable3x3", shape=(16, 16, 1, 1)),
    ]
    others = [la for la in layers if la.name.partition(".")[0] not in ("cell0_body0", "upsample")]
    found = texts(diagram.architecture_figure(where, [*pair, *others]))
    assert not any(text.startswith("1→") for text in found)
    assert "upsample" in found and "identity" in found


def test_the_title_has_the_totals():
    where, layers = decided(scale=4)
    found = texts(diagram.architecture_figure(where, layers))
    parameters = sum(layer.parameters for layer in layers)
    bitops = sum(layer.bitops for layer in layers) / 1e9
    assert "rfdn_small, x4" in found
    assert any(f"{parameters:,} parameters" in text for text in found)
    assert any(f"{bitops:.3f} GBitOps at LR 32x32" in text for text in found)


def test_nothing_is_cut_off_and_no_texts_overlap():
    figure = diagram.architecture_figure(*decided(1))
    shown = [text for text in figure.axes[0].texts if text.get_text()]
    boxes = np.array([text.get_window_extent().extents for text in shown])
    assert (boxes[:, :2] > 0).all()
    assert (boxes[:, 2:] < figure.bbox.size).all()
    common = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(
        boxes[:, None, :2], boxes[:, :2]
    )
    overlap = (common[:, :, 0] > 0) & (common[:, :, 1] > 6)  # lines may touch where they are empty
    assert np.argwhere(np.triu(overlap, 1)).tolist() == []


def test_an_unknown_skeleton_becomes_a_list_of_its_layers(tmp_path):
    where, layers = decided()
    where = dataclasses.replace(where, skeleton="something else")
    found = texts(diagram.architecture_figure(where, layers))
    assert {layer.name for layer in layers} < set(found)
    diagram.architecture(where, layers, tmp_path / "list.png")
    assert images.read(tmp_path / "list.png").shape[1] == 1500


def test_the_file_is_as_large_as_the_figure_and_the_same_every_time(tmp_path):
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    for path in (first, second):
        diagram.architecture(*decided(1), path)
    picture = images.read(first)
    width, height = diagram.architecture_figure(*decided(1)).get_size_inches() * 150
    assert picture.shape[1] >= 1200
    assert picture.shape == pytest.approx((height, width, 3), abs=1)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(tmp_path.iterdir()) == [first, second]  # nothing temporary is left


def test_bits_are_told_apart_by_brightness_and_text_stays_readable():
    faces = [diagram._face(bits) for bits in (1, *WIDTHS, 16)]
    light = [0.3 * r + 0.59 * g + 0.11 * b for r, g, b, _ in faces]
    assert light == sorted(light, reverse=True)
    assert len(set(faces[1:])) == 5
    assert [diagram._ink(face) == "white" for face in faces] == [False] * 4 + [True] * 2


# The crops


def planted(top: int, left: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image, and the same with a spoilt square of 24 pixels."""
    original = noise(120, 160)
    spoilt = original.copy()
    spoilt[top : top + 24, left : left + 24] += 40
    return spoilt, original


@pytest.mark.parametrize("corner", [(0, 0), (33, 70), (96, 136)])
def test_the_region_is_where_the_difference_is(corner):
    assert crops.region(*planted(*corner), side=24) == corner


def test_the_region_is_inside_and_equal_images_have_one():
    spoilt, original = planted(96, 136)
    top, left = crops.region(spoilt, original, 72)
    assert (top, left) == (120 - 72, 160 - 72)
    assert crops.region(original, original, 120)[0] == 0


def test_crops_show_the_pixels_magnified_with_their_psnr(tmp_path):
    spoilt, original = planted(30, 50)
    versions = {"bicubic": spoilt, "float": noise(120, 160, 1), "original": original}
    crops.crops(versions, 2, "gravel", tmp_path / "crop.png", side=40)
    picture = images.read(tmp_path / "crop.png")
    top, left = crops.region(spoilt, original, 40)
    for i, version in enumerate(versions.values(), 1):
        x = 14 + i * (160 + 14)
        shown = picture[14 : 14 + 160, x : x + 160]
        crop = version[top : top + 40, left : left + 40]
        assert np.array_equal(shown, crop.repeat(4, 0).repeat(4, 1))
    found = texts(crops.crops_figure(versions, 2, "gravel", 40))
    assert {"gravel", *versions} < set(found)
    assert f"{metrics.psnr_y(spoilt, original, 2):.2f} dB" in found
    assert sum(text.endswith(" dB") for text in found) == 2


def test_the_overview_marks_the_region():
    figure = crops.crops_figure(dict(zip("ab", planted(0, 136), strict=True)), 2, "x", 24)
    frames = {patch.get_bbox().bounds for patch in figure.axes[0].patches}
    assert frames == {(14 + 136, 14 + 20, 24, 24)}  # 160x120 as it is, in a square of 160


def test_odd_input_is_drawn(tmp_path: Path):
    small = noise(20, 31)
    name = "a very long name of a photograph with $x_{ and \u4e2d\u6587.png"
    versions = {"bicubic": small, "equal": small.copy(), "original": small}
    crops.crops(versions, 3, name, tmp_path / "crop.png")
    assert images.read(tmp_path / "crop.png").shape == (14 + 160 + 58, 14 + 4 * 174, 3)
    assert "equal to the original" in texts(crops.crops_figure(versions, 3, name))
