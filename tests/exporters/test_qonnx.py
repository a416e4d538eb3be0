"""Checks the QONNX file with the package qonnx: what the file computes, and its BitOps."""

import dataclasses
import json
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from quantnas.architectures import cost, network, registry
from quantnas.config import search_space
from quantnas.config.genotype import uniform_precision
from quantnas.exporters import qonnx
from quantnas.nn.quantizers import ActQuantizer
from quantnas.quantization import post_training

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    onnx_exec = pytest.importorskip("qonnx.core.onnx_exec")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.inference_cost import inference_cost

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SIZE = (16, 16)  # where resizing multiplies by powers of two alone
NAMES = ["apart", "basic", "rfdn", "plain", "edsr", "imdn", "rfdn_published", "fsrcnn"]


@torch.no_grad()
def rounded(net) -> None:
    """Make steps powers of two and zero points even: floats are exact, and ties as in `Quant`."""
    for name, p in net.named_parameters():
        if name.endswith(("log2_step", "octaves")):
            p.round_()
    for grid in net.modules():
        if isinstance(grid, ActQuantizer):
            grid.zero.copy_((grid.zero / 2).round() * 2)
            if grid.fixed:
                grid.log2_step.fill_(-8.0)
            if grid.octaves is not None:
                grid.octaves.copy_(-(torch.arange(len(grid.octaves)) % 3))


@pytest.fixture
def make(small, random_genotype, pixels, tmp_path):
    """Function (space, weight bits, activation bits, change) -> (frozen network, cost, file)."""

    def build(name: str, weights: int, activations: int, change=rounded):
        space = small.get(name) or dataclasses.replace(search_space.load(name, 2), channels=8)
        space = dataclasses.replace(space, cells=1, scale=2)
        slots, genotype = registry.slots(space), random_genotype(space, weights)
        precision = uniform_precision(slots, weights, activations)
        net = network.build(space, genotype, precision)
        network.initialise(net, pixels(2, *SIZE))
        if change:
            change(net)
        frozen = post_training.freeze(net)
        totals = cost.total(cost.layers(slots, genotype, precision, 2), 2)
        path = tmp_path / "m.onnx"
        qonnx.to_qonnx(frozen, totals, 2, SIZE, path)
        return frozen, totals, path

    return build


def executed(path, low) -> np.ndarray:
    return onnx_exec.execute_onnx(ModelWrapper(str(path)), {"lr": low.numpy()})["sr"]


@pytest.mark.parametrize(("name", "bits"), [*zip(NAMES, [3, 4, 2, 8, 4, 2, 4, 3], strict=True)])
def test_qonnx_computes_exactly_the_same(make, pixels, name, bits):
    net, _, path = make(name, bits, max(bits, 4))
    low = pixels(1, *SIZE, 5)
    with torch.no_grad():
        wanted = net(low).numpy()
    found = executed(path, low)
    assert found.shape == (1, 3, 32, 32) and np.array_equal(found, wanted)
    assert wanted.std() > 0.02


@pytest.mark.parametrize("name", ["apart", "rfdn_published"])
def test_fitted_steps_compute_the_same_but_for_a_rounding(make, pixels, name):
    net, _, path = make(name, 4, 8, change=None)
    low = pixels(1, *SIZE, 5)
    with torch.no_grad():
        wanted = net(low).numpy()
    error = (executed(path, low) - wanted) * 255
    assert np.abs(error).max() <= 2.01 and (error**2).mean() < 255**2 / 10**5.5  # 55 dB


def counted(path) -> dict[str, float]:
    """Costs that qonnx counts in a file without zero points: with one, a tensor counts as float.

    A weight that happens to be 0 counts like any other.
    """
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
    for node in model.graph.node:
        if node.op_type == "Quant":
            node.input[2] = "nothing"
    onnx.save(model, path.with_name("counted.onnx"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = inference_cost(str(path.with_name("counted.onnx")), discount_sparsity=False)
    return found["total_cost"]


@pytest.mark.parametrize(
    "name", ["apart", "plain", "edsr", pytest.param("rfdn_published", marks=pytest.mark.slow)]
)
def test_qonnx_counts_the_same_bitops(make, name):
    _, totals, path = make(name, 3, 4)
    found = counted(path)
    assert found["total_bops"] == cost.bitops_at(totals.layers, SIZE, 2)
    assert found["total_macs"] == sum(row.macs_at(*SIZE, 2) for row in totals.layers)


def test_of_a_transposed_convolution_qonnx_counts_the_empty_taps_too(make):
    _, totals, path = make("fsrcnn", 4, 8)
    *_, last = totals.layers
    extra = (4 * 5**2 - 9**2) * last.shape[1] * 16 * 16  # kernel 9x9, stride 2: four parts of 5x5
    assert counted(path)["total_macs"] == extra + sum(r.macs_at(*SIZE, 2) for r in totals.layers)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_layer_states_its_bits_and_stays_on_its_levels(make, bits):
    net, totals, path = make("apart", bits, 8, change=None)
    graph = onnx.load(path).graph
    value = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    convs = {node.name: node for node in graph.node if node.op_type == "Conv"}
    assert convs.keys() == {row.name for row in totals.layers}
    for name, conv in network.convolutions(net).items():
        x, weight, bias = (makers[i] for i in convs[name].input)
        assert [int(value[n.input[3]]) for n in (weight, bias)] == [conv.precision.weights, 32]
        assert int(value[x.input[3]]) == conv.grid.bits and value[x.input[1]].ndim == 0
        stored, step, zero = (value[i] for i in weight.input[:3])
        levels = stored / step + zero
        half = 2 ** (conv.precision.weights - 1)
        low, high = -half + (half == 128), half - 1
        assert np.abs(levels - levels.round()).max() < 1e-3
        assert low <= levels.round().min() and levels.round().max() <= high


def test_the_file_states_every_shape_and_the_cost(make):
    _, totals, path = make("rfdn_published", 4, 4)
    model = onnx.load(path)
    onnx.checker.check_model(model)
    shapes = [*model.graph.value_info, *model.graph.output]
    known = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in shapes}
    assert all(
        name in known and 0 not in known[name] for n in model.graph.node for name in n.output
    )
    assert not {"Shape", "QuantizeLinear"} & {node.op_type for node in model.graph.node}
    facts = json.loads({p.key: p.value for p in model.metadata_props}["quantnas"])
    assert facts["cost"]["bitops"] == totals.bitops and facts["scale"] == 2
