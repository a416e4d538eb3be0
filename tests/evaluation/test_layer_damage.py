"""Checks the measured damage of a layer against a second way to compute it."""

import json

import numpy as np
import pytest
import torch

from quantnas.architectures import network, registry
from quantnas.config.search_space import Precision
from quantnas.data import photographs
from quantnas.evaluation import layer_damage
from quantnas.evaluation.layer_damage import Damages, Measured, rows
from quantnas.quantization import bit_widths, post_training
from quantnas.runs import networks, run_folder


@pytest.fixture
def measured(source):
    """(run, float network, measured damages)."""
    run = run_folder.existing(source)
    space, found = networks.architecture(run)
    teacher = network.build(space, found, None)
    network.load(teacher, run.weights("float"), space)
    photos = photographs.find(str(source.parents[1] / "photos"), space.scale)
    net = networks.quantized(run)[1]
    return run, teacher, layer_damage.measure(run, photos, teacher, net, side=16)


def test_every_slot_is_measured_and_kept(measured):
    run, _, found = measured
    precision = bit_widths.load(run.folder)
    assert [row.slot for row in found.slots] == list(precision)
    assert all(row.measured > 0 and row.fitted > 0 and row.predicted is None for row in found.slots)
    assert (found.crops, found.height, found.width) == (8, 16, 16)
    assert layer_damage.load(run) == found
    bits = {row.slot: Precision(row.weights, row.activations) for row in found.slots}
    assert bits == precision


def test_one_slot_alone_is_rounded(measured):
    """The damage equals that of rounding a single layer's weights in the float network by hand."""
    run, teacher, found = measured
    space, _ = networks.architecture(run)
    photos = photographs.find(str(run.folder.parents[1] / "photos"), space.scale)
    low = layer_damage.crops(photos, space, 16, 8)
    net = networks.quantized(run)[1]
    network.inherit(net, teacher)
    part = network.convolutions(net)["head"]
    with torch.no_grad():
        wanted, plain = post_training.mean_outputs(teacher, low)["head"], teacher(low)
        conv = network.convolutions(teacher)["head"]
        conv.weight.copy_(part.rounded_weight())  # pixels lie on their grid already
        conv.bias.copy_(part.bias)
        conv.bias.add_(wanted - post_training.mean_outputs(teacher, low)["head"])
        error = float((teacher(low) - plain).square().mean())
    head = next(row for row in found.slots if row.slot == "head")
    assert head.measured == pytest.approx(error, rel=1e-3)


def test_the_networks_stay_what_they_were(measured):
    run, teacher, _ = measured
    space, genotype = networks.architecture(run)
    fresh = network.build(space, genotype, None)
    network.load(fresh, run.weights("float"), space)
    low = torch.rand(1, 3, 9, 11)
    assert torch.equal(fresh.eval()(low), teacher(low))


@pytest.mark.parametrize("name", ["tiny", "apart", "basic", "edsr", "imdn", "rfdn_published"])
def test_every_skeleton_can_be_measured(small, random_genotype, pixels, name):
    """Rounding each layer has an effect, and much more at 2 bits than at 8."""
    space, low = small[name], pixels(2, 24, 26)
    found = random_genotype(space, 1)
    teacher = network.build(space, found, None)
    slots, errors = registry.slots(space), []
    for bits in (2, 8):
        precision = {slot.name: Precision(bits, 8) for slot in slots}
        net = network.build(space, found, precision)
        network.inherit(net, teacher)
        network.initialise(net, low)
        errors.append([row.fitted for row in rows(teacher, net, low, precision, {})])
    coarse, fine = map(np.asarray, errors)
    assert len(coarse) == len({layer.partition(".")[0] for layer in network.convolutions(teacher)})
    assert np.isfinite(coarse).all() and (coarse > 5 * fine)[coarse > 1e-12].all()  # above noise


def test_predictions_stand_beside(source):
    run = run_folder.existing(source)
    (slot, width), *_ = bit_widths.load(source).items()
    options = [{"weights": b, "activations": width.activations} for b in (2, width.weights)]
    row = {"slot": slot, "options": options, "mse": [1.0, 0.25]}
    (source / "damage.json").write_text(json.dumps([row]))
    assert layer_damage.predictions(run)[slot][width] == 0.25


def test_crops_are_no_larger_than_the_photographs(source, tiny):
    photos = photographs.find(str(source.parents[1] / "photos"), 2)
    low = layer_damage.crops(photos, tiny, 512, 5)
    assert low.shape == (4, 3, 30, 36) or low.shape == (5, 3, 30, 36)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 99], 1.0),
        ([1, 2, 3, 4], [9, 7, 5, 1], -1.0),
        ([1, 2, 2, 3], [1, 3, 2, 4], 0.9487),
        ([1, 1, 1], [1, 2, 3], None),
        ([1, 2], [1, 2], None),
    ],
)
def test_the_rank_correlation_is_spearmans(first, second, expected):
    found = layer_damage.rank_correlation(first, second)
    assert found == (expected and pytest.approx(expected, abs=1e-4))


def test_the_sentence_says_how_well_they_agree():
    slots = tuple(Measured(f"s{i}", 4, 4, 10.0**-i, 2 * 10.0**-i, 10.0**-i) for i in range(5))
    words = layer_damage.sentence(Damages(2, 8, 8, slots, 1.0, 0.5))
    assert "over 5 layers: 1.00 on" in words and "0.50 on grids fitted" in words
    assert "too few" in layer_damage.sentence(Damages(2, 8, 8, slots[:2], None, None))
