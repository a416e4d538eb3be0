"""Checks a whole run in its smallest form: every step and bit width, stopping and resuming."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from quantnas.cli.main import main
from quantnas.data import image_files
from quantnas.pipeline import new_run, steps
from quantnas.runs import resumable, run_folder, run_photographs
from quantnas.runs.run_settings import load_config

SMOKE = Path(__file__).parents[1] / "smoke.yaml"


def command(*arguments: object) -> int:
    """Run the command line in this process; returns its exit code."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """The folder of a finished smoke run."""
    root = tmp_path_factory.mktemp("runs")
    assert command("run", "--config", SMOKE, "--output", root) == 0
    return root / "run" / "rfdn_small"


def same_weights(a: Path, b: Path) -> bool:
    one, two = load_file(a), load_file(b)
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)


def test_the_run_folder_holds_what_the_documentation_says(done):
    files = "config.yaml env.json space.yaml genotype.json precision.json model.onnx report.json"
    files += " report.md metrics.jsonl log.txt plots/architecture.png plots/crop.png"
    files += (
        " damage.json damage.md plots/damage.png damage_measured.json crops/crops.json report.html"
    )
    assert [name for name in files.split() if not (done / name).is_file()] == []
    report = json.loads((done / "report.json").read_text())
    rows = report["evaluate"]["sets"]["held-out"]["file"]
    assert [row["image"] for row in rows] == [p.stem for p in image_files.bundled().held_out]
    assert report["export"]["verification"]["integer_convolutions"] == 20
    markdown = (done / "report.md").read_text()
    assert (done / "report.html").stat().st_size < 4_000_000
    slots = json.loads((done / "damage_measured.json").read_text())["slots"]
    assert len(slots) == 20 and all(row["predicted"] and row["measured"] > 0 for row in slots)
    assert "| chelsea |" in markdown and "BitOps" in markdown and "plots/alphas.png" in markdown


def test_evaluation_is_done_on_photographs_that_were_not_learned_from(done):
    found = run_photographs.choose(load_config(run_folder.existing(done)))
    assert not set(found.train) & set(found.held_out)


@pytest.mark.parametrize(
    ("bits", "inner"),
    [
        pytest.param(*widths, marks=pytest.mark.slow)
        for widths in ((2, 8), (8, 8), (3, 4), (3, 8), (4, 8), (2, 3))
    ],
)
def test_every_width_is_quantized_exported_and_evaluated(done, tmp_path, capsys, bits, inner):
    wanted = bits if inner == 8 else f"w{bits}a{inner}"
    assert command("quantize", done, "--bits", wanted, "--output", tmp_path) == 0
    quantized = tmp_path / "quantize" / "rfdn_small"
    model = tmp_path / "model.onnx"
    assert command("export", quantized, "-o", model, "--output", tmp_path) == 0
    capsys.readouterr()
    assert command("info", model, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    widths = [row["weight_bits"] for row in facts["cost"]["layers"]]
    assert widths == [8, *[bits] * (len(widths) - 2), 8]
    acts = [row["act_bits"] for row in facts["cost"]["layers"]]
    assert acts == [8, *[inner] * (len(acts) - 2), 8]
    exported = tmp_path / "export" / "rfdn_small"
    if wanted == 2:
        folder = tmp_path / "photos"
        image_files.write(
            folder / "a.png", image_files.read(image_files.bundled().held_out[1])[:90, :120]
        )
        assert command("evaluate", exported, "--data", folder, "--output", tmp_path) == 0
        assert command("report", tmp_path / "evaluate" / "rfdn_small") == 0
        sets = json.loads((exported / "report.json").read_text())["evaluate"]["sets"]
        assert list(sets) == ["held-out", "photos"]


@pytest.mark.slow
def test_an_old_file_is_never_taken_for_a_new_one(done, tmp_path, capsys):
    assert command("quantize", done, "--bits", 3, "--output", tmp_path) == 0
    new = tmp_path / "quantize" / "rfdn_small"
    assert not (new / "model.onnx").exists()
    assert command("evaluate", new, "--output", tmp_path) == 0
    assert f"quantized checkpoint {new}" in capsys.readouterr().out
    assert command("report", new) == 3
    assert "'export' has not finished" in capsys.readouterr().err


@pytest.mark.slow
def test_what_was_held_out_stays_held_out(tmp_path, capsys):
    """Photographs added to the folder later change nothing, and a uniform image can be measured."""
    folder = tmp_path / "photos"
    for i, path in enumerate(image_files.bundled().train[:5]):
        image_files.write(folder / f"{i}.png", image_files.read(path))
    image_files.write(folder / "3.png", np.full((96, 120, 3), 255, np.uint8))  # will be held out
    root = ["--output", tmp_path]
    assert command("run", "--data", folder, "--config", SMOKE, *root) == 0
    run = tmp_path / "run" / "rfdn_small"
    image_files.write(folder / "00.png", image_files.read(image_files.bundled().train[6]))
    capsys.readouterr()
    assert command("evaluate", run, "--json", *root) == 0
    result = json.loads(capsys.readouterr().out)["sets"]["held-out"]
    assert [row["image"] for row in result["models"]["rfdn_small"]["images"]] == ["3"]
    assert result["bicubic"]["psnr"] == 100.0


@pytest.mark.slow
def test_the_steps_one_by_one_give_what_the_whole_run_gives(done, tmp_path):
    root = ["--output", tmp_path]
    assert command("search", "--config", SMOKE, *root) == 0
    assert command("train", tmp_path / "search" / "rfdn_small", *root) == 0
    assert command("quantize", tmp_path / "train" / "rfdn_small", *root) == 0
    assert command("export", tmp_path / "quantize" / "rfdn_small", *root) == 0
    mine = tmp_path / "export" / "rfdn_small"
    assert command("report", mine) == 0
    results = [json.loads((f / "report.json").read_text())["evaluate"] for f in (mine, done)]
    assert results[0] == results[1]
    assert (mine / "genotype.json").read_text() == (done / "genotype.json").read_text()
    assert (mine / "model.onnx").read_bytes() == (done / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("step", "after"),
    [
        pytest.param("search", 7, marks=pytest.mark.slow),  # test_kill.py has one that is killed
        pytest.param("train", 30, marks=pytest.mark.slow),
        ("train", 70),
    ],
)
def test_a_killed_step_goes_on_bit_for_bit(done, tmp_path, monkeypatch, step, after):
    """The step is killed after `after` records, each of which is followed by a saved state."""
    monkeypatch.setattr(resumable, "SAVE_EVERY", 0.0)
    killed, resumed = run_folder.Run(tmp_path / "killed"), run_folder.Run(tmp_path / "resumed")
    source = run_folder.existing(done)
    config = load_config(source)
    new_run.begin(killed, config, run_photographs.choose(config), {})
    run_folder.carry(source, killed, until=step)
    progress = steps.STEPS[step](killed, config)
    for _ in range(after):
        next(progress)
    shutil.copytree(killed.folder, resumed.folder)  # what a kill would have left
    assert list(resumed.folder.rglob("*.resume")) and 0 < resumed.spent < 100
    resumed.spend(1000.0)
    records = list(steps.STEPS[step](resumed, config))
    assert len(records) < {"search": 12, "train": 80}[step]
    assert 1000 < resumed.result(step)["seconds"] < 1100
    name = {"search": "searched", "train": "trained"}[step]
    assert same_weights(resumed.weights(name), source.weights(name))
    assert (resumed.folder / "genotype.json").read_text() == (done / "genotype.json").read_text()


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    arguments = ["run", "--config", str(SMOKE), "--set", "train.float_steps=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "quantnas.cli", *arguments, "--output", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=SMOKE.parents[1],
    )  # fmt: skip
    metrics = tmp_path / "run" / "rfdn_small" / "metrics.jsonl"
    limit = time.monotonic() + 300
    while time.monotonic() < limit:
        if metrics.exists() and '"phase": "float"' in metrics.read_text():
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert f"quantnas run --resume {tmp_path / 'run' / 'rfdn_small'}" in errors
    assert (tmp_path / "run" / "rfdn_small" / "checkpoints" / "float.resume").exists()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("space.yaml", "15 searched edges"),
        ("genotype.json", "head"),
        ("", "parameters"),
        ("checkpoints/float.safetensors", "parameters"),
        ("checkpoints/quantized.safetensors", "parameters"),
        ("model.onnx", "ONNX file"),
    ],
)
def test_info_knows_everything_in_a_run_folder(done, capsys, target, words):
    assert command("info", done / target) == 0
    out = capsys.readouterr().out
    assert words in out and "GBitOps" in out and "LR 32x32" in out and "1280x720" in out


def test_a_checkpoint_outside_of_a_run_is_an_error(done, tmp_path, capsys):
    shutil.copy(done / "checkpoints" / "float.safetensors", tmp_path)
    assert command("info", tmp_path / "float.safetensors") == 3
    assert "no checkpoint in a run folder" in capsys.readouterr().err


def test_a_finished_run_is_not_done_again(done, capsys):
    before = (done / "model.onnx").stat().st_mtime_ns
    assert command("run", "--resume", done) == 0
    assert "train: finished before" in capsys.readouterr().err
    assert (done / "model.onnx").stat().st_mtime_ns == before


def test_upscale_writes_the_enlarged_photograph_and_overwrites_nothing(done, tmp_path, capsys):
    photo, out = image_files.bundled().held_out[0], tmp_path / "large.png"
    assert command("upscale", photo, "-m", done / "model.onnx", "-o", out) == 0
    assert image_files.read(out).shape == (2 * 288, 2 * 432, 3)
    before = out.read_bytes()
    assert command("upscale", photo, "-m", done / "model.onnx", "-o", out) == 2
    assert "exists already" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert command("upscale", photo, "-m", done / "model.onnx", "-o", out, "--force") == 0


def test_a_file_worse_than_bicubic_comes_with_a_warning(done, capsys):
    """A training of 60 steps is too short to beat bicubic."""
    assert command("run", "--resume", done) == 0
    assert "warning: worse than bicubic on held-out" in capsys.readouterr().out


def test_evaluate_takes_a_lone_file(done, tmp_path, capsys):
    alone = tmp_path / "alone.onnx"
    shutil.copy(done / "model.onnx", alone)
    assert command("evaluate", alone, "--json", "--output", tmp_path) == 0
    result = json.loads(capsys.readouterr().out)["sets"]["bundled"]["models"]["alone"]
    inside = json.loads((done / "report.json").read_text())["evaluate"]["sets"]["held-out"]
    for row in (inside["mean"], *inside["file"]):
        row["to_float"] = None  # a lone file has no float network beside it
    assert result["mean"] == inside["mean"] and result["images"] == inside["file"]


@pytest.mark.slow
def test_a_user_folder_with_grey_and_transparent_images(done, tmp_path, capsys):
    from PIL import Image

    folder = tmp_path / "photos" / "deeper"
    folder.mkdir(parents=True)
    for i, path in enumerate(image_files.bundled().train[:5]):
        with Image.open(path) as photo:
            photo.convert(["RGB", "L", "RGBA", "P", "RGB"][i]).save(folder / f"{i}.png")
    settings = ["--config", SMOKE, "--output", tmp_path, "--scale", 3]
    assert command("search", "--data", tmp_path / "photos", *settings) == 0
    assert command("info", tmp_path / "search" / "rfdn_small") == 0
    assert "x3" in capsys.readouterr().out
