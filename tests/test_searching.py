"""Checks the search as a step of a run: which genotype is kept, and what lies in the folder."""

from pathlib import Path

import pytest

from quantnas import genotype, random_search, searching, skeleton, space
from quantnas.config import RunConfig, SearchConfig
from quantnas.runs import Run

SEARCH = {"epochs": 4, "steps_per_epoch": 3, "warmup_epochs": 1, "batch": 2, "patch": 12}


@pytest.fixture
def begin(tiny, tmp_path):
    """(name, settings of the search) -> run folder and configuration."""
    (tmp_path / "tiny.yaml").write_text(space.to_yaml(tiny), encoding="utf-8")

    def make(name: str, **settings: object) -> tuple[Run, RunConfig]:
        config = SearchConfig(**SEARCH | settings)
        (tmp_path / name).mkdir()
        return Run(tmp_path / name), RunConfig(space=str(tmp_path / "tiny.yaml"), search=config)

    return make


def finished(run: Run, config: RunConfig) -> dict:
    for _ in searching.search_step(run, config):
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


def test_the_winner_of_a_trial_is_used_and_an_interrupted_trial_goes_on(begin):
    settings = {"keep": "trial", "trial_steps": 3, "alpha_lr": 0.3}
    run, config = begin("whole", **settings)
    result = finished(run, config)
    scores = [row["psnr"] for row in result["trial"]]
    assert 1 <= len(scores) <= 3
    again, _ = begin("interrupted", **settings)
    steps = searching.search_step(again, config)
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
    drawn = random_search.draw(skeleton.slots(tiny), tiny, config.search, 2, config.seed)
    scores = [row["psnr"] for row in result["samples"]]
    assert found(run) == drawn[scores.index(max(scores))]
    assert Path(run.weights("searched")).exists()
