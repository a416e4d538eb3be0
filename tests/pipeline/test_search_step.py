"""Checks the step `search`: the genotype that it keeps, and the files that it writes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from quantnas.architectures import registry
from quantnas.config import genotype, search_space
from quantnas.config.run_config import RunConfig, SearchConfig
from quantnas.data import image_files
from quantnas.nas import random_search
from quantnas.pipeline import load_photographs, search_step
from quantnas.runs.run_folder import Run
from quantnas.sweeps import shared_work

SEARCH = {"epochs": 4, "steps_per_epoch": 3, "warmup_epochs": 1, "batch": 2, "patch": 12}


@pytest.fixture
def begin(tiny, tmp_path):
    """A function (name, settings of the search) -> (run folder, configuration)."""
    (tmp_path / "tiny.yaml").write_text(search_space.to_yaml(tiny), encoding="utf-8")

    def make(name: str, **settings: object) -> tuple[Run, RunConfig]:
        config = SearchConfig(**SEARCH | settings)
        (tmp_path / name).mkdir()
        return Run(tmp_path / name), RunConfig(space=str(tmp_path / "tiny.yaml"), search=config)

    return make


def finished(run: Run, config: RunConfig) -> dict:
    for _ in search_step.search_step(run, config):
        pass
    return run.result("search")


def found(run: Run, name: str = "genotype") -> genotype.Genotype:
    return genotype.load(run.folder / f"{name}.json")


@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_genotype_that_was_asked_for_is_used(begin, keep):
    run, config = begin("run", keep=keep, alpha_lr=0.3)
    result = finished(run, config)
    assert result["kept"] == keep and result["best"]["psnr"] > 0
    assert found(run) == found(run, f"genotype_{keep}")
    assert result["psnr_patches_folded"] == pytest.approx(result["psnr_patches_rounded"], abs=3)
    plots = {path.name for path in (run.folder / "plots").glob("*.png")}
    assert plots == {"alphas.png", "search.png", "architecture.png"}


@pytest.mark.slow
def test_the_winner_of_a_trial_is_used_and_an_interrupted_trial_goes_on(begin):
    settings = {"keep": "trial", "trial_steps": 3, "alpha_lr": 0.3}
    run, config = begin("whole", **settings)
    result = finished(run, config)
    scores = [row["psnr"] for row in result["trial"]]
    assert 1 <= len(scores) <= 3
    again, _ = begin("interrupted", **settings)
    steps = search_step.search_step(again, config)
    for progress in steps:
        if progress.phase == "trial" and progress.done == 2:
            break
    steps.close()
    assert again.result("search") is None and again.resume_point("trial").exists()
    assert [row["psnr"] for row in finished(again, config)["trial"]] == scores
    assert found(again) == found(run)


def test_random_search_leaves_the_best_of_its_draws(begin, tiny):
    run, config = begin("run", strategy="random", samples=2)
    result = finished(run, config)
    drawn = random_search.draw(registry.slots(tiny), tiny, config.search, 2, config.seed)
    scores = [row["psnr"] for row in result["samples"]]
    assert found(run) == drawn[scores.index(max(scores))]
    assert Path(run.weights("searched")).exists()


def test_what_was_left_out_is_shown_logged_and_kept(begin, tmp_path, monkeypatch):
    """One of twelve photographs is damaged and one too small; both are reported."""
    monkeypatch.setattr(load_photographs, "READING_EVERY", 0.0)
    run, config = begin("run")
    rng = np.random.default_rng(0)
    for k in range(16):
        side = 8 if k == 5 else 64
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        image_files.write(tmp_path / "photos" / f"{k:02}.png", pixels)
    (tmp_path / "photos" / "08.png").write_bytes(b"not an image")
    config = dataclasses.replace(config, data=str(tmp_path / "photos"))
    records = list(search_step.search_step(run, config))
    shown = [p for p in records if p.phase == "photographs"]
    assert [p.done for p in shown] == list(range(1, 13))  # four are held out
    assert shown[-1].total == 12 and shown[-1].facts == {"too small": "1", "damaged": "1"}
    (told,) = (p for p in records if p.phase == load_photographs.LEFT_OUT)
    assert (told.done, told.total) == (2, 2) and told.facts == shown[-1].facts
    log = (run.folder / "log.txt").read_text()
    assert "08.png' is damaged" in log and "smaller than a patch: 1" in log
    counts = run.result("search")["photographs"]
    assert (counts["used"], counts["too_small"], counts["cached"]) == (10, 1, True)
    assert "08.png" in counts["damaged"][0]


def test_the_reading_ends_with_its_last_record_when_any_was_shown(begin, tmp_path, monkeypatch):
    run, config = begin("run")
    for k in range(8):
        image_files.write(tmp_path / "photos" / f"{k}.png", np.full((64, 64, 3), 30 * k, np.uint8))
    config = dataclasses.replace(config, data=str(tmp_path / "photos"))

    def shown(every: float, times: float) -> list[int]:
        """The progress when `times` seconds pass between two readings of the clock."""
        clock = iter(times * k for k in range(99))
        monkeypatch.setattr(load_photographs, "READING_EVERY", every)
        monkeypatch.setattr(search_step.time, "monotonic", lambda: next(clock))
        return [p.done for p in load_photographs.reading(run, config, 2, 12)]

    assert shown(1.0, 0.0) == []
    assert shown(1.0, 0.9) == [2, 4, 6]
    assert shown(1.0, 0.4) == [3, 6]


SLOW = pytest.mark.slow
OTHER = {"target_bitops": (150e6, 300e6), "penalty": (1e-4, 3.0), "entropy": (0.0, 9.0),
         "keep": ("last", "best"), "trial_steps": (3, 4), "samples": (1, 2)}  # fmt: skip
"""Setting on which the warm-up does not depend -> two values."""


def test_all_settings_after_the_warm_up_are_tried():
    assert {*OTHER} == {*shared_work.AFTER_WARMUP}


@SLOW
@pytest.mark.parametrize("name", OTHER)
def test_a_search_from_a_shared_warm_up_ends_as_one_by_itself(begin, tmp_path, name):
    """The search differs in one setting from the search that wrote the warm-up."""
    settings, (one, other) = {"warmup_epochs": 2, "alpha_lr": 0.3}, OTHER[name]
    warm = tmp_path / "warm" / "key.pt"
    first, config = begin("first", **{name: one}, **settings)
    for _ in search_step.search_step(first, config, warm):
        pass
    alone, config = begin("alone", **{name: other}, **settings)
    finished(alone, config)
    branch, _ = begin("branch", **{name: other}, **settings)
    seen = [p.done for p in search_step.search_step(branch, config, warm) if p.phase == "search"]
    assert seen[0] == 2 * SEARCH["steps_per_epoch"] + 1
    assert found(branch) == found(alone)
    names = [run.weights("searched").read_bytes() for run in (branch, alone)]
    assert names[0] == names[1]
    rows = [[row for row in run.records() if row["phase"] == "search"] for run in (branch, alone)]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
