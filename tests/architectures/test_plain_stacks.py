"""Checks the plain stacks: known sizes, transposed convolutions, luma, and initial outputs."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from quantnas import errors
from quantnas.architectures import cost, network, registry
from quantnas.config import genotype, search_space
from quantnas.config.genotype import Choice, Genotype, searched_precision
from quantnas.exporters import onnx_export, verification
from quantnas.nas import supernet
from quantnas.nn import image_layers
from quantnas.nn.convolutions import subpixel
from quantnas.nn.quantizers import ActQuantizer
from quantnas.quantization import post_training

STACKS = ("espcn", "fsrcnn", "quicksrnet_small", "quicksrnet_medium", "quicksrnet_large", "sesr_m5")
KNOWN = {
    ("espcn", 2): (21_284, 4.88),
    ("espcn", 4): (24_752, 1.42),
    ("fsrcnn", 2): (12_637, 2.87),
    ("fsrcnn", 4): (12_637, 0.72),
    ("quicksrnet_small", 2): (22_860, 5.24),
    ("quicksrnet_small", 4): (33_264, None),
    ("quicksrnet_medium", 2): (50_604, 11.6),
    ("quicksrnet_medium", 4): (61_008, None),
    ("quicksrnet_large", 2): (414_924, 95.4),
    ("quicksrnet_large", 4): (435_696, None),
    ("sesr_m5", 2): (17_628, 4.04),
    ("sesr_m5", 4): (32_064, None),
}
"""(Name, scale) -> (parameters, GMACs at 1280x720 output); ESPCN and FSRCNN work on luma."""
LR32 = {"espcn": 25.2, "sesr_m5": 32.7, "quicksrnet_small": 33.9, "quicksrnet_medium": 62.2}
"""Name -> million MACs at x4 and LR 32x32."""


def only(space: search_space.SearchSpace) -> Genotype:
    slots = registry.slots(space)
    return Genotype(space.name, {s.name: genotype.choice_of(s, 0, 0) for s in slots})


def cost_of(name: str, scale: int) -> cost.Cost:
    space = search_space.load(name, scale)
    found = only(space)
    rows = cost.layers(registry.slots(space), found, searched_precision(found), scale)
    return cost.total(rows, scale)


@pytest.mark.parametrize(("name", "scale"), KNOWN)
def test_the_published_networks_have_their_known_sizes(name, scale):
    parameters, macs = KNOWN[name, scale]
    found = cost_of(name, scale)
    assert found.parameters == parameters
    space = search_space.load(name, scale)
    net = network.build(space, only(space), None)
    convs = network.convolutions(net).values()
    assert sum(p.numel() for conv in convs for p in conv.parameters()) == parameters
    if macs is not None:
        digits = len(str(macs).partition(".")[2])
        assert round(found.macs["1280x720 output"] / 1e9, digits) == macs


@pytest.mark.parametrize("name", LR32)
def test_multiply_accumulates_at_the_small_size_are_those_known(name):
    assert round(cost_of(name, 4).macs["LR 32x32"] / 1e6, 1) == LR32[name]


@pytest.mark.parametrize("up", [2, 3, 4])
@pytest.mark.parametrize("side", [5, 9])
def test_the_parts_of_a_transposed_convolution_make_the_whole(up, side):
    torch.manual_seed(up)
    x, weight = torch.randn(2, 4, 7, 6), torch.randn(3, 4, side, side)
    kernel = subpixel(weight, up)
    found = F.pixel_shuffle(F.conv2d(x, kernel, padding=kernel.shape[-1] // 2), up)
    inset = (side - up + 1) // 2
    wanted = F.conv_transpose2d(
        x, weight.transpose(0, 1), stride=up, padding=inset, output_padding=up + 2 * inset - side
    )
    assert found.shape == (2, 3, 7 * up, 6 * up)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert kernel.count_nonzero() == weight.count_nonzero()


def test_a_transposed_convolution_needs_an_edge_that_enlarges():
    space = search_space.load("fsrcnn")
    edges = {**space.edges, "body": search_space.Edge(("transposed9x9",), bits=(8,))}
    with pytest.raises(errors.UsageError, match="'transposed9x9' on the edge body0: it enlarges"):
        registry.slots(dataclasses.replace(space, edges=edges))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("colours", [1, 3])
def test_a_new_stack_hardly_changes_the_enlarged_image(scale, colours):
    torch.manual_seed(0)
    space = dataclasses.replace(search_space.load("plain", scale), colours=colours, cells=30)
    found = {
        s.name: genotype.choice_of(s, s.ops.index("conv3x3"), 0) for s in registry.slots(space)
    }
    net = network.build(space, Genotype("plain", found), None)
    x = torch.rand(1, 3, 12, 12)
    start = image_layers.enlarge(x, scale) if colours == 1 else F.interpolate(x, scale_factor=scale)
    with torch.no_grad():
        assert (net(x) - start).abs().mean() < 0.1  # thirty convolutions deep
    assert net(x).shape == (1, 3, 12 * scale, 12 * scale)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("dropped", [0, 1, 3])
def test_a_stack_that_leaves_edges_out_is_exported_exactly(scale, dropped, tmp_path):
    """An edge behind one that is left out reads the grid in front of the latter."""
    torch.manual_seed(0)
    space = dataclasses.replace(search_space.load("plain", scale), channels=8, cells=4)
    slots = registry.slots(space)
    ops = ["identity" if s.name == f"body{dropped}" else "conv3x3" for s in slots]
    chosen = {
        s.name: Choice(op, s.bit_widths[-1].weights, s.bit_widths[-1].activations)
        for s, op in zip(slots, ops, strict=True)
    }
    found = Genotype("plain", chosen)
    precision = searched_precision(found)
    net = network.build(space, found, precision)
    low = torch.rand(1, 3, 20, 17).mul(255).round() / 255
    network.initialise(net, low)
    frozen = post_training.freeze(net)
    for grid in frozen.modules():
        if isinstance(grid, ActQuantizer):  # powers of two: every sum is exact in float
            grid.log2_step.data = grid.log2_step.data.round() if not grid.fixed else grid.log2_step
    rows = cost.layers(slots, found, precision, scale)
    onnx_export.to_onnx(
        post_training.freeze(frozen), cost.total(rows, scale), scale, tmp_path / "m.onnx"
    )
    image = (low[0].permute(1, 2, 0) * 255).round().byte().numpy()
    told = verification.verify(tmp_path / "m.onnx", post_training.freeze(frozen), [image])
    assert told.max_steps <= 1 and told.integer_convolutions == told.convolutions == 5


def test_a_residual_supernet_with_nothing_chosen_hands_its_input_on():
    space = dataclasses.replace(search_space.load("plain", 2), channels=8, cells=1)
    net = supernet.build(space)
    edge = net.edges[1]
    with torch.no_grad():
        for p in edge.alphas.parameters():
            p.fill_(-50.0)
            p.view(-1)[0] = 50.0  # the identity
    x = torch.rand(1, 8, 5, 5)
    assert edge.slot.ops[0] == "identity" and edge.slot.residual
    assert torch.equal(edge(x), torch.zeros_like(x))


def test_luma_networks_leave_colour_differences_alone():
    torch.manual_seed(0)
    space = dataclasses.replace(search_space.load("plain", 2), cells=2)
    slots = registry.slots(space)
    found = Genotype("plain", {s.name: genotype.choice_of(s, 0, 0) for s in slots})
    net = network.build(space, found, None)
    x = torch.rand(1, 3, 9, 9)
    with torch.no_grad():
        change = net(x) - image_layers.enlarge(x, 2)
    assert change.abs().max() > 1e-3
    assert torch.allclose(change[:, :1], change[:, 1:2], atol=1e-6)
    assert torch.allclose(change[:, :1], change[:, 2:], atol=1e-6)


def test_one_colour_is_refused_where_it_would_be_ignored():
    space = dataclasses.replace(search_space.load("rfdn"), colours=1)
    with pytest.raises(errors.UsageError, match="'colours' cannot be 1 with skeleton 'rfdn'"):
        registry.slots(space)


def test_luma_is_that_of_the_metric():
    from quantnas.evaluation import metrics

    image = torch.randint(0, 256, (5, 6, 3), dtype=torch.uint8)
    x = image.permute(2, 0, 1)[None].double() / 255
    found = image_layers.luma(x)[0, 0].numpy() * 219 + 16
    assert abs(found - metrics.luma(image.numpy())).max() < 0.02
