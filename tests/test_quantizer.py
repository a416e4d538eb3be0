"""Checks the grids of weights and activations against plain arithmetic and brute force."""

import numpy as np
import pytest
import torch

from quantnas import quantizer
from quantnas.quantizer import ActQuantizer, WeightQuantizer, fake_quantize, round_ste

LOW_BITS = [2, 3, 4]


def rows(count: int = 8, length: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, length)).astype(np.float32)


def rounded(x: np.ndarray, step: float, zero: float, top: float) -> np.ndarray:
    return np.clip(np.round(x / step), -zero, top - zero) * step


def fitted(weight: np.ndarray, bits: int) -> tuple[WeightQuantizer, torch.Tensor]:
    kernel = torch.from_numpy(weight)[:, :, None, None]
    grid = WeightQuantizer(bits, len(weight))
    grid.calibrate(kernel)
    return grid, kernel


# Rounding


def test_rounding_is_to_nearest_even_and_clips():
    x = torch.tensor([-1.0, 0.1, 0.125, 0.26, 0.375, 0.8, 5.0])
    found = fake_quantize(x, torch.tensor(0.25), torch.tensor(-1.0), torch.tensor(3.0))
    assert found.tolist() == [-0.25, 0.0, 0.0, 0.25, 0.5, 0.75, 0.75]


@pytest.mark.parametrize("value", [-2.5, -1.5, -0.7, 0.0, 0.3, 0.5, 1.5, 2.7, 1e7])
def test_straight_through_rounding_rounds_exactly_and_passes_gradients(value):
    x = torch.tensor(value, requires_grad=True)
    y = round_ste(x)
    y.backward()
    assert y.item() == float(np.round(value))
    assert x.grad.item() == 1.0


@pytest.mark.parametrize("shape", [(), (4, 1, 1, 1), (1, 3, 1, 1)])
def test_gradients_are_those_of_the_straight_through_composition(shape):
    x = torch.randn(4, 3, 5, 2, dtype=torch.float64) * 2
    step = torch.rand(shape, dtype=torch.float64) * 0.3 + 0.1
    lo, hi = -torch.ones_like(step) * 3, torch.ones_like(step) * 4
    weights = torch.randn_like(x)

    def composed(x, step, lo, hi):
        return torch.clamp(round_ste(x / step), lo, hi) * step

    results = []
    for function in (fake_quantize, composed):
        leaves = [t.clone().requires_grad_() for t in (x, step, lo, hi)]
        out = function(*leaves)
        (out * weights).sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    t = x / step
    assert (t < -3.5).any() and (t > 4.5).any() and ((t > -3) & (t < 4)).any()
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_of_an_int8_kernel_reach_weight_and_step_only():
    grid, kernel = fitted(rows(3, 20), 8)
    kernel.requires_grad_()
    grid(kernel).square().sum().backward()
    assert kernel.grad.abs().sum() > 0 and grid.log2_step.grad.abs().sum() > 0
    assert not grid.zero.requires_grad and grid.zero.grad is None


@pytest.mark.parametrize("bits", LOW_BITS)
def test_the_zero_point_learns(bits):
    grid, kernel = fitted(rows(3, 50) * 3, bits)
    grid(kernel).square().sum().backward()
    assert (grid.zero.grad.abs() > 0).any()


@pytest.mark.parametrize("bits", quantizer.BITS)
def test_rounding_twice_is_rounding_once(bits):
    grid, kernel = fitted(rows(), bits)
    once = grid(kernel)
    assert torch.equal(grid(once), once)
    act = ActQuantizer(bits, signed=True)
    once = act(kernel)
    assert torch.equal(act(once), once)


# Weights


@pytest.mark.parametrize("shift", [-0.8, 0.0, 0.8])
@pytest.mark.parametrize("bits", LOW_BITS)
def test_every_level_is_used_below_8_bits(bits, shift):
    grid, kernel = fitted(rows(4, 3000) + np.float32(shift), bits)
    q, _ = grid.integers(kernel)
    for channel in q:
        assert channel.unique().tolist() == list(range(2**bits))


@pytest.mark.parametrize("bits", LOW_BITS)
def test_kernels_of_one_sign_use_the_whole_grid_on_their_side(bits):
    positive = np.abs(rows(2, 500))
    for weight, zero in ((positive, 0), (-positive, 2**bits - 1)):
        grid, kernel = fitted(weight, bits)
        q, z = grid.integers(kernel)
        assert (z == zero).all()
        assert q.min() == 0 and q.max() == 2**bits - 1


@pytest.mark.parametrize("zero", [-3.7, 0.0, 0.4, 1.49, 2.51, 3.0, 99.0])
@pytest.mark.parametrize("bits", LOW_BITS)
def test_zero_is_on_the_grid_wherever_the_zero_point_has_learned_to(bits, zero):
    grid = WeightQuantizer(bits, 2)
    grid.zero.data.fill_(zero)
    kernel = torch.randn(2, 50, 1, 1)
    kernel[:, 0] = 0
    assert (grid(kernel)[:, 0] == 0).all()
    q, z = grid.integers(kernel)
    assert (z == min(max(round(zero), 0), 2**bits - 1)).all()
    assert q.min() >= 0 and q.max() <= 2**bits - 1
    assert (q - z).abs().max() <= 127


def test_8_bits_are_symmetric():
    weight = rows(4, 300)
    grid, kernel = fitted(weight, 8)
    q, z = grid.integers(kernel)
    assert (z == 0).all()
    assert q.min() >= -127 and q.max() <= 127
    other, _ = fitted(-weight, 8)
    assert torch.equal(other(-kernel), -grid(kernel))
    grid.log2_step.data.fill_(-20.0)
    q, _ = grid.integers(kernel)
    assert set(q.unique().tolist()) <= {-127, 0, 127} and q.min() == -127 and q.max() == 127


@pytest.mark.parametrize("bits", quantizer.BITS)
def test_integers_give_the_rounded_kernel_back(bits):
    grid, kernel = fitted(rows() + np.float32(0.3), bits)
    grid.zero.data.add_(0.0 if bits == 8 else 0.3)
    q, z = grid.integers(kernel)
    assert q.dtype == z.dtype == torch.int32
    assert torch.equal((q - z) * grid.step, grid(kernel))
    step, zero = grid.step.detach().numpy().ravel(), z.numpy().ravel()
    top, start = (127, -127) if bits == 8 else (2**bits - 1, 0)
    for k, row in enumerate(kernel[:, :, 0, 0].numpy()):
        expected = np.clip(np.round(row / step[k]) + zero[k], start, top)
        assert np.array_equal(q[k, :, 0, 0].numpy(), expected)


@pytest.mark.parametrize("bits", LOW_BITS)
def test_the_grid_beats_min_and_max(bits):
    weight = rows()
    grid, kernel = fitted(weight, bits)
    ours = ((grid(kernel) - kernel) ** 2).sum((1, 2, 3)).detach().numpy()
    top = 2.0**bits - 1
    for row, error in zip(weight, ours, strict=True):
        step = (row.max() - row.min()) / top
        zero = round(-row.min() / step)
        assert error < ((rounded(row, step, zero, top) - row) ** 2).sum()


@pytest.mark.parametrize("bits", LOW_BITS)
def test_the_grid_is_as_good_as_a_finer_search(bits):
    weight = rows(6, 150)
    grid, kernel = fitted(weight, bits)
    ours = ((grid(kernel) - kernel) ** 2).sum().item()
    top, best = 2.0**bits - 1, 0.0
    for row in weight.astype(np.float64):
        least = np.inf
        for high in np.linspace(0.25, 1.0, 50) * row.max():
            low = np.linspace(0.25, 1.0, 50)[:, None] * row.min()
            step = (high - low) / top
            zero = np.round(-low / step)
            q = np.clip(np.round(row / step), -zero, top - zero)
            least = min(least, ((q * step - row) ** 2).sum(1).min())
        best += least
    assert ours < 1.02 * best


def test_the_8_bit_grid_is_as_good_as_a_finer_search():
    weight = rows(6, 150)
    grid, kernel = fitted(weight, 8)
    ours = ((grid(kernel) - kernel) ** 2).sum().item()
    best = 0.0
    for row in weight.astype(np.float64):
        steps = np.linspace(0.3, 1.0, 500)[:, None] * np.abs(row).max() / 127
        q = np.clip(np.round(row / steps), -127, 127)
        best += ((q * steps - row) ** 2).sum(1).min()
    assert ours < 1.1 * best


@pytest.mark.parametrize("bits", quantizer.BITS)
def test_a_dead_channel_has_a_grid_and_stays_zero(bits):
    weight = rows(3)
    weight[1] = 0
    grid, kernel = fitted(weight, bits)
    found = grid(kernel)
    assert torch.isfinite(grid.log2_step).all() and torch.isfinite(found).all()
    assert (found[1] == 0).all() and (found[0] != 0).any()


# Activations


@pytest.mark.parametrize("bits", quantizer.BITS)
def test_the_grid_after_a_relu_starts_at_zero(bits):
    grid = ActQuantizer(bits)
    assert [b.item() for b in grid.bounds()] == [0, 2**bits - 1]
    assert grid.zero_point == 0
    assert (grid(torch.tensor([-5.0, -0.01])) == 0).all()


@pytest.mark.parametrize("bits", quantizer.BITS)
def test_the_grid_of_signed_data_is_stored_around_the_middle(bits):
    grid = ActQuantizer(bits, signed=True)
    assert grid.zero_point == 2 ** (bits - 1)
    lo, hi = (b.item() for b in grid.bounds())
    assert lo + grid.zero_point == 0 and hi + grid.zero_point == 2**bits - 1
    assert grid(torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", quantizer.BITS)
def test_the_fitted_step_is_as_good_as_a_finer_search(bits, signed):
    x = torch.randn(5000)
    x = x if signed else x.relu()
    grid = ActQuantizer(bits, signed)
    grid.calibrate(x)
    ours = (grid(x) - x).square().mean().item()
    lo, hi = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    data = x.double().numpy()
    best = min(
        float(((np.clip(np.round(data / s), lo, hi) * s - data) ** 2).mean())
        for s in np.linspace(0.02, 1.0, 500) * np.abs(data).max() / max(hi, 1)
    )
    assert ours < 1.02 * best


def test_an_activation_that_is_always_zero_has_a_grid():
    grid = ActQuantizer(8)
    grid.calibrate(torch.zeros(2, 3, 4, 5))
    assert torch.isfinite(grid.log2_step) and (grid(torch.zeros(4)) == 0).all()


def test_a_fixed_grid_does_not_move_and_carries_pixels_without_loss():
    grid = ActQuantizer(8, step=1 / 255)
    before = grid.log2_step.clone()
    grid.calibrate(torch.rand(100) * 7)
    assert torch.equal(grid.log2_step, before) and not grid.log2_step.requires_grad
    x = torch.arange(256) / 255
    assert torch.equal((grid(x) * 255).round(), torch.arange(256.0))
    torch.testing.assert_close(grid(x), x, rtol=1e-6, atol=0)


# Fitting a network


def test_calibrating_fits_front_to_back_and_then_lets_go():
    first, second = ActQuantizer(2), ActQuantizer(8)
    net = torch.nn.Sequential(first, second)
    x = torch.rand(1000) * 3
    with quantizer.calibrating(net):
        net(x)
    alone = ActQuantizer(2)
    alone.calibrate(x)
    assert torch.equal(first.log2_step, alone.log2_step)
    alone = ActQuantizer(8)
    alone.calibrate(first(x))
    assert torch.equal(second.log2_step, alone.log2_step)
    before = first.log2_step.clone()
    net(x * 10)
    assert torch.equal(first.log2_step, before)


def test_a_grid_that_carries_several_tensors_is_fitted_to_all_of_them():
    grid = ActQuantizer(8)
    with quantizer.calibrating(grid):
        grid(torch.linspace(0, 1, 500))
        grid(torch.linspace(0, 0.2, 500))
    assert 255 * grid.step.item() > 0.9
