"""Provides the fixtures that several test modules share."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from quantnas.architectures import cost, network, registry
from quantnas.config import genotype, search_space
from quantnas.config.files import to_json
from quantnas.config.genotype import Genotype, choice_of
from quantnas.config.run_config import RunConfig
from quantnas.config.search_space import Edge, SearchSpace
from quantnas.data import image_files, patches
from quantnas.exporters import onnx_export
from quantnas.nas.gradient_search import Material
from quantnas.pipeline import activation_ranges, new_run
from quantnas.quantization import post_training
from quantnas.runs import run_photographs
from quantnas.runs.run_folder import Run

torch.set_num_threads(1)  # for tensors this small, a second thread on a busy core costs 100 times
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for programs that tests start


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of standard test sets beside the checkout; tests are skipped without it."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use a temporary cache of photographs for the whole test run instead of the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANTNAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _small_photographs() -> Iterator[None]:
    """Measure ranges of activations on small parts of photographs, which takes a tenth as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activation_ranges, "SIDE", 32)
        patch.setattr(activation_ranges, "LEAST", 32)
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed torch before every test, so that the order of tests does not matter."""
    torch.manual_seed(0)


@pytest.fixture
def tiny() -> SearchSpace:
    """A search space of 8 channels and one cell, with all kinds of operations and bit widths."""
    return SearchSpace(
        name="tiny",
        skeleton="rfdn_deploy",
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
def apart() -> SearchSpace:
    """A search space whose weight and activation bit widths are chosen apart.

    Its `upsample` may be the identity; it has 12 channels, as many as `upsample` gives at scale 2.
    """
    bits = {"weight_bits": (2, 3, 8), "act_bits": (4, 8)}
    return SearchSpace(
        name="apart",
        skeleton="rfdn_deploy",
        scale=2,
        channels=12,
        cells=1,
        edges={
            "body": Edge(("conv3x3_groups3", "factorised3x3", "separable5x5"), **bits),
            "distill": Edge(("conv1x1", "conv3x3"), **bits),
            "upsample": Edge(("conv1x1", "identity"), **bits),
        },
    )


@pytest.fixture
def small(tiny, apart) -> dict[str, SearchSpace]:
    """Name -> a search space with few channels; every macro-architecture is among them."""
    basic = dataclasses.replace(search_space.load("basic"), channels=12, cells=2)
    rfdn = dataclasses.replace(search_space.load("rfdn"), channels=12, cells=1)
    return {"tiny": tiny, "apart": apart, "basic": basic, "rfdn": rfdn, **searchable()}


def searchable() -> dict[str, SearchSpace]:
    """Name of a fixed macro-architecture -> a search space with choices on all of its edges."""
    edge, spaces = Edge(("conv3x3", "growth1x1"), (4, 8)), {}
    for name in ("edsr_baseline", "imdn", "rfdn48"):
        fixed = search_space.load(name)
        spaces[fixed.skeleton] = dataclasses.replace(
            fixed, name=fixed.skeleton, channels=12, cells=1, edges=dict.fromkeys(fixed.edges, edge)
        )
    return spaces


@pytest.fixture
def random_genotype() -> Callable[[SearchSpace, int], Genotype]:
    """A function that draws a genotype at random: (search space, seed) -> genotype."""

    def draw(space: SearchSpace, seed: int) -> Genotype:
        rng, picks = np.random.default_rng(seed), {}
        slots = registry.slots(space)
        for slot in slots:
            positions = int(rng.integers(len(slot.ops))), int(rng.integers(len(slot.bit_widths)))
            picks.setdefault(slot.choice, positions)
        return Genotype(space.name, {s.name: choice_of(s, *picks[s.choice]) for s in slots})

    return draw


@pytest.fixture
def pixels() -> Callable[..., torch.Tensor]:
    """A function that draws images: (count, height, width, seed) -> (count, 3, height, width).

    Their values are multiples of 1/255.
    """

    def draw(count: int = 2, height: int = 7, width: int = 10, seed: int = 0) -> torch.Tensor:
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        return patches.to_tensor(image)

    return draw


def waves() -> list[patches.Pair]:
    """Two smooth synthetic photographs at scale 2."""
    y, x = np.mgrid[:48, :72]
    pairs = []
    for k in range(2):
        colours = [np.sin(y * (0.2 + 0.1 * c) + k) + np.cos(x * (0.3 - 0.05 * c)) for c in range(3)]
        high = (np.stack(colours, -1) * 50 + 128).astype(np.uint8)
        pairs.append(patches.Pair(f"waves{k}", high[::2, ::2].copy(), high))
    return pairs


@pytest.fixture
def halves() -> tuple[patches.Patches, patches.Patches]:
    """Two disjoint sets of 6-pixel patches, at scale 2."""
    first, second = patches.split(waves(), 6, seed=0, shares=(1, 1))
    return first, second


@pytest.fixture
def material() -> Material:
    """Disjoint 6-pixel patches to train weights, to train alphas and to train neither."""
    return Material(*patches.split(waves(), 6, seed=0, shares=(2, 2, 1)))


@pytest.fixture
def equal_states():
    """A function that compares two nested state dicts bit by bit."""

    def equal(a, b) -> bool:
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(map(equal, a, b))
        return a == b

    return equal


@pytest.fixture
def make_run(tiny, random_genotype, pixels) -> Callable[..., Run]:
    """A function that makes a run with all steps up to `export`, without training.

    (folder, scale, folder of the held-out set) -> run.
    """

    def make(folder: Path, scale: int = 2, held_out: str | None = None) -> Run:
        space = dataclasses.replace(tiny, scale=scale)
        run, drawn = Run(folder), random_genotype(space, 3)
        run.path("space.yaml").write_text(search_space.to_yaml(space))
        run.path("genotype.json").write_text(drawn.to_json())
        config = RunConfig(str(folder / "space.yaml"), eval_data=held_out)
        command = {"command": ["quantnas", "run", "tiny"]}
        new_run.begin(run, config, run_photographs.choose(config), command)
        precision = genotype.searched_precision(drawn)
        nets = [network.build(space, drawn, bits) for bits in (None, precision)]
        network.inherit(nets[1], nets[0])
        network.initialise(nets[1], pixels(4, 16, 16))
        nets.append(post_training.freeze(nets[1]))
        for name, net in zip(("float", "trained", "quantized"), nets, strict=True):
            network.save(net, run.weights(name), space)
        shutil.copy(run.weights("float"), run.weights("searched"))
        rows = {name: dataclasses.asdict(bits) for name, bits in precision.items()}
        run.path("precision.json").write_text(to_json(rows))
        totals = cost.total(cost.layers(registry.slots(space), drawn, precision, scale), scale)
        onnx_export.to_onnx(nets[2], totals, scale, run.path("model.onnx"))
        for step in ("search", "train", "quantize", "export"):
            run.finish(step, {"seconds": 60.0})
        return run

    return make


@pytest.fixture
def source(make_run, tmp_path):
    """The folder of a run with all steps up to `export`, with its own held-out photographs."""
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (2, 60, 72, 3), np.uint8)):
        image_files.write(tmp_path / "photos" / f"{i}.png", pixels)
    return make_run(tmp_path / "runs" / "mine", held_out=str(tmp_path / "photos")).folder
