"""Checks the batch norm with adaptive deviation, and that it folds exactly."""

import numpy as np
import pytest
import torch

from quantnas.nas.adaptive_norm import Adq, PlainNorm
from quantnas.nn.layer_factory import PlainSum

BOTH = pytest.mark.parametrize("logarithmic", [False, True])


def worked(logarithmic: bool) -> Adq:
    """A norm with random parameters and statistics, in evaluation mode."""
    adq = Adq(3, logarithmic).double().eval()
    with torch.no_grad():
        for p in adq.parameters():
            p.normal_()
        adq.norm.running_mean.normal_()
        adq.norm.running_var.uniform_(0.5, 2)
    return adq


def test_without_the_deviation_the_branch_is_left_alone():
    branch = torch.randn(2, 3, 4, 5)
    assert PlainSum()(branch, torch.randn(2, 3, 4, 5)) is branch


@BOTH
def test_the_deviation_of_a_sample_scales_its_normalised_branch(logarithmic):
    adq = worked(logarithmic)
    branch, skip = (torch.randn(2, 3, 4, 5, dtype=torch.float64) for _ in range(2))
    skip[1] *= 9
    norm = adq.norm

    def per_channel(t: torch.Tensor) -> np.ndarray:
        return t.detach().numpy()[:, None, None]

    scale = np.sqrt(per_channel(norm.running_var) + norm.eps)
    normal = (branch.numpy() - per_channel(norm.running_mean)) / scale
    normal = normal * per_channel(norm.weight) + per_channel(norm.bias)
    std = skip.numpy().reshape(2, -1).std(1, ddof=1)
    w, c = adq.w.item(), adq.c.item()
    deviation = std**w * np.exp(c) if logarithmic else w * std + c
    found = adq(branch, skip).detach().numpy()
    np.testing.assert_allclose(found, normal * deviation[:, None, None, None], rtol=1e-10)


@BOTH
def test_folding_is_exact_for_the_mean_deviation(logarithmic):
    adq = worked(logarithmic)
    with torch.no_grad():
        branch, skip = (torch.randn(1, 3, 4, 5, dtype=torch.float64) for _ in range(2))
        adq.mean_std.copy_(skip.std())
        factor, shift = adq.folded()
        expected = branch * factor[:, None, None] + shift[:, None, None]
        torch.testing.assert_close(adq(branch, skip), expected, rtol=1e-12, atol=1e-12)


def test_plain_batch_norm_does_not_look_at_the_skip_and_folds_exactly():
    plain, (branch, skip) = PlainNorm(3).eval(), (torch.randn(2, 3, 4, 5) for _ in range(2))
    with torch.no_grad():
        for p in plain.parameters():
            p.normal_()
        plain.norm.running_mean.normal_()
        factor, shift = plain.folded()
        found = plain(branch, skip)
        torch.testing.assert_close(found, plain(branch, 9 * skip))
        torch.testing.assert_close(found, branch * factor[:, None, None] + shift[:, None, None])


@pytest.mark.parametrize(("logarithmic", "start"), [(False, 1.5), (True, 1.0)])
def test_it_starts_as_published(logarithmic, start):
    adq = Adq(3, logarithmic)
    assert adq.w.item() == start and adq.c.item() == 0
    assert adq.deviation(torch.tensor(0.3)).item() == pytest.approx(start * 0.3)


def test_training_averages_the_deviation_and_evaluating_does_not():
    adq = Adq(3)
    branch, skip = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5) * 7
    adq(branch, skip)
    mean = skip.flatten(1).std(1).mean().item()
    assert adq.mean_std.item() == pytest.approx(0.9 + 0.1 * mean, rel=1e-5)
    before = adq.mean_std.clone()
    adq.eval()(branch, skip)
    assert torch.equal(adq.mean_std, before)


@BOTH
def test_gradients_are_finite_where_the_stream_is_flat(logarithmic):
    adq, skip = Adq(3, logarithmic), torch.zeros(2, 3, 4, 5, requires_grad=True)
    branch = torch.randn(2, 3, 4, 5, requires_grad=True)
    adq(branch, skip).square().sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in (branch, skip, *adq.parameters()))
