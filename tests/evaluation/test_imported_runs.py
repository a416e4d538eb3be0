"""Checks that a quantized run of an imported network is evaluated like any other run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import quantnas
from quantnas.data import image_files
from quantnas.inference import tile_memory, tiling
from quantnas.runs import models, run_folder

FILE = Path(__file__).parents[1] / "cases" / "third_party" / "selu.onnx"
PHOTO = image_files.read(image_files.bundled().held_out[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder of a run of the imported network."""
    root = tmp_path_factory.mktemp("imported")
    image_files.write(root / "photos" / "0.png", PHOTO[:192, :200])
    run = quantnas.quantize(
        FILE,
        bits=8,
        config={"eval_data": str(root / "photos"), "device": "cpu"},
        settings={"quantize.train": "none", "quantize.crops": 2, "quantize.patch": 16},
        output=root,
    )
    return run.folder


def test_its_checkpoints_are_evaluated_beside_the_float_network(folder, tmp_path):
    """The photograph of low resolution is larger than the one for which tensors are counted."""
    names = [folder / "checkpoints" / f"{kind}.safetensors" for kind in ("quantized", "float")]
    found = quantnas.evaluate(names, output=tmp_path)
    rows = found.result["sets"]["held-out"]["models"]
    assert len(rows) == 2 and all(np.isfinite(found.psnr(name)) for name in rows)
    low = PHOTO[:90, :100]
    assert quantnas.upscale(low, names[0]).shape == (180, 200, 3)


def test_scores_do_not_depend_on_the_memory(folder, monkeypatch):
    """A photograph is scored whole, though `upscale` would cut it into tiles."""
    monkeypatch.setattr(tile_memory, "BUDGET", 1e5)
    model = models.resolve(str(run_folder.existing(folder).weights("quantized")))
    low, sizes = PHOTO[:90, :100], list[tuple[int, ...]]()
    network = model.network()
    assert len(tiling.tiles_of(network, *low.shape[:2], tiling.Tiling())) > 1

    def whole(part: np.ndarray) -> np.ndarray:
        sizes.append(part.shape)
        return network.whole(part)

    seen = replace(network, whole=whole)
    model = replace(model, network=lambda: seen)
    assert np.array_equal(model.upscaler()(low), network.whole(low)) and sizes == [low.shape]
