"""Checks the grids of weights and activations against plain arithmetic and brute force."""

import itertools

import numpy as np
import pytest
import torch

from quantnas.nn import quantizers
from quantnas.nn.quantizers import ActQuantizer, WeightQuantizer, fake_quantize, round_ste

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


def learning(bits: int, signed: bool, log2: float, zero: float | None = None) -> ActQuantizer:
    """A quantizer in float64 with the step 2^log2 and that zero point."""
    grid = ActQuantizer(bits, signed).double()
    grid.log2_step.data.fill_(log2)
    if zero is not None:
        grid.zero.data.fill_(zero)
    return grid


@pytest.mark.parametrize("zero", [-3.0, 0.0, 0.3, 2.4, 2.6, 7.0, 20.0])
@pytest.mark.parametrize("bits", [2, 3])
def test_a_signed_grid_is_the_formula_with_its_gradients(bits, zero):
    grid, x = learning(bits, True, -1.3, zero), torch.randn(40, 5, dtype=torch.float64) * 3
    weights, top = torch.randn_like(x), 2**bits - 1
    log2, z, given = (t.detach().clone().requires_grad_() for t in (grid.log2_step, grid.zero, x))
    step, rounded_z = log2.exp2(), round_ste(z).clamp(0, top)
    wanted = torch.clamp(round_ste(given / step), -rounded_z, top - rounded_z) * step
    (wanted * weights).sum().backward()
    out = grid(x.requires_grad_())
    (out * weights).sum().backward()
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)
    pairs = ((grid.log2_step, log2), (grid.zero, z), (x, given))
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    assert (grid.zero.grad != 0) == (0 <= zero <= top)


@pytest.mark.parametrize(("signed", "zero"), [(False, None), (True, 3.0)])
def test_where_everything_is_clipped_gradients_are_finite_differences(signed, zero):
    """Rounding has no gradient, but the ends of the range move with step and zero point."""
    x = torch.tensor([-40.0, -30, 50, 60, 70], dtype=torch.float64)
    weights = torch.tensor([1.0, 2, 3, -1, 0.5], dtype=torch.float64)

    def total(log2: float, shift: int) -> torch.Tensor:
        grid = learning(3, signed, log2, None if zero is None else zero + shift)
        return (grid(x) * weights).sum()

    grid = learning(3, signed, -1.3, zero)
    (grid(x) * weights).sum().backward()
    by_step = (total(-1.3 + 1e-6, 0) - total(-1.3 - 1e-6, 0)) / 2e-6
    torch.testing.assert_close(grid.log2_step.grad, by_step.detach(), rtol=1e-6, atol=0)
    if signed:
        by_zero = (total(-1.3, 1) - total(-1.3, -1)) / 2
        torch.testing.assert_close(grid.zero.grad, by_zero.detach(), rtol=1e-9, atol=0)
    else:
        assert not grid.zero.requires_grad


@pytest.mark.parametrize("given", [{"step": 0.1}, {"step": 0.1, "signed": True}])
def test_a_fixed_grid_learns_nothing(given):
    assert not any(p.requires_grad for p in ActQuantizer(8, **given).parameters())


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


@pytest.mark.parametrize("bits", quantizers.BITS)
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


@pytest.mark.parametrize("bits", quantizers.BITS)
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


@pytest.mark.parametrize("bits", quantizers.BITS)
def test_a_dead_channel_has_a_grid_and_stays_zero(bits):
    weight = rows(3)
    weight[1] = 0
    grid, kernel = fitted(weight, bits)
    found = grid(kernel)
    assert torch.isfinite(grid.log2_step).all() and torch.isfinite(found).all()
    assert (found[1] == 0).all() and (found[0] != 0).any()


# Activations


@pytest.mark.parametrize("bits", quantizers.BITS)
def test_the_grid_after_a_relu_starts_at_zero(bits):
    grid = ActQuantizer(bits)
    assert [b.item() for b in grid.bounds()] == [0, 2**bits - 1]
    assert grid.zero_point == 0
    assert (grid(torch.tensor([-5.0, -0.01])) == 0).all()


@pytest.mark.parametrize("bits", quantizers.BITS)
def test_the_grid_of_signed_data_begins_around_the_middle(bits):
    grid = ActQuantizer(bits, signed=True)
    assert grid.zero_point == 2 ** (bits - 1)
    lo, hi = (b.item() for b in grid.bounds())
    assert lo + grid.zero_point == 0 and hi + grid.zero_point == 2**bits - 1
    assert grid(torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", quantizers.BITS)
def test_the_fitted_step_is_as_good_as_a_finer_search(bits, signed):
    x = torch.randn(5000)
    x = x if signed else x.relu()
    grid = ActQuantizer(bits, signed)
    grid.calibrate(x)
    ours = (grid(x) - x).square().mean().item()
    top, data = 2**bits - 1, x.double().numpy()
    zeros = {2 ** (bits - 1), 2 ** (bits - 1) - 1} if signed else {0}
    best = min(
        float(((rounded(data, s, z, top) - data) ** 2).mean())
        for s in np.linspace(0.02, 1.0, 300) * np.ptp(data) / top
        for z in zeros
    )
    assert ours < 1.1 * best


@pytest.mark.parametrize("bits", quantizers.BITS)
def test_a_zero_point_is_fitted_to_signed_data(bits):
    top, data = 2**bits - 1, torch.randn(5000)
    for low, zero in ((-1.0, top), (0.0, 0)):  # never positive, and never negative
        grid = ActQuantizer(bits, signed=True)
        grid.calibrate(data.clamp(low * 9, (1 + low) * 9))
        assert grid.zero_point == zero and grid.zero == zero
    leaky = torch.nn.functional.leaky_relu(data, 0.05)
    grid.calibrate(leaky)
    assert 0 <= grid.zero_point <= 0.15 * top
    middle = ActQuantizer(bits)
    middle.calibrate(data.abs())
    symmetric = 2 * middle.step  # the step of a grid around the middle with the same upper end
    assert grid.step < 0.75 * symmetric


@pytest.mark.parametrize("bits", quantizers.BITS)
def test_data_that_are_never_negative_lose_nothing_on_a_signed_grid(bits):
    x = torch.rand(3000)
    grids = [ActQuantizer(bits, signed) for signed in (False, True)]
    for grid in grids:
        grid.calibrate(x)
    unsigned, signed = ((grid(x) - x).square().mean().item() for grid in grids)
    assert signed == pytest.approx(unsigned, rel=0.1)
    assert grids[1].zero_point == grids[0].zero_point == 0
    assert grids[1].step < 1.1 / (2**bits - 1)  # half of what a zero point in the middle needs


@pytest.mark.parametrize("bits", quantizers.BITS)
def test_unsigned_grids_keep_the_zero_point_0(bits):
    grid = ActQuantizer(bits)
    grid.calibrate(torch.randn(500) - 3)
    assert grid.zero_point == 0 and (grid(torch.randn(50)) >= 0).all()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("x", [torch.zeros(9), torch.full((9,), 0.7), torch.full((9,), -0.7)])
@pytest.mark.parametrize("bits", quantizers.BITS)
def test_constant_data_have_a_grid(bits, x, signed):
    grid = ActQuantizer(bits, signed)
    grid.calibrate(x)
    assert torch.isfinite(grid.log2_step) and 0 <= grid.zero_point <= 2**bits - 1
    wanted = x if signed else x.relu()
    torch.testing.assert_close(grid(x), wanted, rtol=0.01, atol=0)


# Octaves


def octaves(bits: int, *found: float, signed: bool = True) -> ActQuantizer:
    grid = ActQuantizer(bits, signed, channels=len(found))
    grid.octaves.data.copy_(torch.tensor(found))
    return grid


def test_the_step_of_a_channel_is_the_common_one_times_two_to_its_octave():
    """The factors are powers of two, so the results agree to the last bit."""
    grid, x = octaves(3, 0, -2, -5, 3), torch.randn(2, 4, 5, 6)
    x = x * grid.factors
    grid.log2_step.data.fill_(-2.0)
    grid.zero.data.fill_(3.0)
    for c in range(4):
        alone = learning(3, True, -2.0 + grid.octaves[c].item(), 3.0).float()
        assert torch.equal(grid(x)[:, c], alone(x[:, c]))


def test_all_channels_are_fitted_by_what_they_are_in_units_of_their_octave():
    grid, plain, x = octaves(4, 0, -3), ActQuantizer(4, True), torch.randn(2, 2, 9, 9)
    plain.calibrate(x)
    grid.calibrate(x * grid.factors)
    assert torch.equal(grid.log2_step, plain.log2_step) and torch.equal(grid.zero, plain.zero)


def test_gradients_pass_octaves():
    grid, x = octaves(3, 0, -2).double(), torch.randn(2, 2, 9, 9, dtype=torch.float64)
    plain = learning(3, True, -6.0, 4.0)
    weights = torch.randn_like(x)
    factors = grid.factors.detach()
    first, second = ((x * f).requires_grad_() for f in (factors, 1))
    (grid(first) * weights).sum().backward()
    (plain(second) * weights * factors).sum().backward()
    torch.testing.assert_close(first.grad * factors, second.grad)
    torch.testing.assert_close(grid.log2_step.grad, plain.log2_step.grad)
    torch.testing.assert_close(grid.zero.grad, plain.zero.grad)


def test_an_octave_learns_as_the_step_of_its_channel_alone_would():
    found = [0.0, -2.3, 0.7]
    grid, x = octaves(3, *found).double(), torch.randn(2, 3, 9, 9, dtype=torch.float64) * 3
    weights = torch.randn_like(x)
    grid.log2_step.data.fill_(-0.4)
    (grid(x) * weights).sum().backward()
    for c, octave in enumerate(found):
        alone = learning(3, True, -0.4 + octave, 4.0)
        (alone(x[:, c]) * weights[:, c]).sum().backward()
        torch.testing.assert_close(grid.octaves.grad[c], alone.log2_step.grad)


@pytest.mark.parametrize("gain", [0.01, 1.0, 100.0])
def test_the_common_step_suits_the_channels_that_count(gain):
    """The error after the convolution is about as small as with the best of many other steps."""
    x = torch.randn(2, 2, 40, 40).abs() ** torch.tensor([1.0, 4.0])[:, None, None]
    grid, gains = ActQuantizer(3, channels=2), torch.tensor([1.0, gain])
    grid.spread(x, gains)

    def noise() -> float:
        return ((grid(x) - x).square().mean((0, 2, 3)) * gains).sum().item()

    grid.calibrate(x)
    ours, fitted = noise(), grid.log2_step.item()
    every = []
    for shift in torch.linspace(-3, 3, 200):
        grid.log2_step.data.fill_(fitted + shift)
        every.append(noise())
    assert ours < 1.03 * min(every)


def spread(x: torch.Tensor, gains: torch.Tensor) -> list[float]:
    grid = ActQuantizer(4, channels=x.shape[1])
    grid.spread(x, gains)
    return grid.octaves.tolist()


def test_larger_channels_get_coarser_steps_unless_more_is_made_of_them():
    x = torch.ones(2, 4, 3, 3) * torch.tensor([16.0, 1, 1 / 16, 0])[:, None, None]
    assert spread(x, torch.ones(4)) == [0, -3, -6, 0]  # (range^6)^(1/8); dead ones do not matter
    assert spread(x, torch.tensor([1.0, 1 / 256, 1, 1])) == [0, -2, -6, 0]
    assert spread(x[:, :1] * 7, torch.ones(1)) == [0]


def test_steps_are_not_further_apart_than_agreed():
    x = torch.ones(1, 2, 3, 3) * torch.tensor([1.0, 1e-4])[:, None, None]
    assert spread(x, torch.ones(2)) == [0, -quantizers.OCTAVES]
    assert spread(torch.zeros(1, 2, 3, 3), torch.zeros(2)) == [0, 0]


def test_octaves_follow_a_channel_that_is_scaled_against_its_kernel():
    x, gains = torch.randn(2, 5, 8, 8), torch.rand(5) + 0.1
    shift = torch.tensor([0.0, 1, -2, 3, -1])
    before = torch.tensor(spread(x, gains))
    after = torch.tensor(spread(x * shift.exp2()[:, None, None], gains / (2 * shift).exp2()))
    moved = before + shift
    torch.testing.assert_close(after, moved - moved.max())


def test_the_spread_is_as_good_as_any():
    """Brute force over integers minimises (norm of order 6)^2 times the sum of gain * factor^2."""
    x = torch.randn(2, 3, 8, 8) * torch.tensor([5.0, 1, 0.1])[:, None, None]
    gains = torch.tensor([1.0, 9, 2])

    def noise(found: tuple[float, ...]) -> float:
        f = torch.tensor(found).exp2()
        reach = (x / f[:, None, None]).abs().pow(6).mean((0, 2, 3)).sum() ** (2 / 6)
        return (reach * (gains * f**2).sum()).item()

    best = min(map(noise, itertools.product(*[torch.arange(-8.0, 1).tolist()] * 3)))
    assert noise(tuple(spread(x, gains))) <= 1.0001 * best
    assert noise((0, 0, 0)) > 2 * best


def test_without_channels_there_are_no_octaves():
    grid = ActQuantizer(4)
    grid.spread(torch.rand(1, 3, 2, 2), torch.ones(3))
    assert grid.octaves is None and grid.factors is None
    assert set(grid.state_dict()) == {"log2_step", "zero"}


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
    with quantizers.calibrating(net):
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
    with quantizers.calibrating(grid):
        grid(torch.linspace(0, 1, 500))
        grid(torch.linspace(0, 0.2, 500))
    assert 255 * grid.step.item() > 0.9


def test_kernels_are_left_alone_when_told_to():
    act, kernels = ActQuantizer(4), WeightQuantizer(4, 2)
    net = torch.nn.Sequential(act, kernels)
    before = kernels.log2_step.clone()
    with quantizers.calibrating(net, weights=False):
        net(torch.rand(2, 3, 4, 4))
    assert torch.equal(kernels.log2_step, before) and act.log2_step != -6
    with quantizers.calibrating(net):
        net(torch.rand(2, 3, 4, 4))
    assert not torch.equal(kernels.log2_step, before)


@pytest.mark.parametrize("size", [1e-9, 1.0, 3e6, 1e15])
def test_octaves_do_not_depend_on_how_large_the_values_are(size):
    x, gains = torch.randn(2, 3, 9, 9) * torch.tensor([1.0, 0.1, 4.0])[:, None, None], torch.rand(3)
    plain, grid = octaves(4, 0, 0, 0), octaves(4, 0, 0, 0)
    plain.spread(x, gains)
    grid.spread(x * size, gains)
    assert grid.octaves.isfinite().all()
    if size > 1e-6:
        torch.testing.assert_close(grid.octaves, plain.octaves, rtol=0, atol=1e-3)


def test_a_margin_leaves_room_below_zero():
    """Values that the calibration set lacks by chance are not cut."""
    grid = ActQuantizer(8, True)
    grid.margin = 8
    grid.calibrate(torch.rand(1, 4, 50, 50))
    assert grid.zero_point == 8
    x = torch.tensor([-0.02, 0.5, 0.99])
    torch.testing.assert_close(grid(x), x, rtol=0, atol=0.003)
    grid.calibrate(torch.rand(1, 4, 50, 50) - 0.5)
    assert 100 < grid.zero_point < 155
