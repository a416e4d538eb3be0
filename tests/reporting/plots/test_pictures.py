"""Checks that the pictures are written, show every layer, and crop where images differ."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from quantnas.architectures import cost, network, registry
from quantnas.config import search_space
from quantnas.config.genotype import Choice, Genotype, searched_precision
from quantnas.config.search_space import Precision
from quantnas.data import image_files
from quantnas.evaluation import metrics
from quantnas.reporting.plots import architecture_diagram, crop_strip, layered_layout, schematic
from quantnas.reporting.plots.layered_layout import Node

WIDTHS = (2, 3, 4, 8)
OPS = ("conv3x3", "growth3x3", "conv5x5_groups2", "conv1x1")


Decided = tuple[nn.Module, search_space.SearchSpace, list[cost.Layer]]


def decided(cells: int = 2, scale: int = 2) -> Decided:
    """Return a network with every bit width and with operations of one and two convolutions."""
    shipped = search_space.load("rfdn_small", scale=scale)
    where = dataclasses.replace(shipped, cells=cells)
    slots = registry.slots(where)
    choices, precision = {}, {}
    for i, slot in enumerate(slots):
        searched = len(slot.ops) > 1
        bits = WIDTHS[i % 4]
        choices[slot.name] = Choice(OPS[i % 4] if searched else slot.ops[0], bits, 8)
        precision[slot.name] = Precision(bits, 8)
    return built(where, Genotype(where.name, choices), precision)


def built(
    where: search_space.SearchSpace, found: Genotype, precision: dict[str, Precision] | None = None
) -> Decided:
    """Return the arguments of a picture; `precision` may have bit widths outside of the space."""
    precision = precision or searched_precision(found)
    layers = cost.layers(registry.slots(where), found, precision, where.scale)
    return registry.build(where, network.NetworkFactory(found, precision)), where, layers


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 200, (height, width, 3), dtype=np.uint8)


# The network


def usual(name: str) -> Decided:
    """Return a built-in space with its last operation and bit width on every edge."""
    where = search_space.load(name)
    slots = registry.slots(where)
    last = {slot.name: (slot.ops[-1], slot.bit_widths[-1]) for slot in slots}
    choices = {key: Choice(op, w.weights, w.activations) for key, (op, w) in last.items()}
    return built(where, Genotype(name, choices))


FEW = ("basic", "fsrcnn", "imdn", "plain", "rfdn", "rfdn50", "rfdn_small")


@pytest.mark.parametrize("cells", [1, 3])
def test_every_convolution_is_drawn(cells):
    net, where, layers = decided(cells)
    found = texts(architecture_diagram.architecture_figure(net, where, layers))
    slots = registry.slots(where)
    for name in ("head", "smooth", "upsample", "LR image", "SR image", "pixel shuffle x2"):
        assert found.count(name) == 1
    for kind in ("body0", "body1", "body2", "body3", "distill0", "distill1", "distill2"):
        assert found.count(kind) == cells
    assert found.count("fuse") == cells + 1 == found.count("concatenate") + (cells == 1)
    assert [name for name in found if name.startswith("cell")] == [f"cell{k}" for k in range(cells)]
    ops = {layer.name.split(".")[0]: layer.op for layer in layers}
    assert len(ops) == len(slots)
    for op, short in zip(OPS, ("3x3", "growth 3x3", "5x5 g2", "1x1"), strict=True):
        assert found.count(short) == list(ops.values()).count(op) > 0
    assert sum("→" in text for text in found) == len(layers) > len(slots)
    for bits in WIDTHS:
        drawn = found.count(f"w{bits} a8")
        assert drawn == sum(layer.weight_bits == bits for layer in layers)
        assert f"{bits} bits" in found


def test_channels_count_all_groups_and_shares_add_up():
    net, where, layers = decided()
    found = texts(architecture_diagram.architecture_figure(net, where, layers))
    grouped = next(layer for layer in layers if layer.op == "conv5x5_groups2")
    assert grouped.shape[1] == 8
    assert not any(text.startswith("8→") for text in found)
    assert f"16→{grouped.shape[0]}" in found
    percents = [text for text in found if text.endswith("%")]
    assert len(percents) == len(layers)
    assert sum(float(text.rstrip("%")) for text in percents) == pytest.approx(100, abs=2)


def test_channels_by_themselves_and_edges_without_convolution_are_drawn():
    _, where, layers = decided()
    bits = {layer.name.partition(".")[0]: layer.op for layer in layers}
    bits |= {"cell0_body0": "separable3x3", "cell0_body1": "identity"}
    found = Genotype(where.name, {name: Choice(op, 4, 8) for name, op in bits.items()})
    shown = texts(architecture_diagram.architecture_figure(*built(where, found)))
    assert not any(text.startswith("1→") for text in shown)
    assert shown.count("separable 3x3") == shown.count("identity") == 1


def test_the_title_has_the_totals():
    net, where, layers = decided(scale=4)
    found = texts(architecture_diagram.architecture_figure(net, where, layers))
    parameters = sum(layer.parameters for layer in layers)
    bitops = sum(layer.bitops for layer in layers) / 1e9
    assert "rfdn_small, x4" in found
    assert any(f"{parameters:,} parameters" in text for text in found)
    assert any(f"{bitops:.3f} GBitOps at LR 32x32" in text for text in found)


@pytest.mark.parametrize("name", FEW)
def test_nothing_is_cut_off_and_no_texts_overlap(name):
    figure = architecture_diagram.architecture_figure(*usual(name))
    shown = [text for text in figure.axes[0].texts if text.get_text()]
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = np.array([text.get_window_extent(renderer).extents for text in shown])
    assert (boxes[:, :2] > 0).all()
    assert (boxes[:, 2:] < figure.bbox.size).all()
    common = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(
        boxes[:, None, :2], boxes[:, :2]
    )
    overlap = (common[:, :, 0] > 0) & (common[:, :, 1] > 6)  # lines may touch where they are empty
    assert np.argwhere(np.triu(overlap, 1)).tolist() == []


def test_symbols_read_what_the_network_computes_with():
    net, _, layers = usual("imdn")
    slots = {layer.name for layer in layers}
    found = {s.key: s for s in schematic.symbols(net, slots)}
    assert slots < set(found)
    assert found["cell0_body1"].sources == ("cell0_body0",)
    assert found["cell0_body0"].after == "LeakyReLU" and found["cell0_body0"].label == "body0"
    (scaled,) = (s for s in found.values() if s.label == "*" and s.group == "cell0")
    assert scaled.sources[1] == "cell0_cca_expand" and scaled.is_sign
    assert found[scaled.sources[0]].label == "concatenate"
    net, _, layers = usual("basic")
    basic = {s.key: s for s in schematic.symbols(net, {layer.name for layer in layers})}
    assert basic["cell0_skip"].before == "ReLU"  # the sum reads the same tensor without it


def graph(pairs: dict[str, str], sign: str = "") -> list[Node]:
    """Return nodes named by a letter each, from node -> letters of the nodes that it reads."""
    return [Node(key, tuple(read), 40, is_sign=key in sign) for key, read in pairs.items()]


def test_the_longest_path_runs_straight_and_wires_avoid_nodes():
    nodes = graph({"a": "", "b": "a", "c": "a", "d": "b", "e": "dc", "f": "ea"}, "f")
    layout = layered_layout.arranged(nodes, 1000, shape=0.2)
    xs = {key: x for key, (x, _) in layout.places.items()}
    assert xs["a"] == xs["b"] == xs["d"] == xs["e"] == xs["f"] < xs["c"]
    assert layout.places["b"][1] == layout.places["c"][1]
    assert {(w.source, w.target) for w in layout.wires if w.in_lane} == {("c", "e"), ("a", "f")}
    for wire in layout.wires:
        for (x0, y0), (x1, y1) in zip(wire.points, wire.points[1:], strict=False):
            assert x0 == x1 or y0 == y1
            for key in set(xs) - {wire.source, wire.target}:
                x, y = layout.places[key]
                half = layered_layout.COLUMN / 2
                beside = max(x0, x1) <= x - half or min(x0, x1) >= x + half
                assert beside or max(y0, y1) <= y - 20 or min(y0, y1) >= y + 20


def test_a_long_graph_goes_on_in_the_next_column_of_the_page():
    keys = [chr(97 + i) for i in range(20)]
    chain = graph(dict(zip(keys, ["", *keys], strict=False)))
    layout = layered_layout.arranged(chain, 1000, shape=1)
    assert len({x for x, _ in layout.places.values()}) > 1
    assert 0.5 < layout.width / layout.height < 2
    narrow = layered_layout.arranged(chain, 300, shape=1)
    assert narrow.width <= 300


def test_the_file_is_as_large_as_the_figure_and_the_same_every_time(tmp_path):
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    for path in (first, second):
        architecture_diagram.architecture(*decided(1), path)
    picture = image_files.read(first)
    width, height = architecture_diagram.architecture_figure(*decided(1)).get_size_inches() * 150
    assert picture.shape[1] >= 1200
    assert picture.shape == pytest.approx((height, width, 3), abs=1)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(tmp_path.iterdir()) == [first, second]  # nothing temporary is left


def test_bits_are_told_apart_by_brightness_and_text_stays_readable():
    faces = [architecture_diagram._face(bits) for bits in (1, *WIDTHS, 16)]
    light = [0.3 * r + 0.59 * g + 0.11 * b for r, g, b, _ in faces]
    assert light == sorted(light, reverse=True)
    assert len(set(faces[1:])) == 5
    assert [architecture_diagram._ink(face) == "white" for face in faces] == [False] * 4 + [
        True
    ] * 2


# The crops


def planted(top: int, left: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy image with a brighter square of 24 pixels, and the same without it."""
    original = noise(120, 160)
    spoilt = original.copy()
    spoilt[top : top + 24, left : left + 24] += 40
    return spoilt, original


@pytest.mark.parametrize("corner", [(0, 0), (33, 70), (96, 136)])
def test_the_region_is_where_the_difference_is(corner):
    assert crop_strip.region(*planted(*corner), side=24) == corner


def test_the_region_is_inside_and_equal_images_have_one():
    spoilt, original = planted(96, 136)
    top, left = crop_strip.region(spoilt, original, 72)
    assert (top, left) == (120 - 72, 160 - 72)
    assert crop_strip.region(original, original, 120)[0] == 0


def test_crops_show_the_pixels_magnified_with_their_psnr(tmp_path):
    spoilt, original = planted(30, 50)
    versions = {"bicubic": spoilt, "float": noise(120, 160, 1), "original": original}
    crop_strip.crops(versions, 2, "gravel", tmp_path / "crop.png", side=40)
    picture = image_files.read(tmp_path / "crop.png")
    top, left = crop_strip.region(spoilt, original, 40)
    for i, version in enumerate(versions.values(), 1):
        x = 14 + i * (160 + 14)
        shown = picture[14 : 14 + 160, x : x + 160]
        crop = version[top : top + 40, left : left + 40]
        assert np.array_equal(shown, crop.repeat(4, 0).repeat(4, 1))
    found = texts(crop_strip.crops_figure(versions, 2, "gravel", 40))
    assert {"gravel", *versions} < set(found)
    assert f"{metrics.psnr_y(spoilt, original, 2):.2f} dB" in found
    assert sum(text.endswith(" dB") for text in found) == 2


def test_the_overview_marks_the_region():
    figure = crop_strip.crops_figure(dict(zip("ab", planted(0, 136), strict=True)), 2, "x", 24)
    frames = {patch.get_bbox().bounds for patch in figure.axes[0].patches}
    assert frames == {(14 + 136, 14 + 20, 24, 24)}  # 160x120 as it is, in a square of 160


def test_odd_input_is_drawn(tmp_path: Path):
    small = noise(20, 31)
    name = "a very long name of a photograph with $x_{ and \u4e2d\u6587.png"
    versions = {"bicubic": small, "equal": small.copy(), "original": small}
    crop_strip.crops(versions, 3, name, tmp_path / "crop.png")
    assert image_files.read(tmp_path / "crop.png").shape == (14 + 160 + 58, 14 + 4 * 174, 3)
    assert "equal to the original" in texts(crop_strip.crops_figure(versions, 3, name))
