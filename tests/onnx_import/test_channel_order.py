"""Checks the steps between tensors whose channels come last and images."""

import numpy as np
import pytest

from quantnas.onnx_import.channel_order import CHANNELS_LAST, CHANNELS_SECOND

FUNCTIONS = {"Transpose": np.transpose, "Unsqueeze": np.expand_dims, "Squeeze": np.squeeze}


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_steps_make_an_image_and_lead_back(rank):
    shape = (2, *range(5, 3 + rank), 3)
    x = image = np.random.default_rng(0).random(shape)
    for kind, axes in CHANNELS_SECOND[rank]:
        image = FUNCTIONS[kind](image, axes)
        assert kind == "Transpose" or axes == tuple(range(image.ndim))[-len(axes) :]
    assert image.shape[:2] == (2, 3) and image.ndim == 4
    for kind, axes in CHANNELS_LAST[rank]:
        image = FUNCTIONS[kind](image, axes)
    assert np.array_equal(image, x)
