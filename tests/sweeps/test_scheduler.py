"""Checks when the points of a sweep may start, what they copy from others, and killed points.

The engine of these tests computes nothing: it writes the results of a step when a test asks for it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from quantnas.config import search_space
from quantnas.errors import DataError, UsageError
from quantnas.evaluation import prediction_check
from quantnas.runs import run_folder
from quantnas.runs.run_folder import Run
from quantnas.sweeps import plan, point_process, progress, results_table, scheduler, shared_work
from quantnas.sweeps.plan import Sweep
from quantnas.sweeps.point_process import DONE, FAILED, PointJob

BASE = {
    "search": {"epochs": 2, "steps_per_epoch": 2, "warmup_epochs": 1, "batch": 2, "patch": 12},
    "train": {"float_steps": 4, "qat_steps": 4, "batch": 2, "patch": 12, "check": 2},
    "quantize": {"steps": 2, "batch": 2, "patch": 12, "crops": 2},
}


class Engine:
    """An engine whose points are finished step by step by the test."""

    def __init__(self, places: int) -> None:
        self.places, self.jobs, self.log, self.over = places, {}, [], []
        self.stopped = False

    def room(self) -> bool:
        return len(self.jobs) < self.places

    def start(self, job: PointJob) -> None:
        taken = [step for step in run_folder.STEPS if Run(job.run).result(step) is not None]
        self.jobs[job.name] = job
        self.log.append((job.name, *taken))

    def ended(self) -> Iterator[tuple[PointJob, int]]:
        while self.over:
            yield self.over.pop()

    def stop(self) -> None:
        self.stopped = True

    def step(self, name: str, step: str) -> None:
        """Let a running point finish a step."""
        run = Run(self.jobs[name].run)
        for made in run_folder.MADE[step]:
            run.path(made).write_text(name)
        run.finish(step, {"seconds": 1.0})

    def end(self, name: str, code: int = DONE) -> None:
        """Let a point end; with DONE, all its steps are finished."""
        job = self.jobs.pop(name)
        if code == DONE:
            for step in run_folder.STEPS:
                if Run(job.run).result(step) is None:
                    Run(job.run).finish(step, {"seconds": 1.0})
        self.over.append((job, code))


@pytest.fixture
def begin(tiny, tmp_path, monkeypatch):
    """A function (varied settings, places) -> (engine, overviews, folder) of a begun sweep."""
    monkeypatch.setattr(scheduler, "TICK", 0.0)
    (tmp_path / "tiny.yaml").write_text(search_space.to_yaml(tiny), encoding="utf-8")

    def make(vary: dict, places: int = 9) -> tuple[Engine, Iterator[progress.Overview], Path]:
        base = {**BASE, "space": str(tmp_path / "tiny.yaml")}
        folder = scheduler.begin(tmp_path, "s", plan.points(Sweep(base, vary), "test"))
        engine = Engine(places)
        return engine, scheduler.perform(folder, engine), folder

    return make


def test_points_start_when_there_is_room_and_end_the_sweep(begin):
    engine, seen, _ = begin({"seed": [0, 1, 2]}, places=2)
    first = next(seen)
    assert [p.state for p in first.points] == ["running", "running", "waiting"]
    assert first.share == 0 and not engine.stopped
    engine.end("seed1")
    assert [p.state for p in next(seen).points] == ["running", "done", "running"]
    engine.end("seed0")
    engine.end("seed2")
    last = list(seen)[-1]
    assert last.count("done") == 3 and last.share == 1.0 and engine.stopped
    assert [row[0] for row in engine.log] == ["seed0", "seed1", "seed2"]


def test_bits_wait_for_the_training_that_they_have_in_common(begin):
    engine, seen, folder = begin({"bits": [None, "w2a8", "w4a4"]})
    assert next(seen).count("running") == 1
    engine.step("searched", "search")
    assert next(seen).count("running") == 1
    engine.step("searched", "train")
    assert next(seen).count("running") == 3
    assert engine.log[1:] == [("w2a8", "search", "train"), ("w4a4", "search", "train")]
    taken = folder / "points" / "w2a8" / "checkpoints" / "float.safetensors"
    assert taken.read_text() == "searched"


def test_trainings_wait_for_the_search_that_they_have_in_common(begin):
    engine, seen, _ = begin({"train.float_steps": [4, 6]})
    assert next(seen).count("running") == 1
    engine.step("float_steps4", "search")
    assert next(seen).count("running") == 2
    assert engine.log[1] == ("float_steps6", "search")


def test_targets_wait_for_the_warm_up_alone(begin):
    engine, seen, folder = begin({"search.target_bitops": [150e6, 300e6], "seed": [0, 1]})
    assert {p.name for p in next(seen).points if p.state == "running"} == {
        "0.15G-seed0", "0.15G-seed1"
    }  # fmt: skip
    jobs = {name.partition("-")[2]: job for name, job in engine.jobs.items()}
    assert jobs["seed0"].warm != jobs["seed1"].warm and jobs["seed0"].warm.parent.parent == folder
    jobs["seed0"].warm.parent.mkdir()
    jobs["seed0"].warm.touch()
    assert next(seen).count("running") == 3
    assert engine.jobs["0.3G-seed0"].warm == jobs["seed0"].warm


def test_a_warm_up_that_nobody_shares_is_not_kept(begin):
    engine, seen, _ = begin({"seed": [0, 1]})
    next(seen)
    assert [job.warm for job in engine.jobs.values()] == [None, None]


def test_when_the_first_fails_the_next_does_what_they_have_in_common(begin):
    engine, seen, folder = begin({"bits": [2, 3]})
    next(seen)
    point_process.fail(folder / "points" / "w2", "It broke.", "Mend it.")
    engine.end("w2", FAILED)
    found = next(seen)
    assert [(p.state, p.cause) for p in found.points] == [
        ("failed", "It broke."),
        ("running", None),
    ]
    assert results_table.rows(folder)[0] == {
        "name": "w2",
        "varied": {"bits": 2},
        "cause": "It broke.",
    }
    assert results_table.rows(folder)[1]["cause"] == "not finished"
    engine.end("w3")
    last = list(seen)[-1]
    assert (last.count("failed"), last.count("done"), last.share) == (1, 1, 1.0)


def test_a_failed_point_is_tried_again_and_a_finished_one_is_not(begin):
    engine, seen, folder = begin({"seed": [0, 1]})
    next(seen)
    point_process.fail(folder / "points" / "seed0", "It broke.", "Mend it.")
    engine.end("seed0", FAILED)
    engine.end("seed1")
    list(seen)
    again = Engine(9)
    seen = scheduler.perform(folder, again)
    assert [p.state for p in next(seen).points] == ["running", "done"]
    again.end("seed0")
    assert list(seen)[-1].count("done") == 2


def test_a_killed_process_is_begun_again_a_few_times(begin):
    engine, seen, folder = begin({"seed": [0, 1]}, places=1)
    for _ in range(scheduler.TRIES):
        next(seen)
        engine.end("seed0", -9)
    assert [p.state for p in next(seen).points] == ["failed", "running"]
    told = json.loads((folder / "failed" / "seed0.json").read_text())
    assert "-9" in told["cause"] and "errors.txt" in told["remedy"]


def test_a_finished_point_whose_process_was_killed_at_its_end_is_no_failure(begin):
    engine, seen, folder = begin({"seed": [0, 1]}, places=1)
    for code in (-9, -9):
        next(seen)
        engine.end("seed0", code)
    next(seen)
    engine.end("seed0")
    engine.over[-1] = engine.over[-1][0], -6
    assert [p.state for p in next(seen).points] == ["done", "running"]
    assert not (folder / "failed").exists()


def test_progress_counts_the_work_of_each_point_and_what_is_measured(begin):
    engine, seen, folder = begin({"bits": [2, 3]})
    next(seen)
    engine.step("w2", "search")
    shown = {"step": "train", "phase": "float", "done": 1, "total": 2, "facts": {}}
    (folder / "points" / "w2" / point_process.FILE).write_text(
        json.dumps({**shown, "seconds": {"search": 60.0, "train": 20.0}})
    )
    found = next(seen)
    s = progress.SHARES
    own = sum(s.values())  # in units of search = 0.3 = 60 s
    half = s["train"] * progress.PHASES["float"][1] / 2
    assert found.points[0].share == pytest.approx((s["search"] + half) / own)
    rest = own - s["search"] - s["train"]
    assert found.share == pytest.approx((s["search"] + half) / (own + rest))


@pytest.mark.parametrize(
    "phases",
    [
        ["photographs", "search"],
        ["photographs", "photographs left out", "float", "rounded"],
        ["photographs", "saliency", "least squares", "blocks", "quantize"],
        ["export"],
    ],
)
def test_progress_within_a_step_never_goes_back(phases):
    told = [{"phase": phase, "done": i, "total": 4} for phase in phases for i in range(5)]
    shares = [round(progress.within(each), 9) for each in told]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == pytest.approx(1)
    assert progress.within({}) == 0


def test_progress_does_not_go_back_where_a_phase_begins_again(begin):
    engine, seen, folder = begin({"bits": [2, 3]})
    next(seen)
    for step in ("search", "train", "quantize", "export"):
        engine.step("w2", step)
    shares = []
    for label, done in (("set5", 1), ("set5", 4), ("set14", 1), ("set14", 4)):
        shown = {"step": "evaluate", "phase": f"evaluate {label}", "done": done, "total": 4}
        (folder / "points" / "w2" / point_process.FILE).write_text(
            json.dumps(shown | {"seconds": {}})
        )
        shares.append(next(seen).points[0].share)
    assert shares == sorted(shares) and shares[0] < shares[-1] < 1


def test_what_cannot_be_done_does_not_stop_the_rest(begin):
    engine, seen, folder = begin({"search.target_bitops": [1.0, 300e6]})
    found = next(seen).points
    assert [p.state for p in found] == ["failed", "running"]
    assert "No network of this space" in found[0].cause
    assert not (folder / "points" / found[0].name).exists()
    engine.end(found[1].name)
    assert list(seen)[-1].share == 1.0


def test_when_nothing_can_be_done_the_reason_is_raised_and_no_folder_is_left(begin, tmp_path):
    with pytest.raises(UsageError, match="none of the 2 points"):
        begin({"search.target_bitops": [1.0, 2.0]})
    assert not (tmp_path / "sweep").exists()


def test_a_point_of_several_processes_is_refused(begin):
    with pytest.raises(UsageError, match="several processes"):
        begin({"train.processes": [1, 2]})


def test_networks_in_other_files_have_other_digests(begin):
    _, _, folder = begin({"bits": [2, 3]})
    one, two = (Run(folder / "points" / name) for name in ("w2", "w3"))
    assert shared_work.keys(one) == shared_work.keys(two)
    for name in shared_work.DATA:
        one.path(name).write_bytes(b"1")
        two.path(name).write_bytes(b"2")
        assert not {*shared_work.keys(one).values()} & {*shared_work.keys(two).values()}
        one.path(name).unlink(), two.path(name).unlink()


def test_one_process_at_a_time_is_at_work_on_a_sweep(begin):
    _, seen, folder = begin({"seed": [0, 1]})
    with FileLock(folder / "lock"), pytest.raises(UsageError, match="at work"):
        next(seen)


def test_closing_stops_the_processes(begin):
    engine, seen, _ = begin({"seed": [0, 1]})
    next(seen)
    seen.close()
    assert engine.stopped


def test_a_folder_of_something_else_is_no_sweep(tmp_path):
    (tmp_path / "sweep.yaml").write_text("vary: {seed: [0, 1]}")  # as somebody may call his own
    with pytest.raises(DataError, match=r"no folder of a sweep"):
        scheduler.existing(tmp_path)


def test_the_digests_tell_what_matters_to_a_step(begin):
    _, _, folder = begin(
        {"search.target_bitops": [150e6, 300e6], "train.float_steps": [4, 6], "bits": [2, 3]}
    )
    keys = [shared_work.keys(Run(folder / "points" / name)) for name in scheduler.names(folder)]
    count = {step: len({each[step] for each in keys}) for step in ("warmup", "search", "train")}
    assert count == {"warmup": 1, "search": 2, "train": 4}


@pytest.mark.slow
def test_a_point_runs_to_its_end_by_itself(begin):
    _, _, folder = begin({"seed": [0, 1]})
    run = Run(folder / "points" / "seed1")
    assert point_process.perform(PointJob(run.folder), lambda: False) == DONE
    assert run.result("report") is not None and set(point_process.seconds(run.folder)) == set(
        run_folder.STEPS
    )
    one = results_table.rows(folder)[1]
    assert one["psnr"]["held-out"]["file"] > 10
    assert not any("over seeds" in line for line in results_table.markdown([one]))
    twin = one | {"varied": {"seed": 0}, "gbitops": one["gbitops"] + 0.2}
    *_, last = results_table.markdown(
        [one, twin | {"psnr": one["psnr"] | {"more": {"file": 1.0, "bicubic": 0.0}}}]
    )
    assert last.endswith(" | - |")
    *_, last = results_table.markdown([one, twin])
    assert last.startswith(
        f"| base | 2 | {one['gbitops'] + 0.1:.3f} ± 0.141 | {one['bytes']:,} ± 0 |"
    )
    command = json.loads((run.folder / "env.json").read_text())["command"]
    assert command == ["quantnas", "run", "--config", str(run.folder / "config.yaml")]


def test_a_point_whose_folder_is_damaged_fails_and_says_so(begin):
    _, _, folder = begin({"seed": [0, 1]})
    point = folder / "points" / "seed0"
    (point / "config.yaml").unlink()
    assert point_process.perform(PointJob(point), lambda: False) == FAILED
    assert "has no config.yaml" in point_process.why(point)["cause"]


def test_a_point_that_is_stopped_saves_its_state(begin):
    _, _, folder = begin({"seed": [0, 1]})
    run = Run(folder / "points" / "seed0")
    asked = iter([False, False, True])
    assert point_process.perform(PointJob(run.folder), lambda: next(asked)) == point_process.STOPPED
    assert run.resume_point("search").exists() and run.result("search") is None


def test_a_point_that_goes_wrong_says_why(begin):
    _, _, folder = begin({"seed": [0, 1]})
    run = Run(folder / "points" / "seed0")
    run.resume_point("search").write_text("no state")
    assert point_process.perform(PointJob(run.folder), lambda: False) == FAILED
    told = json.loads((folder / "failed" / "seed0.json").read_text())
    assert "cannot be restored" in told["cause"] and told["remedy"]


def test_a_quantization_far_from_its_prediction_fails_again_when_it_is_tried_again(
    begin, monkeypatch
):
    _, _, folder = begin({"bits": ["w4a4", "w8a8"]})
    run = Run(folder / "points" / "w4a4")
    for step in ("search", "train"):
        run.finish(step, {})
    run.finish("quantize", {"psnr_to_float_predicted": 50.0, "psnr_to_float": 20.0})
    monkeypatch.setattr(prediction_check, "_blamed", lambda *_: "Layer 'a' is the first")
    for _ in range(2):
        assert point_process.perform(PointJob(run.folder), lambda: False) == FAILED
        assert "20.0 dB to the float one, where 50.0 dB" in point_process.why(run.folder)["cause"]
        assert run.result("export") is None
        point_process.failure(run.folder).unlink()


def test_the_process_of_a_point_ends_with_a_number_and_without_noise(begin):
    """The process ends although its standard input is still open."""
    _, _, folder = begin({"seed": [0, 1]})
    run = Run(folder / "points" / "seed0")
    for step in run_folder.STEPS:
        run.finish(step, {})
    words = [sys.executable, "-m", "quantnas.sweeps.point_process", str(run.folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.wait(60) == DONE
        assert process.stderr.read() == b""


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "quantnas.cli", "sweep", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(path: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_killed_or_stopped_goes_on_where_it_was(tiny, tmp_path, how):
    (tmp_path / "tiny.yaml").write_text(search_space.to_yaml(tiny), encoding="utf-8")
    (tmp_path / "sweep.yaml").write_text(json.dumps({**BASE, "vary": {"seed": [0, 1, 2]}}))
    process = command(
        str(tmp_path / "tiny.yaml"), "--config", str(tmp_path / "sweep.yaml"), "--workers", "2",
        "--output", str(tmp_path), "--name", "s", "--set", "train.float_steps=400",
    )  # fmt: skip
    folder = tmp_path / "sweep" / "s"
    points = folder / "points"
    wait_for(points / "seed0" / "steps" / "search.json")
    process.send_signal(how)
    _, errors = process.communicate(timeout=130)
    assert process.returncode == (130 if how == signal.SIGINT else -how), errors
    before = (points / "seed0" / "steps" / "search.json").stat().st_mtime_ns
    assert not (points / "seed2" / "steps" / "report.json").exists()
    again = command("--resume", str(folder), "--workers", "2")
    out, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert (points / "seed0" / "steps" / "search.json").stat().st_mtime_ns == before
    rows = json.loads((folder / "sweep.json").read_text())
    assert len(rows) == 3 and all("psnr" in row for row in rows)
    assert out.count("GBitOps") == 3


@pytest.mark.parametrize("name", ["../../outer/keep/r", "/tmp", "..", "a/b", "", 5, None, ["a"]])
def test_a_name_that_leads_out_of_a_sweep_is_refused(tmp_path, name):
    (tmp_path / "points").mkdir()
    (tmp_path / "sweep.yaml").write_text(json.dumps({"points": [{"name": name, "seed": 1}]}))
    with pytest.raises(DataError, match=r"sweep\.yaml"):
        list(scheduler.perform(tmp_path, Engine(1)))
    with pytest.raises(DataError, match=r"sweep\.yaml"):
        results_table.rows(tmp_path)


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[1] / "cases/sweep").iterdir()))
def test_a_damaged_file_of_a_sweep_is_told(tmp_path, file):
    (tmp_path / "points").mkdir()
    (tmp_path / "sweep.yaml").write_bytes(file.read_bytes())
    with pytest.raises(DataError, match=r"sweep\.yaml"):
        scheduler.names(tmp_path)


def test_a_half_begun_sweep_is_told_as_such(tmp_path):
    (tmp_path / "points" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="was only begun"):
        scheduler.existing(tmp_path)


def test_a_half_begun_sweep_is_begun_again_under_its_name(begin, tmp_path, monkeypatch):
    with monkeypatch.context() as killed, pytest.raises(ZeroDivisionError):
        killed.setattr(scheduler.yaml, "safe_dump", lambda *_, **__: 1 / 0)
        begin({"seed": [0, 1]})
    folder = tmp_path / "sweep" / "s"
    assert (folder / "half_begun").exists()
    with pytest.raises(DataError, match="was only begun") as caught:
        scheduler.existing(folder)
    assert caught.value.remedy.endswith("--name s.")
    assert not [*begin({"seed": [2, 3]})[2].glob("points/seed0")]
    assert not (folder / "half_begun").exists()
    with pytest.raises(UsageError, match="not empty") as taken:
        begin({"seed": [0, 1]})
    assert "--resume" in taken.value.remedy


def test_a_sweep_that_another_process_began_meanwhile_is_left_alone(begin, tmp_path, monkeypatch):
    """Both found the folder empty; the other was faster."""
    folder = begin({"seed": [0, 1]})[2]
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(run_folder, "create", lambda *_: Run(folder, new=True))
    with pytest.raises(UsageError, match="not empty"):
        begin({"seed": [1, 2]})
    assert sorted(folder.rglob("*")) == before


def test_a_point_in_which_another_process_works_fails(begin, tmp_path):
    engine, seen, folder = begin({"seed": [0, 1]})
    point = folder / "points" / "seed1"
    code = "import sys; from pathlib import Path; from quantnas.runs import run_lock\n"
    code += "with run_lock.held(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(point)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert [p.state for p in next(seen).points] == ["running", "failed"]
        assert "Another process is at work" in point_process.why(point)["cause"]
        process.communicate()
    engine.end("seed0")
    list(seen)
