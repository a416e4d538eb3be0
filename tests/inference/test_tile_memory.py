"""Checks that the memory of a network decides how large its tiles are."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

from quantnas.architectures import network, onnx_survey
from quantnas.config import search_space
from quantnas.inference import tile_memory, tiling
from quantnas.inference.receptive_field import ReceptiveField
from quantnas.inference.tiling import Network, Tiling
from quantnas.runs import bundled_models

CASES = Path(__file__).parents[1] / "cases" / "third_party"


@pytest.fixture
def of(random_genotype):
    """A function that gives the bytes per pixel of EDSR with so many channels."""

    def measure(channels: int) -> float:
        space = dataclasses.replace(
            search_space.load("edsr_baseline", 2), channels=channels, cells=1
        )
        return tile_memory.of_network(network.build(space, random_genotype(space, 0), None))

    return measure


def test_memory_goes_with_the_channels(of):
    few, many = of(16), of(64)
    assert 3.5 < many / few < 4.5
    assert tile_memory.largest_side(many) < tile_memory.largest_side(few)
    # three tensors of 64 channels of float live at the same time, at least
    assert many > tile_memory.OVERHEAD * 3 * 64 * 4


def test_bundled_models_are_cut_as_before():
    for path in bundled_models.bundled().values():
        assert tile_memory.largest_side(tile_memory.of_file(path)) > tiling.SIDE


@pytest.mark.parametrize("case", ["selu", "einsum"])
@pytest.mark.parametrize("changes", [{}, {"border": 3}, {"only": (20, 24)}, {"multiple": 40}])
def test_an_imported_network_needs_about_as_much_as_its_file(case, changes):
    """Neither the border nor the size that the network takes has an effect on a pixel's share."""
    file = CASES / f"{case}.onnx"
    space = onnx_survey.survey(file).space
    net = network.build(space, onnx_survey.genotype(space), None)
    net.pixels = dataclasses.replace(space.pixels, **changes)
    assert 0.5 < tile_memory.of_network(net) / tile_memory.of_file(file) < 2


def stored_form(form: str, path: Path) -> Path:
    """The file of a bundled model, of one size, or with a stored tensor as its first input."""
    model = onnx.load(bundled_models.bundled()["plain-x2"])
    image = model.graph.input[0]
    if form == "of one size":
        for place, side in zip(image.type.tensor_type.shape.dim, (1, 3, 96, 200), strict=True):
            place.dim_value = side
    if form == "weights among the inputs":
        kept = onnx.ValueInfoProto.FromString(image.SerializeToString())
        stored = [
            onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
            for t in model.graph.initializer
        ]
        del model.graph.input[:]
        model.graph.input.extend([*stored, kept])
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("form", ["of one size", "weights among the inputs"])
def test_the_form_of_a_file_does_not_change_its_memory(form, tmp_path):
    plain = tile_memory.of_file(bundled_models.bundled()["plain-x2"])
    found = tile_memory.of_file(stored_form(form, tmp_path / "m.onnx"))
    assert found == pytest.approx(plain, rel=0.01)


@pytest.mark.parametrize("whole", [False, True])
def test_tiles_stay_within_what_there_is_memory_for(whole):
    field = ReceptiveField(7, whole=whole)
    upscale = lambda low: low.repeat(2, 0).repeat(2, 1)  # noqa: E731
    wide = Network(2, upscale, field, lambda: pytest.fail("no part"), lambda: 200)
    for y, x in tiling.tiles_of(wide, 700, 900, Tiling()):
        assert max(y.last - y.first, x.last - x.first) <= 200
    assert len(tiling.tiles_of(wide, 150, 200, Tiling())) == 1
    assert len(tiling.tiles_of(wide, 900, 900, Tiling(0))) == 1
    low = np.random.default_rng(0).integers(0, 256, (300, 260, 3), np.uint8)
    assert np.array_equal(tiling.upscaler(wide)(low), upscale(low))
