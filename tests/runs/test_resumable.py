"""Checks that phases count the time they take, over several phases and interruptions."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from quantnas.runs import resumable
from quantnas.runs.resumable import Phase
from quantnas.runs.run_folder import Run


@dataclass(frozen=True)
class Done:
    step: int


@pytest.fixture
def phase(monkeypatch):
    """A function (name, steps) -> a phase whose steps take 10 seconds each."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(resumable, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def make(name: str, steps: int) -> Phase[Done]:
        def loop(first: int) -> Iterator[Done]:
            for step in range(first, steps):
                clock.now += 10
                yield Done(step + 1)

        return Phase(name, lambda: steps, {}, loop, lambda step: {})

    return make


def test_seconds_add_up_over_interruptions_and_phases(phase, tmp_path):
    run = Run(tmp_path)
    sitting = resumable.perform(run, phase("float", 3))
    next(sitting), next(sitting)
    assert run.spent == 0, "nothing is saved so far"
    sitting.close()
    assert run.spent == 20
    assert [record.done for record in resumable.perform(run, phase("float", 3))] == [3]
    assert run.spent == 30
    assert len(list(resumable.perform(run, phase("rounded", 2)))) == 2
    assert run.spent == 50
    run.finish("train", {})
    assert run.spent == 0 and not list((tmp_path / "checkpoints").iterdir())


def test_without_its_state_a_step_begins_at_0_and_a_damaged_figure_does_no_harm(phase, tmp_path):
    run = Run(tmp_path)
    list(resumable.perform(run, phase("float", 3)))
    run.path("checkpoints/spent.json").write_text("{")
    assert run.spent == 0
    run.spend(70.0)
    assert run.spent == 70
    run.resume_point("float").unlink()  # as a message about a damaged one advises
    assert run.spent == 0


def test_a_figure_that_is_none_stays_as_it_was(tmp_path):
    psnr = {1: None, 2: "31.00", 3: None}
    steps = lambda first: map(Done, range(first + 1, 4))  # noqa: E731
    phase = Phase("float", lambda: 3, {}, steps, lambda step: {"PSNR": psnr[step.step]})
    shown = [record.facts for record in resumable.perform(Run(tmp_path), phase)]
    assert shown == [{"PSNR": "-"}, {"PSNR": "31.00"}, {"PSNR": "31.00"}]
