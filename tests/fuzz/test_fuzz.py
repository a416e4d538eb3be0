"""Checks that no file, however damaged, raises another error than the project's own.

Sound files are mutated with a seed (`mutations`), and read by commands and functions (`targets`) in
a process with limits of memory and time (`worker`). To keep an input that failed, copy its folder
from the place that the message names to `tests/cases/fuzz`.
"""

from pathlib import Path
from random import Random

import pytest

from tests.fuzz import harness, mutations, world
from tests.fuzz.targets import OFTEN, TARGETS

FEW, MANY = 200, 10_000
"""Number of inputs in the fast and in the slow test."""


def require_none(outcome: harness.Outcome, kind: str, target: str, folder: Path) -> None:
    """Fail with a list of all that went wrong with inputs of one kind."""
    found = [each for each in outcome.found if (each.kind, each.target) == (kind, target)]
    assert not found, "\n" + harness.summary(found, folder)


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> harness.Outcome:
    """What a few random inputs did, those that failed before, and the sound files."""
    folder = tmp_path_factory.mktemp("quick")
    jobs = harness.sound_jobs(TARGETS, world.make(folder / "sound"))
    jobs += harness.kept_jobs(pages=False) + harness.random_jobs("few", [*TARGETS, *OFTEN], FEW)
    return harness.outcome(jobs, folder)


@pytest.fixture(scope="module")
def slow(tmp_path_factory) -> harness.Outcome:
    """What many random inputs did, and those that failed before in pages."""
    jobs = harness.kept_jobs(pages=True) + harness.random_jobs("many", [*TARGETS, *OFTEN], MANY)
    return harness.outcome(jobs, tmp_path_factory.mktemp("slow"))


@pytest.mark.parametrize("target", list(TARGETS))
def test_a_few_damaged_files_are_read_or_refused(quick, target, tmp_path):
    require_none(quick, "few", target, tmp_path)


@pytest.mark.parametrize("target", list(TARGETS))
def test_files_that_once_failed_are_read_or_refused(quick, target, tmp_path):
    require_none(quick, "kept", target, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", list(TARGETS))
def test_files_that_once_failed_in_pages_are_read_or_refused(slow, target, tmp_path):
    require_none(slow, "kept", target, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", list(TARGETS))
def test_many_damaged_files_are_read_or_refused(slow, target, tmp_path):
    require_none(slow, "many", target, tmp_path)


def test_the_sound_files_are_read_and_refused_by_none(quick):
    """So it is the mutations that are refused."""
    assert [each.problem for each in quick.found if each.kind == "sound"] == []
    assert [text for kind, text in quick.refused if kind == "sound"] == []
    assert len(quick.refused) > FEW // 4


@pytest.mark.parametrize("name", ["a.bin", *(f"a{form}" for form in mutations.FORMS)])
def test_a_seed_makes_the_same_content_again(name, tmp_path):
    folder = world.make(tmp_path)
    ending = Path(name).suffix
    files = [path for path in sorted(folder.rglob("*")) if path.suffix == ending]
    content = files[0].read_bytes() if files else bytes(range(256))
    made = [mutations.mutated(name, content, Random(seed)) for seed in [*range(30), *range(30)]]
    assert made[:30] == made[30:] and len(set(made)) > 15
