"""Checks the saliency against the whole Jacobian, against closed form, and against real changes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from quantnas.architectures import network
from quantnas.config.search_space import Precision, Slot
from quantnas.nn import operations
from quantnas.nn.convolutions import Conv2d, padding
from quantnas.quantization import saliency


@pytest.fixture
def net(tiny, random_genotype) -> nn.Module:
    """A network in float; one of its slots has two convolutions."""
    return network.build(tiny, random_genotype(tiny, 4), None).eval()


@pytest.fixture
def found(net, pixels) -> saliency.Saliency:
    return saliency.measure(net, pixels(2, 3, 4), draws=100)


def shifted(conv: nn.Module, change) -> torch.utils.hooks.RemovableHandle:
    """Register a hook that adds `change(x)` to the input x of a convolution."""
    return conv.register_forward_pre_hook(lambda m, args: (args[0] + change(args[0]),))


def mean_error(net, low, change, times: int = 40) -> float:
    """Mean squared error of the output over random changes; `change` returns its own undoing."""
    with torch.no_grad():
        expected, errors = net(low), []
        for _ in range(times):
            undo = change()
            errors.append((net(low) - expected).double().square().mean().item())
            undo()
    return sum(errors) / times


@pytest.mark.parametrize("draws", [1, 3])
def test_of_one_pixel_it_is_known_in_closed_form(draws):
    conv = Conv2d(3, 2, 1)
    conv.name = "only"
    x = torch.rand(4, 3, 1, 1)
    found = saliency.measure(conv, x, draws)
    expected = (x - x.mean(0)).square().sum(0).view(1, 3, 1, 1) / (4 * 2)  # of two outputs
    torch.testing.assert_close(found.weights["only"], expected.expand(2, 3, 1, 1))


def test_it_is_the_diagonal_of_the_whole_jacobian(net, found, pixels):
    low, convs = pixels(2, 3, 4), network.convolutions(net)
    shifts: dict[str, torch.Tensor] = {}
    read: dict[str, torch.Tensor] = {}
    for name, conv in convs.items():

        def change(x, name=name):
            read[name] = x.detach()
            shifts[name] = torch.zeros_like(x).requires_grad_()
            return shifts[name]

        shifted(conv, change)
    out = net(low).flatten()
    expected = [t for name, c in convs.items() for t in (c.weight, c.bias, shifts[name])]
    rows = [torch.autograd.grad(y, expected, retain_graph=True) for y in out]
    jacobians = iter([torch.stack(parts) for parts in zip(*rows, strict=True)])
    for (name, conv), dw, db, dx in zip(
        convs.items(), jacobians, jacobians, jacobians, strict=True
    ):
        columns = F.unfold(read[name], conv.kernel_size, padding=padding(conv.weight, 1))
        mean = columns.mean((0, 2)).view(conv.groups, 1, -1)
        mean = mean.expand(-1, len(conv.weight) // conv.groups, -1).reshape(conv.weight.shape)
        of_weight = (dw - db[:, :, None, None, None] * mean).square().sum(0) / len(out)
        of_input = dx.square().sum(0) / len(out)
        assert found.weights[name].shape == conv.weight.shape
        assert found.inputs[name].shape == (convs[name].in_channels,)
        exact = of_input.sum((0, 2, 3))
        assert (found.weights[name] - of_weight).norm() <= 0.2 * of_weight.norm(), name
        assert (found.inputs[name] - exact).norm() <= 0.2 * exact.norm(), name


def require_prediction(net, low, found) -> None:
    """Compare prediction and error for small changes of weights with corrected mean outputs."""
    for name, conv in network.convolutions(net).items():
        size = 1e-3 * torch.rand_like(conv.weight)  # so that it matters which weight is which

        def change(conv=conv, name=name, size=size):
            before = copy.deepcopy(conv.state_dict())
            mean = mean_output(net, low, name)
            conv.weight.add_(size * torch.randn_like(size))
            missing = mean - mean_output(net, low, name)
            conv.bias.add_(missing.view(len(conv.bias), -1).mean(1))
            return lambda: conv.load_state_dict(before)

        true = mean_error(net, low, change)
        assert saliency.predicted_error(found, {name: size}).item() == pytest.approx(
            true, rel=0.3
        ), name


def mean_output(net, low, name: str) -> torch.Tensor:
    """The mean output (c_out,) of a convolution."""
    means = []
    hook = network.convolutions(net)[name].register_forward_hook(
        lambda m, args, out: means.append(out.mean((0, 2, 3)))
    )
    net(low)
    hook.remove()
    return means[0]


def test_it_predicts_the_error_that_small_changes_of_weights_make(net, found, pixels):
    require_prediction(net.double(), pixels(2, 3, 4).double(), found)


@pytest.mark.parametrize("name", ["transposed9x9", "conv3x3_groups2", "separable3x3"])
def test_it_does_whatever_the_operation(pixels, name):
    up = 2 if name.startswith("transposed") else 1
    slot = Slot("body", 4, 4, 4 * up**2, (name,), (Precision(8, 8),), up=up)
    net = nn.Sequential(Conv2d(3, 4, 3, stride=2), operations.build(name, Conv2d, slot)).double()
    for i, conv in enumerate(m for m in net.modules() if isinstance(m, Conv2d)):
        conv.name = f"c{i}"
    low = pixels(2, 6, 7).double()
    require_prediction(net, low, saliency.measure(net, low, draws=100))


def test_it_predicts_the_error_that_small_changes_of_one_input_make(net, found, pixels):
    for name, conv in network.convolutions(net).items():
        size = 1e-3 * torch.rand(conv.in_channels, 1, 1)

        def change(conv=conv, size=size):
            return shifted(conv, lambda x: size * torch.randn_like(x)).remove

        true = mean_error(net, pixels(2, 3, 4), change)
        predicted = saliency.predicted_error(found, {}, {name: size.square().flatten()})
        assert predicted.item() == pytest.approx(true, rel=0.3), name


def test_predictions_add_up_and_have_a_gradient(found):
    changes = {name: torch.randn_like(f).requires_grad_() for name, f in found.weights.items()}
    inputs = {name: torch.rand_like(f) for name, f in found.inputs.items()}
    parts = [saliency.predicted_error(found, {name: d}) for name, d in changes.items()]
    parts += [saliency.predicted_error(found, {}, {name: d}) for name, d in inputs.items()]
    whole = saliency.predicted_error(found, changes, inputs)
    torch.testing.assert_close(whole, torch.stack(parts).sum())
    whole.backward()
    for name, d in changes.items():
        torch.testing.assert_close(d.grad, 2 * found.weights[name] * d.detach())


def test_the_seed_decides_and_the_network_stays_as_it_is(net, pixels, equal_states):
    net.train().requires_grad_(False)
    before, low = {k: v.clone() for k, v in net.state_dict().items()}, pixels(2, 3, 4)
    with torch.no_grad():
        first, again, other = (saliency.measure(net, low, 2, seed) for seed in (0, 0, 1))
    assert equal_states(first.weights, again.weights)
    assert equal_states(first.inputs, again.inputs)
    assert not equal_states(first.weights, other.weights)
    assert equal_states(before, net.state_dict())
    assert net.training
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert not any(m._forward_pre_hooks for m in net.modules())
    assert not low.requires_grad


def test_networks_of_every_macro_architecture_have_one(small, random_genotype, pixels):
    for name, space in small.items():
        net = network.build(space, random_genotype(space, 1), None)
        found = saliency.measure(net, pixels(1, 15, 16), draws=1)
        assert list(found.weights) == list(found.inputs) == list(network.convolutions(net)), name
        for f in (*found.weights.values(), *found.inputs.values()):
            assert f.isfinite().all(), name
            assert (f >= 0).all(), name
