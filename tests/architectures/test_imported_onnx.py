"""Checks imported networks: signs of what layers read, and kernels that several layers share."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantnas.architectures import cost, imported_onnx, network, onnx_survey, registry
from quantnas.config import search_space
from quantnas.config.genotype import uniform_precision
from quantnas.config.run_config import ExportConfig, QuantizeConfig, RunConfig
from quantnas.config.search_space import Precision, SearchSpace
from quantnas.data import bicubic, image_files, patches
from quantnas.errors import DataError
from quantnas.exporters import graph_surgery, onnx_metadata, verification
from quantnas.quantization import (
    baselines,
    bit_widths,
    least_squares,
    post_training,
    retraining,
    saliency,
)
from quantnas.runs import networks
from quantnas.runs.run_folder import Run

CASES = Path(__file__).parents[1] / "cases"
pytestmark = pytest.mark.filterwarnings("ignore")


def crops(count: int = 8) -> Tensor:
    """Low-resolution crops of bundled photographs, (N, 3, 32, 32) in [0, 1]."""
    photographs = map(image_files.read, image_files.bundled().held_out)
    small = [bicubic.resize(photo, 96, 96, antialias=True) for photo in photographs]
    return patches.to_tensor(
        np.stack([p[y : y + 32, 32:64] for p in small for y in (0, 64)][:count])
    )


def space_of(path: Path) -> SearchSpace:
    return SearchSpace("it", "onnx", 2, 0, 0, {}, source=str(path))


def built(space: SearchSpace, bits: int | None, acts: int = 8) -> nn.Module:
    slots = registry.slots(space)
    precision = None if bits is None else uniform_precision(slots, bits, acts)
    return network.build(space, onnx_survey.genotype(space), precision)


def improved(space: SearchSpace, teacher: nn.Module, bits: int, acts: int = 8) -> nn.Module:
    """The network rounded by least squares."""
    net = built(space, bits, acts)
    network.inherit(net, teacher)
    list(least_squares.improve(net, teacher, crops()))
    return net


def closeness(net: nn.Module, teacher: nn.Module) -> float:
    """PSNR between the outputs of two networks, dB."""
    with torch.no_grad():
        error = (net.eval()(crops()) - teacher.eval()(crops())).square().mean()
    return float(-10 * error.log10())


def test_values_below_zero_behind_a_relu_are_not_cut():
    """The file multiplies the output of a ReLU by -0.5."""
    space = space_of(CASES / "negative_factor.onnx")
    teacher = built(space, None)
    net = improved(space, teacher, 8)
    assert closeness(net, teacher) > 45
    grids = [conv.input_quantizer for conv in network.convolutions(net).values()]
    assert grids[0] is None and grids[1].zero_point > 200 and grids[2].zero_point == 0


# Shared kernels


class Recursive(nn.Module):
    """A network that applies one convolution four times."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body, self.tail = (
            nn.Conv2d(3, 24, 3, padding=1),
            nn.Conv2d(24, 24, 3, padding=1),
            nn.Conv2d(24, 12, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.head(x))
        for _ in range(4):
            y = F.relu(self.body(y)) + 0.5 * y
        return F.pixel_shuffle(self.tail(y), 2)


def exported(net: nn.Module, path: Path) -> SearchSpace:
    torch.onnx.export(
        net.eval(), (torch.rand(1, 3, 24, 20),), path, opset_version=13,
        dynamo=False, input_names=["x"], output_names=["y"],
        dynamic_axes={"x": {0: "n", 2: "h", 3: "w"}},
    )  # fmt: skip
    return space_of(path)


@pytest.fixture
def space(tmp_path: Path) -> SearchSpace:
    return exported(Recursive(), tmp_path / "m.onnx")


def test_a_shared_kernel_is_one_slot_after_the_other_with_the_same_bits_and_counts_once(space):
    slots = registry.slots(space)
    first = slots[1]
    assert [slot.kernel for slot in slots] == ["", "", *[first.name] * 3, ""]
    precision = uniform_precision(slots, 2)
    rows = cost.layers(slots, onnx_survey.genotype(space), precision, 2)
    assert [row.weight_bytes for row in rows[1:-1]] == [24 * 24 * 9 / 4, 0, 0, 0]
    assert all(row.macs == rows[1].macs for row in rows[2:-1])
    inner = bit_widths.reached(space, onnx_survey.genotype(space), precision)["average_bits"]
    assert inner == 2


class Repeated(Recursive):
    """A network whose only way through is one convolution, applied eight times."""

    def __init__(self, share: float) -> None:
        """share: what the random kernel adds to 0.7 times the identity."""
        super().__init__()
        with torch.no_grad():
            identity = nn.init.dirac_(torch.empty_like(self.body.weight))
            self.body.weight.mul_(share).add_(0.7 * identity)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.head(x))
        for _ in range(8):
            y = F.relu(self.body(y))
        return F.pixel_shuffle(self.tail(y), 2)


@pytest.mark.parametrize(("share", "least", "gain"), [(1.0, 33, 10), (2.0, 17, 0)])
def test_a_shared_kernel_is_fitted_to_the_rounded_inputs_of_all_its_layers(
    tmp_path, share, least, gain
):
    """The second pass is kept where it helps: at share 2, the first one is nearer."""
    space = exported(Repeated(share), tmp_path / "m.onnx")
    teacher, low = built(space, None), crops()
    once = built(space, 2)
    network.inherit(once, teacher)
    targets = least_squares._outputs(teacher, low)
    shared = least_squares._shared_grams(teacher, teacher, targets, low)
    list(least_squares._pass(once, targets, shared, low))
    before, after = closeness(once, teacher), closeness(improved(space, teacher, 2), teacher)
    assert after > least
    assert after > before + gain if gain else after == before


@pytest.mark.parametrize("limit", [{"average_bits": 3.5}, {"target_bitops": 1e9}])
def test_chosen_bits_are_the_same_for_all_uses(space, limit):
    config = RunConfig(quantize=QuantizeConfig(**limit))
    teacher = built(space, None)
    found = bit_widths.plan(space, onnx_survey.genotype(space), config, teacher, crops(2))
    inner = list(found.precision.values())[1:-1]
    assert len(set(inner)) == 1 and inner[0] != Precision(8, 8)


def test_the_saliency_of_a_shared_kernel_is_that_of_changing_all_its_uses(space):
    teacher = built(space, None)
    low = crops(2)
    found = saliency.measure(teacher, low, draws=24)
    first, *others = [slot.name for slot in registry.slots(space)][1:-1]
    assert not any(found.weights[name].any() for name in others)
    change = 1e-3 * torch.randn(found.weights[first].shape)
    changed = built(space, None)
    with torch.no_grad():
        for name in (first, *others):
            network.convolutions(changed)[name].weight.add_(change)
        post_training.correct_biases(changed, teacher, low)
        measured = float((changed(low) - teacher(low)).square().mean())
    predicted = float(saliency.predicted_error(found, {first: change}))
    assert predicted == pytest.approx(measured, rel=0.6)


@pytest.mark.parametrize(("bits", "acts"), [(2, 8), (4, 4), (8, 8)])
def test_a_shared_kernel_is_stored_once(space, bits, acts, tmp_path):
    teacher = built(space, None)
    net = post_training.freeze(improved(space, teacher, bits, acts))
    convs = [*network.convolutions(net).values()][1:-1]
    assert all(torch.equal(conv.weight, convs[0].weight) for conv in convs)
    slots = registry.slots(space)
    precision = uniform_precision(slots, bits, acts)
    totals = cost.network_cost(space, onnx_survey.genotype(space), precision)
    target = tmp_path / "out.onnx"
    graph_surgery.to_onnx(net, totals, space, target, ExportConfig())
    image = np.random.default_rng(1).integers(0, 256, (20, 31, 3), np.uint8)
    assert verification.verify(target, net, [image]).integer_convolutions == 6
    told = onnx_metadata.read_metadata(target).cost
    assert told is not None and [row.parameters for row in told.layers] == [
        r.parameters for r in totals.layers
    ]
    stored = totals.weight_bytes
    assert stored == (3 * 24 * 9 + 24 * 12 * 9) + 24 * 24 * 9 * bits / 8
    assert target.stat().st_size < stored + 8_000


@pytest.mark.parametrize("trained", ["weights", "lowrank:2"])
def test_retraining_keeps_a_kernel_shared(space, trained):
    teacher = built(space, None)
    net = improved(space, teacher, 2)
    retraining.set_trainable(net, trained)
    state = retraining.start(net, teacher, crops(2), 0.01)
    before = network.convolutions(net)["body"].weight.detach().clone()
    for _ in range(2):
        loss = (net(crops(2)) - teacher(crops(2)).detach()).square().mean()
        loss.backward()
        state.optimizer.step()
    learned = network.convolutions(net)["body"].weight.detach().clone()
    retraining.merge(net)
    convs = [*network.convolutions(net).values()][1:-1]
    assert not torch.equal(learned, before)
    assert all(torch.allclose(conv.weight, learned) for conv in convs)


@pytest.mark.slow
def test_a_baseline_sets_a_shared_kernel_once(space):
    teacher, net = built(space, None), built(space, 4)
    list(baselines.apply("adaround", net, teacher, crops(4)))
    assert closeness(post_training.freeze(net), teacher) > 20


def test_files_hold_what_is_shared_and_refuse_what_was_not(space, tmp_path):
    teacher = built(space, None)
    net = post_training.freeze(improved(space, teacher, 4, 4))
    network.save(net, tmp_path / "net.safetensors", space)
    again = built(space, 4, 4)
    network.load(again, tmp_path / "net.safetensors", space)
    assert closeness(again, net) > 90
    state = {name: value.clone() for name, value in net.state_dict().items()}
    name = next(n for n in state if n.endswith("weight") and "body_1" in n)
    state[name] += 1
    network.save_tensors(state, tmp_path / "old.safetensors", space)
    with pytest.raises(DataError, match="earlier version"):
        network.load(again, tmp_path / "old.safetensors", space)
    more = {**net.state_dict(), "inner.body.0.input_quantizer.octaves": torch.zeros(24)}
    network.save_tensors(more, tmp_path / "older.safetensors", space)
    with pytest.raises(DataError, match="earlier version, in which no kernels were shared"):
        network.load(again, tmp_path / "older.safetensors", space)
    network.save_tensors({**more, "else": torch.zeros(1)}, tmp_path / "other.safetensors", space)
    with pytest.raises(DataError, match="another network"):
        network.load(again, tmp_path / "other.safetensors", space)


def test_a_run_whose_layers_were_others_is_to_be_quantized_again(space, tmp_path):
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    kept = imported_onnx.kept(space, run.folder)
    run.path("space.yaml").write_text(search_space.to_yaml(kept))
    genotype = onnx_survey.genotype(space)
    run.path("genotype.json").write_text(genotype.to_json())
    assert networks.architecture(run)[1] == genotype
    fewer = dict(list(genotype.choices.items())[1:])
    run.path("genotype.json").write_text(dataclasses.replace(genotype, choices=fewer).to_json())
    with pytest.raises(DataError, match="earlier version, with other layers") as caught:
        networks.architecture(run)
    assert "source.onnx again; the model.onnx of this run stays usable" in caught.value.remedy


def test_what_was_asked_for_and_not_done_is_said(space):
    config = RunConfig(bits=2)
    slots = registry.slots(space)
    told = bit_widths.kept(space, config, uniform_precision(slots, 2))
    assert told == "2 of 6 layers are not w2a8, but w8a8 at the ends (head, tail)"
    config = dataclasses.replace(config, bits=8)
    assert bit_widths.kept(space, config, uniform_precision(slots, 8)) is None
