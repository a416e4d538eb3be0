"""Provides the fixtures that several test modules share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from quantnas import patches, skeleton
from quantnas.genotype import Choice, Genotype
from quantnas.space import Edge, SearchSpace

torch.set_num_threads(1)  # for tensors this small, a second thread on a busy core costs 100 times


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the standard test sets, next to the checkout; skips where it is absent."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def tiny() -> SearchSpace:
    """8 channels, one cell, every kind of operation, every width."""
    return SearchSpace(
        name="tiny",
        skeleton="rfdn",
        scale=2,
        channels=8,
        cells=1,
        edges={
            "body": Edge(("conv3x3", "conv5x5_groups2", "growth3x3"), (2, 4, 8)),
            "distill": Edge(("conv1x1", "growth1x1"), (3, 8)),
            "upsample": Edge(("conv3x3", "conv1x1_groups2"), (4, 8)),
        },
    )


@pytest.fixture
def random_genotype() -> Callable[[SearchSpace, int], Genotype]:
    """(space, seed) -> a genotype drawn uniformly."""

    def draw(space: SearchSpace, seed: int) -> Genotype:
        rng = np.random.default_rng(seed)
        choices = {
            slot.name: Choice(str(rng.choice(slot.ops)), int(rng.choice(slot.bits)))
            for slot in skeleton.slots(space)
        }
        return Genotype(space.name, choices)

    return draw


@pytest.fixture
def pixels() -> Callable[..., torch.Tensor]:
    """(count, height, width, seed) -> (count, 3, height, width), multiples of 1/255."""

    def draw(count: int = 2, height: int = 7, width: int = 10, seed: int = 0) -> torch.Tensor:
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        return patches.to_tensor(image)

    return draw


@pytest.fixture
def halves() -> tuple[patches.Patches, patches.Patches]:
    """Two disjoint sets of 6-pixel patches, at scale 2, of smooth synthetic photographs."""
    y, x = np.mgrid[:48, :72]
    pairs = []
    for k in range(2):
        waves = [np.sin(y * (0.2 + 0.1 * c) + k) + np.cos(x * (0.3 - 0.05 * c)) for c in range(3)]
        high = (np.stack(waves, -1) * 50 + 128).astype(np.uint8)
        pairs.append(patches.Pair(f"waves{k}", high[::2, ::2].copy(), high))
    first, second = patches.split(pairs, 6, seed=0, shares=(1, 1))
    return first, second


@pytest.fixture
def equal_states():
    """Bitwise equality of nested state dicts, as a function of two."""

    def equal(a, b) -> bool:
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(map(equal, a, b))
        return a == b

    return equal
