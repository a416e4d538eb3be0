"""Checks searched, merged and rounded convolutions against plain arithmetic."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from quantnas.config.run_config import SearchConfig
from quantnas.config.search_space import Precision, Slot
from quantnas.nas.alphas import Alphas
from quantnas.nas.relaxations import RELAXATIONS
from quantnas.nas.search_conv import InputGrids, Mix, SearchConv2d, embed, see
from quantnas.nas.supernet import MixedOp
from quantnas.nn import operations
from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.nn.quantizers import ActQuantizer, FloatTensor, WeightQuantizer, calibrating

SINGLE = ("conv1x1", "conv3x3", "conv5x5", "conv3x3_groups2", "conv5x5_groups2")
COLUMNS = ("conv1x3", "conv5x1", "conv3x3_groups2")
SEVERAL = ("growth1x1", "factorised3x3", "separable3x3")
SHARED = tuple(Precision(b, b) for b in (2, 4, 8))
APART = tuple(Precision(w, a) for w in (2, 8) for a in (3, 8))
HALF = Mix(torch.tensor([0.4, 0.6]), torch.tensor([0.3, 0.7]), torch.tensor(0.5))


def slot_of(ops=("conv1x1",), bit_widths=SHARED, channels=(8, 6, 4), **more) -> Slot:
    return Slot("e", *channels, ops, bit_widths, **more)


BOTH = (Precision(4, 4), Precision(8, 8))


def search_conv(*shape, bit_widths=BOTH, how="noise", **more):
    slot = slot_of(bit_widths=bit_widths)
    return SearchConv2d(
        *shape, slot=slot, source=ActQuantizer(8), relaxation=RELAXATIONS[how], **more
    )


def scrambled(edge: MixedOp) -> MixedOp:
    """Convert an edge to float64 and set its probabilities, gains, biases and steps at random."""
    with torch.no_grad():
        for name, p in edge.named_parameters():
            if "alphas" in name or name.endswith(("log_gain", "bias")):
                p.normal_()
            elif name.endswith("log2_step"):
                p.add_(torch.rand_like(p))
    return edge.double()


# The input of a searched edge


@pytest.mark.parametrize("how", RELAXATIONS)
def test_training_sees_the_relaxation_and_evaluating_the_mixture_of_roundings(how):
    x, inputs = torch.rand(40), [ActQuantizer(4, step=0.06), ActQuantizer(8, step=0.01)]
    torch.manual_seed(1)
    seen = see(x, inputs, HALF, RELAXATIONS[how], training=True)
    torch.manual_seed(1)
    assert torch.equal(seen, RELAXATIONS[how].view(x, inputs, HALF.activations, HALF.share))
    evaluated = see(x, inputs, HALF, RELAXATIONS[how], training=False)
    torch.testing.assert_close(evaluated, 0.3 * inputs[0](x) + 0.7 * inputs[1](x))


def test_without_grids_the_input_is_seen_as_it_is():
    x = torch.rand(5)
    assert see(x, [], HALF, RELAXATIONS["noise"], training=True) is x


def test_the_widths_of_an_edge_round_its_input():
    source = ActQuantizer(8)
    grids = InputGrids((2, 4, 8), source)
    assert [q.bits for q in grids.quantizers] == [2, 4, 8] and grids.quantizers[2] is source
    signed = InputGrids((8, 4), ActQuantizer(8, signed=True)).quantizers
    assert [(q.bits, q.signed) for q in signed] == [(8, True), (4, True)]
    inner = InputGrids((8, 4), ActQuantizer(8, signed=True), inner=True)
    assert [(q.bits, q.signed) for q in inner.quantizers] == [(8, False), (4, False)]
    assert len(inner.own) == 2 and InputGrids((32,), source).quantizers == []


# Merging


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    ("kernel", "size"),
    [((1, 1), (1, 1)), ((1, 1), (5, 5)), ((3, 3), (5, 5)), ((5, 1), (5, 3)), ((1, 3), (5, 7))],
)
def test_an_embedded_kernel_computes_the_grouped_convolution(kernel, size, groups):
    c_in, c_out = 8, 12
    weight = torch.randn(c_out, c_in // groups, *kernel, dtype=torch.float64)
    x = torch.randn(2, c_in, 6, 5, dtype=torch.float64)
    dense = embed(weight, size, groups)
    assert dense.shape == (c_out, c_in, *size)
    expected = F.conv2d(x, weight, padding=[k // 2 for k in kernel], groups=groups)
    torch.testing.assert_close(F.conv2d(x, dense, padding=[k // 2 for k in size]), expected)


def test_channels_by_themselves_are_embedded_on_the_diagonal():
    weight = torch.randn(6, 1, 3, 3)
    dense = embed(weight, (3, 3), 6)
    assert torch.equal(dense[range(6), range(6)], weight[:, 0])
    assert dense.count_nonzero() == 6 * 9


@pytest.fixture
def _columns(monkeypatch) -> None:
    """Add operations of one convolution with a kernel that is not square."""
    for name, kernel in (("conv5x1", (5, 1)), ("conv1x3", (1, 3))):
        monkeypatch.setitem(operations.OPS, name, partial(operations.simple, kernel=kernel))


@pytest.mark.usefixtures("_columns")
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("bit_widths", [SHARED, APART, SHARED[2:], (Precision(32, 32),)])
@pytest.mark.parametrize(
    "names", [SINGLE, SINGLE + SEVERAL, SEVERAL, ("conv3x3",), ("conv5x1", "conv1x1"), COLUMNS]
)
@pytest.mark.parametrize("training", [False, True])
def test_a_merged_edge_computes_the_weighted_sum_of_its_candidates(
    names, bit_widths, joint, training
):
    how, source = SearchConfig(draw=False, floor=0.0), ActQuantizer(8)
    alphas = Alphas(len(names), len(bit_widths), joint)
    edge = scrambled(MixedOp(slot_of(names, bit_widths), source, alphas, how)).train(training)
    x = source.double()(torch.rand(2, 8, 6, 5, dtype=torch.float64) * 3)
    p, mixes = edge.mixtures()
    inputs = edge.inputs.quantizers
    torch.manual_seed(7)
    out = edge(x)
    torch.manual_seed(7)  # noise is drawn as above, in the same order
    seen = see(x, inputs, mixes[0], edge.relaxation, training)
    one_by_one = [op(seen, inputs, m) for op, m in zip(edge.ops.values(), mixes, strict=True)]
    expected = sum(share * out for share, out in zip(p, one_by_one, strict=True))
    expected = expected * edge.gain()[:, None, None]
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)


def test_the_input_is_seen_under_the_mean_of_all_mixtures_and_kernels_under_their_own():
    alphas = Alphas(2, 4, joint=True)
    edge = MixedOp(slot_of(("conv1x1", "conv3x3"), APART), ActQuantizer(8), alphas, SearchConfig())
    alphas.pair.data.normal_()
    table = alphas.table().detach()  # bit_widths: w2a3, w2a8, w8a3, w8a8
    p, mixes = edge.mixtures()
    torch.testing.assert_close(p, table.sum(1))
    narrow = table[:, [0, 2]].sum()
    for row, mix, share in zip(table, mixes, p, strict=True):
        weights = torch.stack([row[:2].sum(), row[2:].sum()]) / share
        torch.testing.assert_close(mix.weights, weights)
        torch.testing.assert_close(mix.activations, torch.stack([narrow, 1 - narrow]))
        assert mix.share == share


def test_where_candidates_do_not_share_their_input_each_has_its_own_mixture():
    alphas, how = Alphas(2, 3, joint=True), SearchConfig(relaxation="direct")
    edge = MixedOp(slot_of(("conv1x1", "conv3x3")), ActQuantizer(8), alphas, how)
    alphas.pair.data.normal_()
    table = alphas.table().detach()
    for row, mix in zip(table, edge.mixtures()[1], strict=True):
        torch.testing.assert_close(mix.weights, row / row.sum())
        torch.testing.assert_close(mix.activations, row / row.sum())


@pytest.mark.parametrize("how", ["direct", "authors"])
@pytest.mark.parametrize("training", [False, True])
def test_an_edge_that_does_not_merge_is_the_weighted_sum_of_its_candidates(how, training):
    names, source = (*SINGLE[:3], *SEVERAL, "identity"), ActQuantizer(8)
    slot, config = slot_of(names, APART, (6, 6, 6)), SearchConfig(relaxation=how, floor=0.0)
    edge = scrambled(MixedOp(slot, source, Alphas(7, 4, joint=True), config)).train(training)
    x = torch.rand(2, 6, 5, 4, dtype=torch.float64)
    p, mixes = edge.mixtures()
    torch.manual_seed(7)
    out = edge(x)
    torch.manual_seed(7)
    outs = [op(x, [], m) for op, m in zip(list(edge.ops.values())[:-1], mixes, strict=False)]
    expected = sum(s * o for s, o in zip(p, outs, strict=False)) * edge.gain()[:, None, None]
    torch.testing.assert_close(out, expected + p[-1] * x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_the_identity_adds_its_share_of_the_input_as_it_is(training):
    slot = slot_of(("conv1x1", "identity"), channels=(4, 4, 4))
    edge = MixedOp(slot, ActQuantizer(8), Alphas(2, 3), SearchConfig()).train(training)
    x = torch.rand(2, 4, 5, 6)
    torch.manual_seed(2)
    out = edge(x)
    torch.manual_seed(2)
    _, (mix, _) = edge.mixtures()
    seen = see(x, edge.inputs.quantizers, mix, edge.relaxation, training)
    plain = edge.ops["conv1x1"](seen, edge.inputs.quantizers, mix)
    torch.testing.assert_close(out, 0.5 * edge.gain()[:, None, None] * plain + 0.5 * x)
    edge.alphas.collapse(1, 0)
    assert torch.equal(edge(x), x)


# Searched convolutions


@pytest.mark.parametrize("training", [False, True])
def test_the_length_of_a_searched_kernel_does_not_matter(training):
    layer = search_conv(4, 3, 3).train(training)
    torch.manual_seed(1)
    before = layer.kernel(HALF)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([0.1, 3.0, 50.0])[:, None, None, None])
    torch.manual_seed(1)
    torch.testing.assert_close(layer.kernel(HALF), before, rtol=1e-4, atol=1e-6)
    assert layer.unit_weight().flatten(1).norm(dim=1).tolist() == pytest.approx([1, 1, 1])


def test_a_searched_kernel_of_zeros_stays_finite():
    layer = search_conv(4, 3, 1)
    layer.weight.data.zero_()
    layer.unit_weight().sum().backward()
    assert (layer.unit_weight() == 0).all() and torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize("how", ["noise", "direct", "authors"])
def test_an_evaluated_kernel_is_the_mixture_of_its_roundings(how):
    layer = search_conv(4, 3, 3, how=how).eval()
    for q in layer.weight_quantizers:
        q.calibrate(layer.unit_weight())
    narrow, wide = (q(layer.unit_weight()) for q in layer.weight_quantizers)
    torch.testing.assert_close(layer.kernel(HALF), 0.4 * narrow + 0.6 * wide)


def test_the_bias_is_rounded_for_every_pair_of_widths_when_evaluating():
    layer = search_conv(4, 3, 1, bit_widths=APART)
    inputs = [ActQuantizer(3, step=0.3), ActQuantizer(8, step=0.01)]
    for q, log2 in zip(layer.weight_quantizers, (-2.0, -7.0), strict=True):
        q.log2_step.data.fill_(log2)
    assert layer.train().rounded_bias(inputs, HALF) is layer.bias
    expected = 0
    for w, step_w in ((0.4, 2.0**-2), (0.6, 2.0**-7)):
        for a, step_x in ((0.3, 0.3), (0.7, 0.01)):
            unit = step_w * step_x
            expected = expected + w * a * (layer.bias / unit).round() * unit
    torch.testing.assert_close(layer.eval().rounded_bias(inputs, HALF), expected)


@pytest.mark.parametrize("how", RELAXATIONS)
def test_which_convolutions_have_grids_of_their_own(how):
    first, inner = (search_conv(4, 3, 1, how=how, inner=inner) for inner in (False, True))
    assert (first.grids is None) == RELAXATIONS[how].merges
    assert inner.grids is not None and not any(q.signed for q in inner.grids.quantizers)


def test_a_convolution_searched_in_float_has_no_grids():
    layer = search_conv(4, 3, 1, bit_widths=(Precision(32, 32),), how="float", inner=True)
    assert not [m for m in layer.modules() if isinstance(m, ActQuantizer | WeightQuantizer)]
    one = Mix(torch.ones(1), torch.ones(1), torch.tensor(1.0))
    x = torch.rand(1, 4, 3, 5)
    expected = F.conv2d(x, layer.unit_weight(), layer.bias)
    for training in (False, True):
        assert torch.equal(layer.train(training)(x, [], one), expected)


# Rounded convolutions


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("weights", "activations"), [(2, 8), (3, 4), (4, 2), (8, 8)])
def test_a_rounded_convolution_is_integer_arithmetic(weights, activations, signed):
    source = ActQuantizer(8, signed).double()
    precision = Precision(weights, activations)
    layer = QuantConv2d(4, 6, 3, 2, precision=precision, source=source).double()
    layer.weight_quantizer.calibrate(layer.weight)
    source.log2_step.data.fill_(-5.3)
    x = source(torch.randn(2, 4, 6, 5, dtype=torch.float64) * 3).detach()
    grid = source
    if activations < 8:
        grid = layer.input_quantizer
        grid.log2_step.data.fill_(-1.7)
        assert grid.bits == activations and grid.signed == signed
    else:
        assert layer.input_quantizer is None
    lo, hi = (b.item() for b in grid.bounds())
    assert (lo < 0) == signed and hi - lo == 2**activations - 1
    step_x, step_w = 2 ** grid.log2_step.item(), layer.weight_quantizer.step.flatten()
    q, z = layer.weight_quantizer.integers(layer.weight)
    units = (layer.bias / (step_x * step_w)).round().long()
    integers = (x / step_x).round().clamp(lo, hi).long()
    total = F.conv2d(integers.double(), (q - z).double(), units.double(), padding=1, groups=2)
    expected = total * (step_x * step_w)[:, None, None]
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


FORMS = [
    {"c_in": 4, "c_out": 6, "kernel": 3},
    {"c_in": 4, "c_out": 6, "kernel": 3, "groups": 2},
    {"c_in": 4, "c_out": 4, "kernel": 5, "groups": 4},
    {"c_in": 4, "c_out": 6, "kernel": 3, "stride": 2},
    {"c_in": 4, "c_out": 6, "kernel": (1, 3), "inner": True},
    {"c_in": 4, "c_out": 12, "kernel": 5, "up": 2},
]
SHIFT = torch.tensor([0.0, -3, 2, -1])


def own_grid(form: dict, activations: int = 3) -> QuantConv2d:
    """A convolution in float64 with an input quantizer, which is signed unless `form` has inner."""
    source, precision = ActQuantizer(8, signed=True), Precision(3, activations)
    return QuantConv2d(**form, precision=precision, source=source).double()


def multiplied(conv: QuantConv2d, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Multiply channel c of x by 2^shift_c, and divide the convolution's kernel by the same."""
    factor = shift.exp2().to(x)
    rows = factor.view(conv.groups, -1).repeat_interleave(len(conv.weight) // conv.groups, 0)
    conv.weight.data.div_(rows[:, :, None, None])
    return x * factor[:, None, None]


@pytest.mark.parametrize("form", FORMS)
def test_octaves_do_what_scaled_inputs_and_weights_do(form):
    plain, x = own_grid(form), torch.randn(2, 4, 7, 6, dtype=torch.float64) * 3
    plain.input_quantizer.calibrate(x)
    plain.weight_quantizer.calibrate(plain.weight)
    spread = copy.deepcopy(plain)
    spread.input_quantizer.octaves.data.copy_(SHIFT)
    scaled = multiplied(spread, x, SHIFT)
    assert torch.equal(spread(scaled), plain(x)) and plain(x).std() > 0.1
    for ours, theirs in zip(spread.integers(), plain.integers(), strict=True):
        assert torch.equal(ours, theirs)
    back = plain.weight_quantizer(plain.weight) / spread.factors()
    assert torch.equal(spread.rounded_weight(), back)
    assert torch.equal(spread.bias_step(), plain.bias_step())


@pytest.mark.parametrize("form", FORMS)
def test_the_octaves_of_a_convolution_follow_its_input_and_its_kernel(form):
    conv, x = own_grid(form), torch.randn(2, 4, 7, 6, dtype=torch.float64)
    conv.spread(x)
    before = conv.input_quantizer.octaves.detach().clone()
    conv.spread(multiplied(conv, x, SHIFT))
    moved = before + SHIFT
    torch.testing.assert_close(conv.input_quantizer.octaves.detach(), moved - moved.max())


def test_unequal_channels_lose_less_with_octaves():
    conv, x = own_grid(FORMS[0], 4), torch.randn(2, 4, 9, 9, dtype=torch.float64)
    x = x * torch.tensor([8.0, 1, 1, 0.1])[:, None, None]
    errors = []
    for give in (lambda: None, lambda: conv.spread(x)):
        give()
        with calibrating(conv):
            conv(x)
        with torch.no_grad():
            errors.append((conv.input_quantizer(x) - x)[:, 1:].square().mean().item())
    assert errors[1] < 0.5 * errors[0]


def test_without_a_grid_of_its_own_there_are_no_octaves():
    conv = own_grid(FORMS[0], 8)
    conv.spread(torch.rand(1, 4, 3, 3))
    assert conv.input_quantizer is None and conv.factors() is None
    assert torch.equal(conv.rounded_weight(), conv.weight_quantizer(conv.weight))


def test_a_tensor_that_is_carried_in_float_is_rounded_by_its_reader():
    for bits in (2, 4, 8):
        precision, source = Precision(4, bits), FloatTensor(32, signed=True)
        grid = QuantConv2d(4, 6, 3, precision=precision, source=source).input_quantizer
        assert grid.bits == bits and grid.signed and grid.octaves.shape == (4,)
        assert [q.bits for q in InputGrids((bits,), source).own] == [bits]


def test_octaves_change_no_other_gradient_but_that_of_the_weight():
    plain, x = own_grid(FORMS[0]), torch.randn(2, 4, 7, 6, dtype=torch.float64) * 3
    with calibrating(plain):
        plain(x)
    spread = copy.deepcopy(plain)
    spread.input_quantizer.octaves.data.copy_(SHIFT)
    for conv, image in ((plain, x), (spread, multiplied(spread, x, SHIFT))):
        conv(image).square().sum().backward()
    plain.weight.grad.mul_(spread.factors())
    expected = dict(plain.named_parameters())
    octaves = "input_quantizer.octaves"
    assert spread.get_parameter(octaves).grad.any()
    for name, p in spread.named_parameters():
        if name == octaves:
            continue
        torch.testing.assert_close(p.grad, expected[name].grad, rtol=1e-9, atol=1e-12, msg=name)


def test_an_inner_convolution_always_rounds_its_unsigned_input():
    source = ActQuantizer(8, signed=True)
    layer = QuantConv2d(4, 4, 1, inner=True, precision=Precision(4, 8), source=source)
    grid = layer.input_quantizer
    assert grid is layer.grid and grid.bits == 8 and not grid.signed


@pytest.mark.parametrize("signed", [False, True])
def test_every_parameter_of_a_rounded_convolution_learns(signed):
    source = ActQuantizer(8, signed)
    layer = QuantConv2d(4, 4, 3, precision=Precision(3, 4), source=source)
    layer.weight_quantizer.calibrate(layer.weight)
    layer.input_quantizer.log2_step.data.fill_(-4.0)
    layer(torch.rand(2, 4, 5, 6)).square().sum().backward()
    learning = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    assert ("input_quantizer.zero" in learning) == signed
    for name, p in learning.items():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name
        assert p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kernel", [1, 3, 5, (5, 1), (1, 3)])
def test_convolutions_keep_the_size(kernel):
    assert Conv2d(3, 5, kernel)(torch.rand(1, 3, 7, 4)).shape == (1, 5, 7, 4)


def test_strided_convolutions_have_no_padding():
    layer, x = Conv2d(3, 5, 3, stride=2), torch.rand(1, 3, 8, 7)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, stride=2))
