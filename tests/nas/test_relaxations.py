"""Checks the relaxations of undecided bit widths against plain arithmetic."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from quantnas.nas.relaxations import RELAXATIONS, authors, noise, plain, rounding
from quantnas.nn.quantizers import ActQuantizer, WeightQuantizer
from quantnas.training import collectives

ONE = torch.tensor(1.0)


def grids(*steps: float, bits: tuple[int, ...] = (4, 8)) -> list[ActQuantizer]:
    return [ActQuantizer(b, step=s) for b, s in zip(bits, steps, strict=True)]


def noiseless(monkeypatch) -> None:
    monkeypatch.setattr(collectives, "rand_like", lambda t, batch: torch.full_like(t, 0.5))


def test_every_relaxation_is_checked_here():
    views = {name: r.view for name, r in RELAXATIONS.items()}
    assert views == {"noise": noise, "direct": rounding, "authors": authors, "float": plain}
    assert [name for name, r in RELAXATIONS.items() if r.trains_grids] == ["direct"]


# Noise


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_noise_of_one_width_is_0_2887_of_a_step(bits):
    t = torch.rand(100_000) * (2**bits - 1) * 0.05
    found = (noise(t, grids(0.05, bits=(bits,)), torch.ones(1), ONE) - t) / 0.05
    assert found.std().item() == pytest.approx(0.2887, rel=0.01)
    assert found.abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize("mix", [(1.0, 0.0), (0.3, 0.7), (0.5, 0.5), (0.0, 1.0)])
def test_noise_has_the_variance_of_the_mixtures_rounding_error(mix):
    steps = (1 / 15, 1 / 100)
    t = torch.rand(200_000) * 14 / 15  # whole steps of the wide grid
    found = noise(t, grids(*steps), torch.tensor(mix), ONE) - t
    rng = np.random.default_rng(1)
    step = np.where(rng.random(len(t)) < mix[0], *steps)
    data = t.double().numpy()
    error = np.round(data / step) * step - data
    assert found.var().item() == pytest.approx(error.var(), rel=0.03)
    assert abs(found.mean().item()) < 5 * error.std() / np.sqrt(len(t))


def test_noise_of_a_kernel_follows_the_steps_of_its_channels():
    grid = WeightQuantizer(4, 3)
    grid.log2_step.data.copy_(torch.tensor([-3.0, -5.0, -8.0]).view(3, 1, 1, 1))
    kernel = torch.rand(3, 5000, 1, 1) * 0.02
    found = noise(kernel, [grid], torch.ones(1), ONE) - kernel
    expected = torch.tensor([2.0**-3, 2.0**-5, 2.0**-8]).square() / 12
    torch.testing.assert_close(found.flatten(1).var(1), expected, rtol=0.08, atol=0)
    assert (found.flatten(1).abs().amax(1) <= torch.tensor([2.0**-4, 2.0**-6, 2.0**-9])).all()


def test_noise_is_new_in_every_pass_and_for_every_element():
    t, mix = torch.full((100,), 0.3), torch.tensor([0.5, 0.5])
    first, second = (noise(t, grids(0.05, 0.01), mix, ONE) for _ in range(2))
    assert len(first.unique()) > 90 and not torch.equal(first, second)


def test_the_gradient_passes_inside_the_range_and_stops_outside():
    t = torch.tensor([-0.5, 0.2, 0.9, 1.5, 3.0], requires_grad=True)
    quantizers = grids(0.1, 0.01)  # ranges 1.5 and 2.55, their mean 2.025
    noise(t, quantizers, torch.tensor([0.5, 0.5]), ONE).sum().backward()
    assert t.grad.tolist() == [0, 1, 1, 1, 0]


def test_values_are_clipped_to_the_mean_range(monkeypatch):
    noiseless(monkeypatch)
    t = torch.tensor([-1.0, 1.9, 9.0])
    found = noise(t, grids(0.1, 0.01), torch.tensor([0.5, 0.5]), ONE)
    assert found.tolist() == pytest.approx([0.0, 1.9, 0.5 * 1.5 + 0.5 * 2.55])


def test_a_kernel_is_clipped_to_the_range_of_its_channel(monkeypatch):
    noiseless(monkeypatch)
    grid = WeightQuantizer(2, 2)  # levels -2 to 1
    grid.log2_step.data.copy_(torch.tensor([-1.0, 0.0]).view(2, 1, 1, 1))
    found = noise(torch.tensor([[-9.0, 9.0]] * 2)[..., None, None], [grid], torch.ones(1), ONE)
    assert found.flatten(1).tolist() == [[-1.0, 0.5], [-2.0, 1.0]]


def test_the_gradient_to_the_mixture_is_that_of_the_noise(monkeypatch):
    monkeypatch.setattr(collectives, "rand_like", lambda t, batch: torch.full_like(t, 0.75))
    steps = (0.06, 0.01)
    mix = torch.tensor([0.3, 0.7], requires_grad=True)
    noise(torch.full((10,), 0.4), grids(*steps), mix, ONE).sum().backward()
    deviation = np.sqrt(0.3 * steps[0] ** 2 + 0.7 * steps[1] ** 2)
    expected = [10 * 0.25 * s**2 / (2 * deviation) for s in steps]
    assert mix.grad.tolist() == pytest.approx(expected, rel=1e-4)


# Rounding


def test_rounding_mixes_the_fake_quantizations():
    t = torch.rand(50) * 2
    found = rounding(t, grids(0.06, 0.01), torch.tensor([0.3, 0.7]), ONE)
    narrow = (t / 0.06).round().clamp(0, 15) * 0.06
    wide = (t / 0.01).round().clamp(0, 255) * 0.01
    torch.testing.assert_close(found, 0.3 * narrow + 0.7 * wide)


def test_steps_zero_points_signal_and_mixture_learn_through_rounding():
    grid, wide = WeightQuantizer(3, 2), WeightQuantizer(8, 2)
    kernel = torch.randn(2, 30, 1, 1)
    for q in (grid, wide):
        q.calibrate(kernel)
    learning = [kernel.requires_grad_(), torch.tensor([0.4, 0.6], requires_grad=True)]
    rounding(kernel, [grid, wide], learning[1], ONE).square().sum().backward()
    learning += [grid.log2_step, grid.zero, wide.log2_step]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learning)


# The published code


def published(t: np.ndarray, eps: list[np.ndarray], bits: tuple, p: np.ndarray) -> np.ndarray:
    """The noise of the published code (arXiv 2208.14839); p: probabilities of (operation, bits)."""
    f, share = 1 / (len(bits) + 1), p.sum()
    noisy = [t + (t.max() - t.min()) / (2**b - 1) * e / 2 for b, e in zip(bits, eps, strict=True)]
    return f * t + sum(q / (share + f) * n for q, n in zip(p, noisy, strict=True))


@pytest.mark.parametrize("bits", [(4, 8), (2, 4, 8), (8,)])
@pytest.mark.parametrize("share", [1 / 9, 0.5, 1.0])
def test_the_published_formula_with_the_same_noise(bits, share):
    t, quantizers = torch.randn(3, 40, dtype=torch.float64), [ActQuantizer(b) for b in bits]
    mix = torch.rand(len(bits), dtype=torch.float64)
    mix = mix / mix.sum()
    torch.manual_seed(5)
    found = authors(t, quantizers, mix, torch.tensor(share, dtype=torch.float64))
    torch.manual_seed(5)
    eps = [torch.randn(t.shape, dtype=t.dtype).numpy() for _ in bits]
    wanted = published(t.numpy(), eps, bits, share * mix.numpy())
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("share", "gain"), [(1 / 9, 0.583), (0.5, 0.933), (1.0, 1.083)])
def test_the_published_gain_is_not_one(monkeypatch, share, gain):
    monkeypatch.setattr(collectives, "randn_like", lambda t, batch: torch.zeros_like(t))
    t = torch.rand(20) + 1
    found = authors(t, grids(1, 1), torch.tensor([0.3, 0.7]), torch.tensor(share))
    torch.testing.assert_close(found / t, torch.full_like(t, gain), rtol=0, atol=6e-4)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_published_noise_is_half_a_step(bits):
    t = torch.rand(200_000)
    found = authors(t, [ActQuantizer(bits)], torch.ones(1), ONE)
    f, c = 1 / 2, 1 / 1.5
    errors = (found - (f + c) * t) / c * (2**bits - 1)
    assert errors.std().item() == pytest.approx(0.499, rel=0.01)


@pytest.mark.parametrize("widths", [1, 2, 3])
def test_the_published_gradient_reaches_the_signal_through_f_alone(widths):
    t = torch.randn(30, requires_grad=True)
    mix = torch.full((widths,), 1 / widths)
    authors(t, [ActQuantizer(4)] * widths, mix, torch.tensor(0.7)).sum().backward()
    torch.testing.assert_close(t.grad, torch.full((30,), 1 / (widths + 1)))


def test_the_published_gradient_to_the_probabilities_is_that_of_the_formula():
    t, quantizers = torch.randn(6, dtype=torch.float64), grids(1, 1)

    def seeded(mix: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return authors(t, quantizers, mix, share)

    mix = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)
    share = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(seeded, (mix, share))


def test_a_search_in_float_sees_the_tensor_itself():
    t = torch.randn(5)
    assert plain(t, [], torch.ones(1), ONE) is t
