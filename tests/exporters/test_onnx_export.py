"""Checks the exported file: its form, its sizes, and that it equals the network exactly."""

import dataclasses
import hashlib

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from quantnas.architectures import cost, network, registry
from quantnas.config import files, search_space
from quantnas.config.genotype import Choice, searched_precision, uniform_precision
from quantnas.config.search_space import Edge
from quantnas.data import patches
from quantnas.errors import DataError
from quantnas.exporters import (
    graph_index,
    integer_fusion,
    onnx_export,
    onnx_metadata,
    packed_weights,
    plain_forms,
    verification,
)
from quantnas.nn.quantizers import ActQuantizer
from quantnas.quantization import post_training

BITS = [None, 8, 4, 3, 2]
WIDTHS = [(8, 8), (4, 8), (4, 4), (3, 8), (2, 8), (2, 4), (2, 2)]
MAIN = [
    w if w in ((8, 8), (4, 4), (2, 8), (2, 2)) else pytest.param(*w, marks=pytest.mark.slow)
    for w in WIDTHS
]
LEVELS = [ort.GraphOptimizationLevel.ORT_ENABLE_ALL, ort.GraphOptimizationLevel.ORT_DISABLE_ALL]
VERSIONS = {None: (25, 13), 8: (13, 7), 4: (21, 10), 3: (21, 10), 2: (25, 13)}
STORED = {2: TensorProto.UINT2, 3: TensorProto.UINT4, 4: TensorProto.UINT4, 8: TensorProto.INT8}


def export_network(space, genotype, precision, low, folder, change=None, settle=None):
    """Build, change, calibrate on `low` and export a network -> (frozen network, cost, file)."""
    net = network.build(space, genotype, precision)
    if change:
        change(net)
    network.initialise(net, low)
    if settle:
        settle(net)
    frozen = post_training.freeze(net)
    rows = cost.layers(registry.slots(space), genotype, precision, space.scale)
    totals = cost.total(rows, space.scale)
    path = folder / "m.onnx"
    onnx_export.to_onnx(frozen, totals, space.scale, path)
    return frozen, totals, path


@torch.no_grad()
def round_steps(net) -> None:
    """Make steps and factors powers of two, so that float arithmetic has nothing to round.

    Zero points of carried tensors become even: half-way between two levels, ONNX Runtime's sums of
    integers round to an even level with the zero point, QuantizeLinear to one without.
    """
    for name, p in net.named_parameters():
        if name.endswith(("log2_step", "octaves")):
            p.round_()
    for grid in net.modules():
        if isinstance(grid, ActQuantizer):
            if grid.octaves is None:
                grid.zero.copy_((grid.zero / 2).round() * 2)
            if grid.fixed:
                grid.log2_step.fill_(-8.0)


@torch.no_grad()
def scatter(net) -> None:
    """Apply `round_steps`, with octaves that do not fit and odd zero points off the middle."""
    round_steps(net)
    for grid in net.modules():
        if isinstance(grid, ActQuantizer) and grid.octaves is not None:
            grid.octaves.copy_(-(torch.arange(len(grid.octaves)) % 3))
            if grid.signed:
                grid.zero.fill_(grid.top // 3)


@pytest.fixture
def make(tiny, random_genotype, pixels, tmp_path):
    """Function (bits or None = as searched, powers of two as steps) -> (network, cost, file)."""

    def build(bits: int | None = None, powers: bool = False, change=None, **changes):
        space = dataclasses.replace(tiny, **changes)
        genotype = random_genotype(space, 4)
        genotype.choices["cell0_body2"] = Choice("growth3x3", 2, 2)
        slots = registry.slots(space)
        precision = uniform_precision(slots, bits) if bits else searched_precision(genotype)
        settle = round_steps if powers else None
        return export_network(space, genotype, precision, pixels(4), tmp_path, change, settle)

    return build


def session(path, level=ort.GraphOptimizationLevel.ORT_ENABLE_ALL) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def layers_of(path) -> dict[str, dict[str, list]]:
    """Name of each layer -> constants behind its convolution's "source", "kernel" and "bias".

    The constants are in order from those of the last node to those of the first. Convolutions are
    those of the layers, whatever form the file gives them.
    """
    graph = plain_forms.plain(onnx.load(path)).graph
    tensors = {t.name: t for t in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}

    def constants(name: str) -> list:
        found = []
        while name in makers:
            node = makers[name]
            found += [tensors[i] for i in node.input[1:] if i in tensors]
            name = node.input[0]
            if node.op_type == "QuantizeLinear":
                break
        return [*found, tensors[name]] if name in tensors else found

    convs = [node for node in graph.node if node.op_type == "Conv" and node.name]
    ends = ("source", "kernel", "bias")
    return {n.name: dict(zip(ends, map(constants, n.input), strict=True)) for n in convs}


def run_in_integers(path, totals) -> list[str]:
    """Check that every layer runs in integers -> all operators that ONNX Runtime runs."""
    model, optimised = onnx.load(path), verification.optimised(path)
    assert {*graph_index.wired(model).convolutions} == {row.name for row in totals.layers}
    assert integer_fusion.in_float(model, optimised) == {}
    kinds = [node.op_type for node in optimised.graph.node]
    assert "Conv" not in kinds
    return kinds


def value(tensor) -> np.ndarray:
    return numpy_helper.to_array(tensor)


def folded(model, name: str) -> np.ndarray:
    """Value of a tensor that is constant once the file is loaded."""
    tensors, wanted, nodes = {t.name: t for t in model.graph.initializer}, {name}, []
    if name in tensors:
        return value(tensors[name])
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            nodes.insert(0, node)
    out = helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None)
    stored = [t for t in tensors.values() if t.name in wanted]
    graph = helper.make_graph(nodes, "g", [], [out], stored)
    return ReferenceEvaluator(helper.make_model(graph)).run(None, {})[0]


@pytest.mark.parametrize("bits", BITS)
def test_with_steps_that_are_powers_of_two_the_file_computes_exactly_the_same(make, pixels, bits):
    net, _, path = make(bits, powers=True, cells=2)
    run = session(path)
    for low in (pixels(1, 7, 10, 5), pixels(2, 12, 5, 6)):
        (out,) = run.run(None, {"lr": low.numpy()})
        with torch.no_grad():
            wanted = net(low).numpy()
        assert out.shape == wanted.shape and np.array_equal(out, wanted)
        assert wanted.std() > 0.05


@pytest.fixture
def make_published(random_genotype, pixels, tmp_path):
    """Function (name of a space, seed, scale, cells) -> (network, cost, file) of a genotype."""

    def build(name: str, seed: int, scale: int, cells: int, powers: bool = True):
        space = dataclasses.replace(search_space.load(name, scale), channels=12, cells=cells)
        genotype = random_genotype(space, seed)
        precision = searched_precision(genotype)
        settle = round_steps if powers else None
        return export_network(space, genotype, precision, pixels(4, 17, 20), tmp_path, None, settle)

    return build


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["basic", "rfdn"])
def test_published_spaces_compute_exactly_the_same(make_published, pixels, name, scale):
    net, _, path = make_published(name, scale, scale, 1 + scale % 2)
    low = pixels(2, 16, 16, 5)  # where resizing multiplies by powers of two alone
    (out,) = session(path).run(None, {"lr": low.numpy()})
    with torch.no_grad():
        wanted = net(low).numpy()
    assert out.shape == wanted.shape == (2, 3, 16 * scale, 16 * scale)
    assert np.array_equal(out, wanted) and wanted.std() > 0.02


@pytest.mark.parametrize("name", ["basic", "rfdn"])
def test_every_convolution_of_a_published_space_runs_in_integers(make_published, name):
    _, totals, path = make_published(name, 0, 4, 2)
    kinds = run_in_integers(path, totals)
    if name == "rfdn":
        assert {"QLinearMul", "QLinearSigmoid", "QLinearConcat", "NhwcMaxPool"} <= {*kinds}
        assert kinds.count("Resize") == 2


@pytest.mark.parametrize(("weights", "activations"), MAIN)
@pytest.mark.parametrize(
    "name", ["tiny", "apart", "basic", "rfdn", "edsr", "imdn", "rfdn_published", "fsrcnn"]
)
def test_every_skeleton_runs_in_integers_and_computes_exactly_the_same(
    small, random_genotype, pixels, tmp_path, name, weights, activations
):
    space = small[name] if name in small else search_space.load(name, 2)
    precision = uniform_precision(registry.slots(space), weights, activations)
    genotype, low = random_genotype(space, weights), pixels(2, 16, 16, 5)
    net, totals, path = export_network(space, genotype, precision, low, tmp_path, enliven, scatter)
    run_in_integers(path, totals)
    with torch.no_grad():
        wanted = net(low).numpy()
    for level in LEVELS:
        (out,) = session(path, level).run(None, {"lr": low.numpy()})
        assert np.array_equal(out, wanted)
    assert wanted.std() > 0.02


@pytest.mark.parametrize("size", [(17, 20), (15, 33), (40, 28)])
@pytest.mark.parametrize("name", ["basic", "rfdn"])
def test_published_spaces_agree_with_steps_and_sizes_of_any_kind(
    make_published, pixels, name, size
):
    net, _, path = make_published(name, 3, 2, 1, powers=False)
    low = pixels(1, *size, 3)
    (out,) = session(path).run(None, {"lr": low.numpy()})
    with torch.no_grad():
        wanted = net.double()(low.double()).numpy()
    assert out.shape == wanted.shape == (1, 3, 2 * size[0], 2 * size[1])
    assert np.mean(np.abs(out - wanted) > 0.5 / 255) < 0.01 and wanted.std() > 0.02


@torch.no_grad()
def enliven(net) -> None:
    """Enlarge kernels and make the output grey, so that every computation affects the output.

    With much larger kernels a network is chaotic: one value that is rounded differently becomes
    thousands.
    """
    *inner, last = network.convolutions(net).values()
    for conv in inner:
        conv.weight.mul_(1.3)
    last.bias.add_(0.5)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["edsr_baseline", "imdn", "rfdn48"])
def test_fixed_networks_pass_the_verification(random_genotype, pixels, tmp_path, name, scale, bits):
    space = dataclasses.replace(search_space.load(name, scale), channels=12, cells=1 + scale % 2)
    slots = registry.slots(space)
    precision = uniform_precision(slots, bits)
    genotype, low = random_genotype(space, 0), pixels(4, 17, 20)
    net, _, path = export_network(space, genotype, precision, low, tmp_path, enliven)
    images = [patches.to_image(pixels(1, side, side + 3, side)[0]) for side in (17, 32)]
    assert verification.verify(path, net, images).convolutions == len(slots)
    with torch.no_grad():
        assert net(low).std() > 0.1
    kinds = {node.op_type for node in verification.optimised(path).graph.node}
    assert "Conv" not in kinds and {"QLinearConv", "ConvInteger"} <= kinds


def test_two_grids_in_a_row_are_not_merged(make, pixels, tiny):
    edges = tiny.edges | {"upsample": Edge(("identity",), (8,))}
    net, totals, path = make(None, powers=True, channels=12, edges=edges)
    with torch.no_grad():
        net.deep.log2_step.sub_(1)  # clips, and the grid behind it does not
    low = pixels(1, 9, 8, 5)
    onnx_export.to_onnx(net, totals, 2, path)
    (out,) = session(path).run(None, {"lr": low.numpy()})
    with torch.no_grad():
        assert np.array_equal(out, net(low).numpy())


@pytest.mark.parametrize("scale", [3, 4])
def test_other_scales_compute_the_same(make, pixels, tiny, scale):
    edges = tiny.edges | {"upsample": tiny.edges["distill"]}
    net, _, path = make(None, powers=True, scale=scale, edges=edges)
    low = pixels(1, 6, 5, 5)
    (out,) = session(path).run(None, {"lr": low.numpy()})
    with torch.no_grad():
        assert np.array_equal(out, net(low).numpy())
    assert out.shape == (1, 3, 6 * scale, 5 * scale)


@pytest.mark.parametrize("bits", BITS)
def test_a_dead_channel_survives(make, pixels, bits):
    def kill(net):
        with torch.no_grad():
            for conv in network.convolutions(net).values():
                conv.weight[1] = 0
                conv.bias[1] = 0.5

    net, _, path = make(bits, change=kill)
    low = pixels(1, 7, 10, 5)
    (out,) = session(path).run(None, {"lr": low.numpy()})
    with torch.no_grad():
        wanted = net.double()(low.double()).numpy()
    assert np.abs(np.round(out * 255) - np.round(wanted * 255)).max() <= 2
    assert abs(out - wanted).mean() < 0.3 / 255


@pytest.mark.parametrize("bits", BITS)
def test_versions_are_the_oldest_that_hold_the_weights(make, bits):
    model = onnx.load(make(bits)[2])
    assert [(o.domain, o.version) for o in model.opset_import] == [("", VERSIONS[bits][0])]
    assert model.ir_version == VERSIONS[bits][1]
    assert model.producer_name == "quantnas"


def as_written(net, name):
    """Kernel and bias of a layer whose input and output channels have octaves."""
    convs = network.convolutions(net)
    conv, inner = convs[name], convs.get(f"{name[:-2]}.1") if name.endswith(".0") else None
    f = torch.ones(1, 1, 1) if inner is None else inner.input_quantizer.factors
    kernel = conv.weight if conv.factors() is None else conv.weight * conv.factors()
    return (kernel / f[:, None]).detach().numpy(), (conv.bias / f.flatten()).detach().numpy()


@pytest.mark.parametrize("bits", BITS)
def test_weights_are_stored_packed(make, bits):
    net, totals, path = make(bits)
    found, nbytes = layers_of(path), 0
    assert set(found) == set(network.convolutions(net))
    for name, conv in network.convolutions(net).items():
        width, kernel = conv.precision.weights, found[name]["kernel"]
        step, stored, zero = kernel[0], kernel[-1], kernel[2] if width < 8 else kernel[1]
        assert stored.data_type == STORED[width]
        assert tuple(stored.dims) == tuple(conv.weight.shape)
        per_weight = {2: 2, 3: 4, 4: 4, 8: 8}[width]
        assert len(stored.raw_data) == -(-conv.weight.numel() * per_weight // 8)
        nbytes += len(stored.raw_data)
        q = value(stored).astype(np.float64)
        weight = (q - value(zero).reshape(-1, 1, 1, 1)) * value(step).reshape(-1, 1, 1, 1)
        np.testing.assert_allclose(weight, as_written(net, name)[0], rtol=1e-6, atol=1e-9)
    assert totals.weight_bytes == nbytes


@pytest.mark.parametrize("bits", BITS[1:])
def test_weights_of_sums_that_go_on_in_float_are_stored_packed(
    small, random_genotype, pixels, tmp_path, bits
):
    space = small["imdn"]
    precision = uniform_precision(registry.slots(space), bits)
    genotype, low = random_genotype(space, 0), pixels(1, 16, 16)
    net, _, path = export_network(space, genotype, precision, low, tmp_path)
    graph, convs = onnx.load(path).graph, network.convolutions(net)
    makers = {node.output[0]: node for node in graph.node}
    tensors = {t.name: t for t in graph.initializer}
    found = [node for node in graph.node if node.op_type == "ConvInteger"]
    assert len(found) > 4
    for node in found:
        name, conv = node.input[1], convs[node.name]
        while name in makers:
            name = makers[name].input[0]
        (q, _), width = conv.integers(), conv.precision.weights
        if width == 8:
            assert np.array_equal(value(tensors[name]), q.numpy() + 128)
        else:
            assert tensors[name].data_type == STORED[width]
            assert np.array_equal(packed_weights.unpacked(tensors[name]), q.numpy())


@pytest.mark.parametrize("bits", BITS)
def test_grids_and_biases_have_the_form_that_runs_in_integers(make, bits):
    net, _, path = make(bits)
    model = plain_forms.plain(onnx.load(path))
    biases = {n.name: n.input[2] for n in model.graph.node if n.op_type == "Conv" and n.name}
    for name, found in layers_of(path).items():
        step_x, zero_x = found["source"][:2]
        assert list(step_x.dims) == list(zero_x.dims) == []
        assert zero_x.data_type == TensorProto.UINT8
        (dequantize,) = [n for n in model.graph.node if n.output[0] == biases[name]]
        units, step_b, none = (folded(model, at) for at in dequantize.input)
        assert units.dtype == none.dtype == np.int32 and not none.any()
        step_w = value(found["kernel"][0])
        assert np.array_equal(value(step_x) * step_w, step_b)
        bias = units * step_b.astype(np.float64)
        np.testing.assert_allclose(bias, as_written(net, name)[1], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("bits", BITS)
def test_the_graph_holds_nothing_unused_or_twice(make, bits):
    graph = onnx.load(make(bits)[2]).graph
    tensors = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            dims = [tuple(tensors[name].dims) for name in node.input[1:]]
            assert dims[0] == dims[1] and len(dims[0]) < 2 and not node.attribute
            assert tensors[node.input[2]].data_type == TensorProto.UINT8
    names = [name for node in graph.node for name in node.output]
    assert len(set(names)) == len(names) and not set(names) & set(tensors)
    assert set(tensors) <= {name for node in graph.node for name in node.input}
    for node in graph.node:
        known = onnx.defs.get_schema(node.op_type, 13).attributes
        assert not [a for a in node.attribute if a == known[a.name].default_value]
    contents = [(t.data_type, tuple(t.dims), t.raw_data) for t in tensors.values()]
    assert len(set(contents)) == len(contents)


def test_inputs_and_outputs_are_named_and_of_any_size(make):
    graph = onnx.load(make()[2]).graph
    (low,), (high,) = graph.input, graph.output
    shapes = [
        [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (low, high)
    ]
    assert (low.name, high.name) == ("lr", "sr")
    assert shapes == [["n", 3, "height", "width"], ["n", 3, "2*height", "2*width"]]


@pytest.mark.parametrize("bits", BITS)
def test_metadata_give_the_cost_back(make, bits):
    _, totals, path = make(bits)
    stated = onnx_metadata.read_metadata(path)
    assert stated.scale == 2 and stated.version
    assert stated.cost == totals


def test_only_the_file_is_left(make):
    path = make()[2]
    assert [p.name for p in path.parent.iterdir()] == ["m.onnx"]
    assert files.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_network_gives_the_same_file(make):
    net, totals, path = make()
    first = path.read_bytes()
    onnx_export.to_onnx(net, totals, 2, path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.9, -1])
def test_a_truncated_file_is_a_data_error(make, keep):
    path = make(8)[2]
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match=r"m\.onnx"):
        onnx_metadata.read_metadata(path)


def test_a_file_of_another_project_is_a_data_error(tmp_path):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    onnx.save(
        helper.make_model(helper.make_graph([node], "g", [value], [out])), tmp_path / "m.onnx"
    )
    with pytest.raises(DataError, match="not exported by quantnas"):
        onnx_metadata.read_metadata(tmp_path / "m.onnx")


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="Cannot read"):
        onnx_metadata.read_metadata(tmp_path / "none.onnx")


def test_packed_weights_in_the_file_are_what_the_reader_unpacks(make):
    net, _, path = make(3)
    found = layers_of(path)
    for name, conv in network.convolutions(net).items():
        q, _ = conv.integers()
        assert np.array_equal(packed_weights.unpacked(found[name]["kernel"][-1]), q.numpy())
