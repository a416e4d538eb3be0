"""The command line: help without torch, bad input with cause, remedy and exit code."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quantnas import genotype, images, skeleton, space
from quantnas.cli.main import app, main

ROOT = Path(__file__).parents[1]
VERBS = sorted(command.callback.__name__ for command in app.registered_commands)
SPACE = (ROOT / "search_spaces" / "rfdn_small.yaml").read_text()


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_explains_itself_with_an_example(verb, capsys):
    assert command(verb, "--help") == 0
    assert f"Example: quantnas {verb}" in capsys.readouterr().out


def test_help_is_quick_and_imports_no_torch():
    """Processor time, so that a busy machine does not matter."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "quantnas.cli", "--help"],
            capture_output=True, check=True, cwd=ROOT,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.6
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "quantnas.cli", "--help"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert "torch" not in listed.stderr and "numpy" not in listed.stderr


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with some bad inputs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in images.bundled().train[:2]:
        shutil.copy(path, photos)
    shutil.copytree(photos, tmp_path / "fine")
    (photos / "broken.png").write_bytes(b"not a picture")
    images.write(tmp_path / "tiny" / "dot.png", np.zeros((12, 12, 3), np.uint8))
    taken = tmp_path / "runs" / "run" / "taken"
    taken.mkdir(parents=True)
    (taken / "precious").write_text("mine")
    Path("key.yaml").write_text("search: {epoch: 3}")
    Path("section.yaml").write_text("serch: {}")
    Path("list.yaml").write_text("- 1")
    Path("broken.yaml").write_text("a: [")
    Path("typo_space.yaml").write_text(SPACE.replace("channels", "chanels"))
    Path("op_space.yaml").write_text(SPACE.replace("conv5x5,", "conv7x7,"))
    Path("bits_space.yaml").write_text(SPACE.replace("[4, 8]", "[4, 5]"))
    Path("scale_space.yaml").write_text(SPACE.replace("scale: 2", "scale: 7"))
    where = space.load("rfdn_small")
    choices = {s.name: genotype.Choice(s.ops[0], s.bits[0]) for s in skeleton.slots(where)[1:]} | {
        "head": genotype.Choice("conv5x5", 8)
    }
    Path("misfit.json").write_text(genotype.Genotype("rfdn_small", choices).to_json())
    return tmp_path


BAD = [
    (["run", "--data", "nowhere"], 3, "'nowhere' does not exist"),
    (["run", "--data", "empty"], 3, "holds no images"),
    (["run", "--data", "photos"], 3, "broken.png"),
    (["run", "--benchmark", "photos"], 3, "broken.png"),
    (["run", "--benchmark", "nowhere"], 3, "'nowhere' does not exist"),
    (["run", "--config", "nowhere.yaml"], 3, "nowhere.yaml"),
    (["run", "--config", "key.yaml"], 2, "unknown key 'search.epoch'"),
    (["run", "--config", "key.yaml"], 2, "Did you mean epochs?"),
    (["run", "--config", "section.yaml"], 2, "Allowed here: space, scale, data"),
    (["run", "--config", "list.yaml"], 2, "no mapping"),
    (["run", "--config", "broken.yaml"], 2, "not valid YAML"),
    (["run", "--space", "typo_space.yaml"], 2, "unknown key 'chanels'"),
    (["run", "--space", "op_space.yaml"], 2, "unknown operation 'conv7x7'"),
    (["run", "--space", "bits_space.yaml"], 2, "'edges.body.bits.1' cannot be 5"),
    (["run", "--space", "scale_space.yaml"], 2, "'scale' cannot be 7"),
    (["run", "--space", "nothing"], 2, "Use one of rfdn_small"),
    (["run", "--scale", "5"], 2, "should be 2, 3 or 4"),
    (["run", "--bits", "5"], 2, "should be 2, 3, 4 or 8"),
    (["run", "--set", "search"], 2, "section.key=value"),
    (["run", "--set", "search.epochs=many"], 2, "'search.epochs' cannot be 'many'"),
    (["run", "--set", "train.batch=0"], 2, "`batch` is at least 1"),
    (["run", "--set", "search.warmup_epochs=99"], 2, "below `epochs`"),
    (["run", "--data", "fine", "--eval-data", "fine"], 3, "learned from and evaluated on"),
    (["run", "--eval-data", "tiny"], 3, "too small to be measured"),
    (["run", "--name", "taken"], 2, "is not empty"),
    (["run", "--resume", "runs/run/taken"], 3, "not a run folder"),
    (["run", "--resume", "runs/run/taken", "--bits", "2"], 2, "--bits is given"),
    (["run", "--device", "tpu"], 2, "'auto', 'cpu' or 'cuda'"),
    (["train"], 2, "needs a run"),
    (["train", "nowhere"], 3, "not a run folder"),
    (["info", "misfit.json"], 2, "'head' is conv5x5"),
    (["info", "nowhere.onnx"], 3, "nowhere.onnx"),
    (["info", "nowhere.json"], 3, "nowhere.json"),
    (["upscale", "a.png", "-m", "nowhere.onnx"], 3, "nowhere.onnx"),
    (["evaluate", "nowhere.onnx"], 3, "nowhere.onnx"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), BAD, ids=[" ".join(b[0]) for b in BAD])
def test_bad_input_has_a_cause_a_remedy_and_a_code(here, capsys, arguments, code, words):
    assert command(*arguments) == code
    captured = capsys.readouterr().err
    assert words in captured
    assert captured.startswith("error: ") and len(captured.strip().splitlines()) == 2
    assert "Traceback" not in captured
    assert (here / "runs" / "run" / "taken" / "precious").read_text() == "mine"


def test_debug_shows_the_traceback(here):
    from quantnas.errors import DataError

    with pytest.raises(DataError):
        main(["run", "--data", "nowhere", "--debug"])


def test_an_unexpected_error_ends_with_1_and_no_traceback(here, monkeypatch, capsys):
    from quantnas import workspace

    monkeypatch.setattr(workspace, "check", lambda config, chosen: 1 / 0)
    assert command("run") == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_info_of_a_space_as_json(capsys):
    assert command("info", "rfdn_small", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["searched_edges"] == 15
    assert facts["smallest"]["bitops"]["LR 32x32"] < facts["largest"]["bitops"]["LR 32x32"]


def test_settings_win_in_the_order_base_file_set_flag(tmp_path):
    from quantnas.cli import options

    file = tmp_path / "c.yaml"
    file.write_text("seed: 1\nsearch: {epochs: 9, batch: 3}\n")
    made = options.configuration({}, file, ["search.batch=5"], seed=9)
    assert (made.seed, made.search.epochs, made.search.batch) == (9, 9, 5)
    assert made.search.patch == 24
