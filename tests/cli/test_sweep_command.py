"""Checks the command `sweep`: its points, its errors and its output."""

import json

import pytest

from quantnas.cli import sweep_progress
from quantnas.cli.commands.sweep import INCOMPLETE, _found
from quantnas.cli.main import main
from quantnas.config import search_space
from quantnas.errors import DataError
from quantnas.sweeps import scheduler
from quantnas.sweeps.progress import Overview, Standing


@pytest.fixture
def sweep(tiny, tmp_path, capsys, monkeypatch):
    """A function of words: exit code, output and errors of `quantnas sweep WORDS`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(search_space.to_yaml(tiny), encoding="utf-8")

    def run(*words: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(["sweep", *words])
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return run


def test_options_take_several_values_each(sweep, tmp_path):
    code, out, _ = sweep(
        "tiny.yaml", "--target-bitops", "0.2G,0.3G", "--bits", "searched", "--bits", "w2a4",
        "--seed", "0", "--vary", "train.float_steps=10,20", "--dry-run",
    )  # fmt: skip
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == [
        f"{target}-float_steps{steps}-{bits}"
        for target in ("0.2G", "0.3G") for steps in (10, 20) for bits in ("searched", "w2a4")
    ]  # fmt: skip
    assert not (tmp_path / "runs").exists()


def test_options_win_over_the_file(sweep, tmp_path):
    (tmp_path / "s.yaml").write_text("vary: {seed: [0, 1, 2], bits: [2, 3]}\n")
    for words in (["--seed", "7"], ["--set", "seed=7"]):
        _, out, _ = sweep("--config", "s.yaml", *words, "--dry-run")
        assert [line.split(":")[0] for line in out.splitlines()] == ["w2", "w3"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Nothing varies"),
        (["--seed", "0,one"], "--seed cannot be 'one'"),
        (["--penalty", "1e-3,much"], "--penalty cannot be 'much'"),
        (["--penalty", "1e-3,1e-4", "--target-bitops", "1G"], "are both given"),
        (["--bits", "2,w9"], "--bits cannot be 'w9'"),
        (["--target-bitops", "1X"], "--target-bitops cannot be '1X'"),
        (["--vary", "search.penaltee=1,2"], "unknown key"),
        (["--vary", "seed"], "is not a setting"),
        (["--seed", "0,1", "--scale", "7"], "--scale"),
        (["--seed", "0,1", "--data", "nowhere"], "nowhere"),
        (["--seed", "0,1", "--ray", "127.0.0.1:1", "--name", "r"], "no Ray cluster"),
        (["nothing", "--seed", "0,1", "--dry-run"], "no search space called 'nothing'"),
    ],
)
def test_what_cannot_be_is_told(sweep, words, said, tmp_path):
    code, _, errors = sweep("tiny.yaml", *words)
    assert code in (2, 3) and said in errors
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_sweep_goes_on_with_its_own_settings(sweep, tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    code, _, errors = sweep("--resume", str(folder))
    assert code == 3 and "sweep.yaml" in errors
    code, _, errors = sweep("--resume", str(folder), "--seed", "1,2")
    assert code == 2 and "--seed" in errors
    code, _, errors = sweep("--resume", str(folder), "--dry-run")
    assert code == 2 and "--dry-run" in errors


def test_failed_points_are_named_and_give_an_exit_code_of_their_own(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler.new_run, "prepare", _refuse_seed_1)
    monkeypatch.setattr(scheduler, "perform", _nothing)
    code, out, errors = sweep("tiny.yaml", "--seed", "0,1", "--workers", "2")
    assert code == INCOMPLETE
    assert "failed: seed1: It is odd. Take an even one." in errors and "sweep.md" in out
    assert "--resume" not in errors  # it has not begun
    found = json.loads((tmp_path / "runs" / "sweep" / "sweep" / "sweep.json").read_text())
    assert [row["cause"] for row in found] == ["not finished", "It is odd."]


PREPARE = scheduler.new_run.prepare


def _refuse_seed_1(verb, config):
    if config.seed == 1:
        raise DataError("It is odd.", "Take an even one.")
    return PREPARE(verb, config)


def _nothing(folder, engine):
    failed = Standing("seed1", "failed", 0.0, {}, "It is odd.", "Take an even one.")
    rows = Standing("seed0", "waiting", 0.0, {}), failed
    yield Overview(rows, 0.0, None)


def test_every_point_that_ends_now_is_told_once(tmp_path, capsys):
    def overview(*states):
        rows = [Standing(name, state, 0.0, {}) for name, state in zip("abc", states, strict=True)]
        return Overview(tuple(rows), 0.5, None)

    seen = [("done", "running", "waiting"), ("done", "done", "running"), ("done", "done", "done")]
    display = sweep_progress.SweepDisplay(" --workers 2")
    display.begin(tmp_path)
    for states in seen:
        display(overview(*states))
    display.end()
    assert display.again == f"quantnas sweep --resume {tmp_path} --workers 2"
    assert (tmp_path / "log.txt").read_text() == "b: done in 0 s\nc: done in 0 s\n"
    assert "a: done" not in capsys.readouterr().err, "it was done before"


def test_points_worse_than_bicubic_are_named():
    scores = {"a": (28.0, 29.0), "b": (27.0, 26.0), "c": (27.4, 28.5)}  # file, float
    rows = [
        {"name": name, "gbitops": 1.0, "bytes": 9} | {
            "psnr": {"set5": {"file": file, "float": full, "bicubic": 27.5}}
        }
        for name, (file, full) in scores.items()
    ]  # fmt: skip
    assert [line for line in _found(rows) if line.startswith("warning")] == [
        "warning: b is worse than bicubic on set5; the float network is, too: train it longer",
        "warning: c is worse than bicubic on set5; use more bits",
    ]


def test_the_line_about_all_points_has_counts_and_time_left():
    rows = [Standing("a", "done", 1.0, {}), Standing("b", "failed", 0.0, {}, "x")]
    shown = sweep_progress.summary(Overview((*rows, Standing("c", "running", 0.5, {})), 0.75, 90.0))
    assert shown == "1/3 points, 1 failed  75%  left 1 min 30 s"


def test_what_a_point_does_is_shown_with_its_first_figures():
    told = {"phase": "float", "done": 3, "total": 9, "facts": {"loss": "0.1", "PSNR": "30.00"}}
    assert (
        sweep_progress.activity(Standing("a", "running", 0.2, told))
        == "float 3/9  loss 0.1  PSNR 30.00"
    )
    assert sweep_progress.activity(Standing("a", "running", 0.0, {})) == "starting"
