"""Checks the command line: help without torch, bad input with cause, remedy and exit code."""

import io
import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from quantnas.architectures import registry
from quantnas.cli import console, options, progress_panel
from quantnas.cli.main import app, main
from quantnas.cli.speed import Pace
from quantnas.config import genotype, search_space
from quantnas.config.run_config import RunConfig, SearchConfig
from quantnas.data import image_files
from quantnas.errors import DivergedError
from quantnas.pipeline import driver, steps
from quantnas.pipeline.run_sources import Request
from quantnas.progress import Progress
from quantnas.runs import run_settings
from quantnas.runs.run_folder import Run
from quantnas.runs.watcher import follow

ROOT = Path(__file__).parents[2]
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
    """The help takes little processor time, which does not depend on how busy the machine is."""
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
    for path in image_files.bundled().train[:2]:
        shutil.copy(path, photos)
    shutil.copytree(photos, tmp_path / "fine")
    (photos / "broken.png").write_bytes(b"not a picture")
    image_files.write(tmp_path / "tiny" / "dot.png", np.zeros((12, 12, 3), np.uint8))
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
    where = search_space.load("rfdn_small")
    first = {s.name: (s.ops[0], s.weight_bits[0], s.act_bits[0]) for s in registry.slots(where)}
    first["head"] = ("conv5x5", 8, 8)
    choices = {name: genotype.Choice(*choice) for name, choice in first.items()}
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
    (["run", "--config", "section.yaml"], 2, "Allowed here: space, scale, genotype, data"),
    (["run", "--config", "list.yaml"], 2, "no mapping"),
    (["run", "--config", "broken.yaml"], 2, "not valid YAML"),
    (["run", "typo_space.yaml"], 2, "unknown key 'chanels'"),
    (["run", "op_space.yaml"], 2, "'edges.body.ops.2' cannot be 'conv7x7'"),
    (["run", "bits_space.yaml"], 2, "'edges.body.bits.1' cannot be 5"),
    (["run", "scale_space.yaml"], 2, "'scale' cannot be 7"),
    (["run", "nothing"], 2, "Use one of basic, edsr_baseline"),
    (["run", "--scale", "5"], 2, "should be 2, 3 or 4"),
    (["run", "--bits", "5"], 2, "should be 2, 3, 4 or 8"),
    (["run", "--bits", "w4"], 2, "--bits cannot be 'w4'"),
    (["run", "--bits", "w4a5"], 2, "should be 2, 3, 4 or 8"),
    (["run", "--set", "search"], 2, "section.key=value"),
    (["run", "--set", "search.epochs=many"], 2, "'search.epochs' cannot be 'many'"),
    (["run", "--set", "train.batch=0"], 2, "`batch` is 0"),
    (["run", "--set", "search.warmup_epochs=99"], 2, "`warmup_epochs` is 99"),
    (["run", "--data", "fine", "--eval-data", "fine"], 3, "are among those to learn from"),
    (["run", "--eval-data", "tiny"], 3, "too small to be measured"),
    (["run", "--name", "taken"], 2, "is not empty"),
    (["run", "--resume", "runs/run/taken"], 3, "not a run folder"),
    (["run", "--resume", "runs/run/taken", "--bits", "2"], 2, "--bits is given"),
    (["run", "--device", "tpu"], 2, "'auto', 'cpu' or 'cuda'"),
    (["run", "--resume", "runs/run/taken", "--epochs", "30"], 2, "--epochs is given"),
    (["run", "rfdn_small", "--resume", "runs/run/taken"], 2, "SPACE is given"),
    (["search", "op_space.yaml"], 2, "'edges.body.ops.2' cannot be 'conv7x7'"),
    (["search", "op_space.yaml"], 2, "Use conv1x1, conv3x3"),
    (["search", "--target-bitops", "2X"], 2, "2.0G, 500M, 2e9"),
    (["search", "--target-bitops", "G"], 2, "cannot be 'G'"),
    (["search", "--target-bitops", "0"], 2, "above 0"),
    (["search", "--target-bitops", "99T"], 2, "the nearest one"),
    (["search", "--target-bitops", "1G", "--penalty", "1"], 2, "are both given"),
    (["search", "--at", "32"], 2, "as 32x32"),
    (["search", "--strategy", "luck"], 2, "'gradient' or 'random'"),
    (["search", "--keep", "all"], 2, "'last', 'best' or 'trial'"),
    (["search", "--epochs", "0"], 2, "at least 1"),
    (["spaces", "--copy", "rfnd"], 2, "Use one of basic, edsr_baseline"),
    (["spaces", "--copy", "rfdn_small", "--to", "typo_space.yaml"], 2, "exists already"),
    (["spaces", "--copy", "rfdn_small", "--to", "nowhere/a.yaml"], 3, "Choose another --to"),
    (["spaces", "--to", "a.yaml"], 2, "belong to --copy"),
    (["info", "misfit.json", "--scale", "3"], 2, "has a scale already"),
    (["train"], 2, "a genotype or a fixed network"),
    (["train", "espcn", "--resume", "runs/run/taken"], 2, "but RUN|GENOTYPE|SPACE is given"),
    (["train", "--space", "espcn", "--resume", "runs/run/taken"], 2, "but --space is given"),
    (["quantize"], 2, "needs a run"),
    (["train", "nowhere"], 2, "no run folder, genotype or space 'nowhere'"),
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
    from quantnas.pipeline import preflight

    monkeypatch.setattr(preflight, "check", lambda *args: 1 / 0)
    assert command("run") == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_info_of_a_space_as_json(capsys):
    assert command("info", "rfdn_small", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["searched_edges"] == 15
    assert facts["smallest"]["bitops"]["LR 32x32"] < facts["largest"]["bitops"]["LR 32x32"]


def test_settings_win_in_the_order_base_file_set_flag(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("seed: 1\nsearch: {epochs: 9, batch: 3}\n")
    new = options.New(file, ["search.batch=5"], {"seed": 9, "search.at": "8x8"}, tmp_path, None)
    made = Request("run", **new.arguments).over({})
    assert (made.seed, made.search.epochs, made.search.batch) == (9, 9, 5)
    assert made.search.at == "8x8"
    assert made.search.patch == 24


def test_the_options_of_a_search_are_settings(here, monkeypatch):
    seen = []
    monkeypatch.setattr(
        driver, "perform", lambda *a: seen.append(run_settings.written(a[1])) or 1 / 0
    )
    command(
        "search", "rfdn_deploy", "--target-bitops", "2G", "--at", "48x32", "--strategy", "random",
        "--keep", "best", "--epochs", "30",
    )  # fmt: skip
    made = seen[0]
    assert made.space == "rfdn_deploy" and made.search == SearchConfig(
        epochs=30, target_bitops=2e9, at="48x32", strategy="random", keep="best"
    )
    command("run", "--penalty", "0.5")
    assert seen[1] == RunConfig(search=SearchConfig(penalty=0.5))


def test_without_the_extra_tensorboard_is_refused_before_anything_is_made(
    here, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert command("search", "--tensorboard") == 2
    assert "pip install 'quantnas[tensorboard]'" in capsys.readouterr().err
    assert not (here / "runs" / "search").exists()


def test_a_file_accepted_for_the_noise_of_its_network_comes_with_a_warning():
    found = {"integer_convolutions": 64, "convolutions": 64, "max_steps": 9, "psnr": 39.91}
    cost = {"bitops": {"LR 32x32": 10**9}, "parameters": 3}
    told = {"file": "model.onnx", "bytes": 9, "cost": cost, "verification": found}
    assert len(list(console.export_lines(told))) == 1
    found["sensitivity"] = 38.52
    *_, warning = console.export_lines(told)
    assert warning == (
        "warning: this deep network is sensitive to rounding: file and torch differ by 39.9 dB, "
        "the network with its own arithmetic noise by 38.5 dB"
    )


# Search spaces


def test_spaces_lists_every_built_in_one(capsys):
    assert command("spaces") == 0
    lines = capsys.readouterr().out.splitlines()
    gap = lines.index("")
    assert lines[gap : gap + 3] == ["", "Fixed networks, with nothing to choose:", ""]
    names = [[line.split()[0] for line in part] for part in (lines[:gap], lines[gap + 3 :])]
    assert (names[0].pop(0), names[1].pop(0)) == ("space", "network")
    assert names[0] == sorted(names[0]) and names[1] == sorted(names[1])
    assert {*names[0], *names[1]} == {*search_space.builtin()}
    for name in search_space.builtin():
        options = {slot.options for slot in registry.slots(search_space.load(name))}
        assert name in names[options == {1}]
    small = next(line for line in lines if line.startswith("rfdn_small"))
    assert small.split()[1:7] == ["x2", "16", "2", "15", "10^11.1", "0.435-3.98"]
    assert small.endswith("A small deploy-friendly relative of RFDN (arXiv 2009.11551)")
    fixed = next(line for line in lines if line.startswith("rfdn50"))
    assert fixed.split()[1:6] == ["x4", "50", "4", "433,448", "27"]


def test_spaces_as_json(capsys):
    assert command("spaces", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts) == set(search_space.builtin())
    assert facts["rfdn_small"]["architectures"] > 1e11
    assert all(f["about"] for f in facts.values())


@pytest.mark.parametrize("name", sorted(search_space.builtin()))
def test_a_copied_space_can_be_used(here, capsys, name):
    assert command("spaces", "--copy", name) == 0
    assert f"quantnas search ./{name}.yaml" in capsys.readouterr().out
    assert Path(f"{name}.yaml").read_bytes() == search_space.builtin()[name].read_bytes()
    assert command("info", f"./{name}.yaml") == 0
    out = capsys.readouterr().out
    assert "searched edges" in out or "nothing to choose" in out
    assert command("spaces", "--copy", name) == 2
    assert command("spaces", "--copy", name, "--force") == 0
    assert command("spaces", "--copy", name, "--to", here / "other.yaml") == 0


def test_info_of_a_space_names_every_choice(capsys):
    assert command("info", "rfdn_small", "--scale", "3") == 0
    out = capsys.readouterr().out
    assert "x3: skeleton rfdn_deploy, 16 channels, 2 cells" in out
    assert "15 searched edges, 10^11.1 architectures" in out and "parameters" in out
    assert "body (8 searched): 4, 8 bits\n  conv1x1, conv3x3, conv5x5, conv3x3_groups2" in out
    for resolution in ("LR 32x32", "LR 256x256", "1280x720 output"):
        assert resolution in out


def test_info_of_a_fixed_network_has_no_ranges(capsys):
    assert command("info", "rfdn50") == 0
    out = capsys.readouterr().out
    assert "nothing to choose, 433,448 parameters" in out
    assert "1280x720 output" in out and " to " not in out.replace("nothing to choose", "")


def test_info_tells_widths_apart_and_a_search_in_float(here, capsys):
    apart = SPACE.replace("bits: [8]", "weight_bits: [2, 4], act_bits: [8]")
    Path("apart.yaml").write_text(apart)
    assert command("info", "apart.yaml") == 0
    assert "weights 2, 4 bits, activations 8 bits" in capsys.readouterr().out
    Path("plain.yaml").write_text(SPACE.replace("[4, 8]", "[32]").replace("[8]", "[32]"))
    assert command("info", "plain.yaml") == 0
    assert "body (8 searched): in float" in capsys.readouterr().out
    where = search_space.load("plain.yaml")
    choices = {s.name: genotype.Choice(s.ops[0], 32, 32) for s in registry.slots(where)}
    Path("found.json").write_text(genotype.Genotype("rfdn_small", choices).to_json())
    assert command("info", "found.json", "--space", "plain.yaml") == 0
    assert "32 bits" in capsys.readouterr().out


# Progress

FACTS = {
    "loss": "0.0213", "PSNR": "29.31", "decided PSNR": "29.02", "entropy": "0.43",
    "decided": "27%", "GBitOps@1080x1920": "12345.67", "decided GBitOps": "11234.56",
}  # fmt: skip


def progress(total: int, facts: dict[str, str]) -> Iterator[Progress]:
    return (Progress("search", i + 1, total, facts) for i in range(total))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_panel_cuts_no_figure(width):
    screen = Console(width=width, height=25, record=True, file=io.StringIO(), force_terminal=True)
    pace = Pace()
    with progress_panel.bars(screen) as draw:
        for record in progress(5, FACTS):
            pace.update(record)
            draw(record, pace)
    shown = screen.export_text()
    last = shown[shown.rindex("search ━") :]
    assert "5/5" in last and "left" in last and "…" not in last
    words = " ".join(last.split())
    assert all(name in words and value in words for name, value in FACTS.items())
    assert "steps/s" in last
    assert all(len(line) <= width for line in last.splitlines())


def test_a_pipe_gets_lines_with_figures_and_speed(capsys):
    with console.Display() as display:
        assert follow(progress(3, FACTS), display) is None
    line = capsys.readouterr().err.strip()
    assert line.startswith("search       3/3  loss 0.0213") and "steps/s" in line


def test_the_first_signal_is_answered_at_once(capfd):
    with console.gentle_interrupt() as asked:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
    assert len(asked) == 2
    told = "stopping after this step; Ctrl-C again stops at once\n"
    assert capfd.readouterr().err == told


@pytest.mark.parametrize(
    ("psnr", "words"),
    [(29.0, None), (27.9, "use more bits"), (27.0, "the float network is, too: train it longer")],
)
def test_worse_than_bicubic_comes_with_what_helps(psnr, words):
    mean = {"psnr": psnr, "bicubic_psnr": 28.0, "ssim": 0.9, "bicubic_ssim": 0.8}
    group = {"mean": mean, "float_mean": {"psnr": psnr + 0.5}, "file": [1]}
    _, *warned = console.scores({"sets": {"set5": group}, "scale": 2})
    assert warned == ([f"warning: worse than bicubic on set5; {words}"] if words else [])


def test_the_pace_is_that_of_the_phase(monkeypatch):
    clock = iter([0.0, 1.0, 2.0, 10.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    pace = Pace()
    for record in (Progress("a", n, 10, {}) for n in (4, 6, 8)):
        pace.update(record)
    assert pace.rate == 2 and pace.left == 1 and pace.speed() == "2.00"
    pace.update(Progress("b", 1, 10, {}))
    assert pace.rate is None and pace.left is None and pace.speed() == "-"


def test_the_time_of_a_resumed_step_counts_what_its_saved_state_took(tmp_path, monkeypatch, capsys):
    run = Run(tmp_path)
    monkeypatch.setitem(steps.STEPS, "train", lambda run, config: (_ for _ in ()))
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    run.finish("search", {})
    run.resume_point("float").touch()
    run.spend(90.0)
    with console.Display("train") as watch:
        driver.perform("train", run, watch)
    assert "train: done in 1 min 30 s\n" in capsys.readouterr().err


def test_a_search_that_diverged_ends_with_6(here, monkeypatch, capsys):
    def diverge(*arguments: object) -> None:
        raise DivergedError("The loss became nan.", "Begin again with a smaller rate.")

    monkeypatch.setattr(driver, "perform", diverge)
    assert command("search") == 6
    assert "--resume" not in capsys.readouterr().err
