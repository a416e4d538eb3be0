"""The sound files that are mutated: runs, a sweep, networks, photographs and saved states.

Runs and their networks are those of `tests/runs/runs_of_0.1.0.zip`; everything else is made here.
"""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from quantnas.config import search_space
from quantnas.config.files import to_json
from quantnas.runs import bundled_models
from quantnas.training import checkpoint

ARCHIVE = Path(__file__).parents[1] / "runs" / "runs_of_0.1.0.zip"
SECRET = "nobody may read this text, which lies outside of the folder"


def make(base: Path) -> Path:
    """Write all files below `base / "world"`, and others beside it; the folder of the files.

    Beside it lie a secret, which nothing may show, and a run, which nothing may change.
    """
    world, outside = base / "world", base / "outside"
    (outside / "failed").mkdir(parents=True)
    (outside / "secret.txt").write_text(SECRET)
    (outside / "failed" / "run.json").write_text(to_json({"cause": "No.", "remedy": "Yes."}))
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(world)
    shutil.copytree(world / "finished", outside / "keep" / "run")
    _complete_run(world / "finished")
    _sweep(world)
    _networks(world)
    _settings(world)
    _photographs(world / "photos")
    net, optimizer = parts().values()
    checkpoint.save(world / "state.resume", 7, {"net": net, "optimizer": optimizer})
    return world


def parts() -> dict:
    """Objects whose state `state.resume` holds."""
    net = torch.nn.Linear(3, 2)
    return {"net": net, "optimizer": torch.optim.Adam(net.parameters())}


def _complete_run(run: Path) -> None:
    """Add to a run what its archive leaves out."""
    names = ("bicubic", "float", "quantized", "original")
    versions = [
        {"name": name, "file": f"0-{k}.webp", "psnr": None if name == "original" else 30.5}
        for k, name in enumerate(names)
    ]
    view = {"photograph": "a", "width": 16, "height": 12, "versions": versions}
    (run / "crops").mkdir()
    (run / "crops" / "crops.json").write_text(to_json({"scale": 2, "views": [view]}))
    for version in versions:
        Image.new("RGB", (16, 12), "teal").save(run / "crops" / version["file"], lossless=True)
    drop = {"name": "held-out", "quantized": 30.0, "full": 30.5, "bicubic": 29.0, "photographs": 2}
    (run / "drop.json").write_text(to_json({"protocol": "PSNR-Y", "sets": [drop]}))
    (run / "threads.json").write_text(to_json({"float": {"0": 1, "7": 2}}))


def _sweep(world: Path) -> None:
    """A sweep of two finished points, of which one is a copy, and a failed one."""
    sweep = world / "sweep"
    for seed in (0, 1):
        point = sweep / "points" / f"seed{seed}"
        shutil.copytree(world / "finished", point)
        seconds = {"search": 1.0, "train": 2.0}
        (point / "progress.json").write_text(to_json({"step": "report", "seconds": seconds}))
    rows = [{"name": f"seed{seed}", "seed": seed} for seed in range(3)]
    (sweep / "sweep.yaml").write_text(yaml.safe_dump({"points": rows}, sort_keys=False))
    (sweep / "env.json").write_text((world / "finished" / "env.json").read_text())
    (sweep / "failed").mkdir()
    (sweep / "failed" / "seed2.json").write_text(to_json({"cause": "No.", "remedy": "Yes."}))


def _networks(world: Path) -> None:
    """An exported file, a third party's file, a file of weights, and a model with its card."""
    shutil.copy(world / "finished" / "model.onnx", world / "own.onnx")
    shutil.copy(world / "finished" / "checkpoints" / "float.safetensors", world)
    rng = np.random.default_rng(0)
    tensors = {
        "body.weight": rng.normal(0, 0.3, (12, 3, 3, 3)).astype(np.float32),
        "body.bias": rng.normal(0, 0.1, 12).astype(np.float32),
        "slope": np.full((12, 1, 1), 0.2, np.float32),
        "sides": np.array([0, 3, 2, 2, -1], np.int64),
        "two": np.float32([1, 1, 2, 2]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "body.weight", "body.bias"], ["a"], pads=[1] * 4),
        helper.make_node("PRelu", ["a", "slope"], ["b"], name="act"),
        helper.make_node("DepthToSpace", ["b"], ["c"], blocksize=2, mode="CRD"),
        helper.make_node("Resize", ["x", "", "two"], ["d"], mode="linear"),
        helper.make_node("Add", ["c", "d"], ["y"], name="sum"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, f"{name}_h", f"{name}_w"])
        for name in ("x", "y")
    ]
    stored = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, world / "foreign.onnx")
    (world / "models").mkdir()
    name = sorted(bundled_models.bundled())[0]
    for ending in (".onnx", ".json"):
        shutil.copy(bundled_models.FOLDER / f"{name}{ending}", world / "models")
    (world / "models" / f"{name}.json").rename(world / "models" / "card.json")
    (world / "models" / f"{name}.onnx").rename(world / "models" / "card.onnx")


def _settings(world: Path) -> None:
    """Settings of a run and of a sweep, a search space, and a genotype."""
    settings = {
        "space": "rfdn_small", "scale": 2, "bits": 2, "benchmarks": [], "seed": 1, "device": "cpu",
        "search": {"epochs": 3, "warmup_epochs": 1, "target_bitops": "0.5G", "at": "32x32"},
        "train": {"float_steps": 10, "start": "scratch", "lr": 1e-3, "teacher": "own"},
        "quantize": {"steps": 3, "train": "weights", "max_drop": 1.5},
        "export": {"format": "float", "size": "any"},
    }  # fmt: skip
    (world / "settings.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    grid = {"vary": {"search.target_bitops": ["0.5G", 1e9], "seed": [0, 1]}, "bits": 2}
    grid["points"] = [{"train": {"float_steps": 10}}, {"train.float_steps": 20}]
    (world / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    space = search_space.load(str(world / "finished" / "space.yaml"))
    (world / "space.yaml").write_text(search_space.to_yaml(space))
    shutil.copy(world / "finished" / "genotype.json", world)


def _photographs(folder: Path) -> None:
    """A photograph in every format and in unusual modes, with a rotation in its EXIF data."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for ending in ("png", "jpg", "webp", "bmp"):
        colours.save(folder / f"rgb.{ending}", **({} if ending == "bmp" else {"exif": exif}))
    colours.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    colours.convert("RGBA").save(folder / "alpha.png")
    colours.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(rng.integers(0, 65536, (20, 24), dtype=np.uint16)).save(folder / "grey16.png")
