"""Runs the examples of docs/python.md, one after the other, on tiny photographs and few steps."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

import quantnas
from quantnas import api
from quantnas.api import run_verbs
from quantnas.data import image_files

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
QUICK = {"crops": 2, "batch": 2, "patch": 12, "steps": 2}
SHORT = {
    "search": {"epochs": 2, "warmup_epochs": 1, "steps_per_epoch": 2, "batch": 2, "patch": 12},
    "train": {"batch": 2, "patch": 12},
    "quantize": {key: value for key, value in QUICK.items() if key != "steps"},
}


def network() -> nn.Module:
    """A third-party network, x2."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8), nn.Conv2d(8, 12, 3, padding=1),
        nn.PixelShuffle(2),
    )  # fmt: skip


def quick(
    model: object, settings: dict[str, object] | None = None, **arguments: object
) -> run_verbs.Run:
    """Quantize with few steps where the page does not say how many."""
    few = {f"quantize.{key}": value for key, value in QUICK.items()}
    return run_verbs.quantize(model, settings=few | (settings or {}), **arguments)


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in quantnas.__all__:
        monkeypatch.setattr(quantnas, name, getattr(api, name), raising=False)
    monkeypatch.setattr(quantnas, "quantize", quick, raising=False)
    for k, name in enumerate("abcdefgh"):
        noise = np.random.default_rng(k).integers(0, 256, (8, 10, 3), np.uint8)
        image_files.write(tmp_path / "photos" / f"{name}.png", noise.repeat(12, 0).repeat(12, 1))
    names = {"load_my_network": network, "short": SHORT}
    for code in EXAMPLES:
        exec(code, names)
    assert Path("small.onnx").exists() and Path("mine.onnx").exists()
    assert "small.onnx is quantized already" in capsys.readouterr().out
