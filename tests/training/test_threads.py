"""Checks the choice of the number of threads: by time alone, noted, and without a trace."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from quantnas.architectures import network
from quantnas.config.files import to_json
from quantnas.config.genotype import searched_precision
from quantnas.config.run_config import SearchConfig
from quantnas.nas import gradient_search, supernet
from quantnas.runs import resumable
from quantnas.runs.resumable import Phase
from quantnas.runs.run_folder import Run
from quantnas.training import checkpoint, threads, training_loop
from quantnas.training.threads import Choice


@pytest.fixture
def unset(monkeypatch):
    """No variable says how many threads there are; torch has two, until the test is over."""
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_powers_of_two_below_the_usual_number_are_candidates(unset, monkeypatch):
    assert threads.candidates(2) == (1, 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 12)
    assert threads.candidates(12) == (1, 2, 4, 8, 12)


def test_what_the_user_has_set_is_the_only_candidate(unset, monkeypatch):
    monkeypatch.setattr(threads, "physical", lambda cores: 32)
    assert threads.candidates(64) == (2,), "by torch.set_num_threads"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads.candidates(2) == (2,)


def test_hyper_threads_of_one_core_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    assert threads.physical(4, tmp_path) == 4, "the system does not tell"
    for cpu in range(4):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
    assert threads.physical(4, tmp_path) == 2


@pytest.fixture
def slow(unset, monkeypatch):
    """Seconds that a step takes with a number of threads, by a clock that only steps move."""
    clock, seconds = SimpleNamespace(now=0.0), {}
    fake = SimpleNamespace(perf_counter=lambda: clock.now, monotonic=lambda: clock.now)
    monkeypatch.setattr(threads, "time", fake)

    def step() -> None:
        clock.now += seconds[torch.get_num_threads()]

    seconds["step"] = step
    return seconds


@pytest.mark.parametrize(
    ("two", "one", "chosen"), [(1.0, 1.5, 2), (0.95, 1.0, 1), (1.0, 0.8, 1), (5.0, 1.0, 1)]
)
def test_another_number_must_be_clearly_faster(slow, two, one, chosen):
    slow.update({2: two, 1: one})
    kept = []
    choice = Choice((1, 2), {}, lambda notes: kept.append(dict(notes)))
    steps = len(list(choice.measure(7, slow["step"])))
    assert kept == [{7: chosen}] and choice.at(6) == 1 and choice.at(7) == chosen
    assert torch.get_num_threads() == chosen
    assert steps == (2 * threads.TURNS if two < 5 else 2), "a hopeless number is tried once"
    assert not choice.is_due(8, 10**6), "a measurement is followed by many more steps"
    assert threads.AGAIN * (two + one) < choice.due < 20 * threads.AGAIN * (two + one)


def test_only_changes_are_noted_after_the_first_choice(slow):
    slow.update({2: 1.0, 1: 1.5})
    kept = []
    choice = Choice((1, 2), {}, lambda notes: kept.append(dict(notes)))
    for done in (1, 50, 90):
        list(choice.measure(done, slow["step"]))
        if done == 50:
            slow[2] = 4.0
    assert kept == [{1: 2}, {1: 2, 90: 1}]


def steps_until_due(choice: Choice, step, first: int) -> int:
    """Real steps after which the next measurement begins."""
    for done in range(first, first + 10**4):
        choice.apply(done)
        step()
        choice.watch(done + 1)
        if choice.is_due(done + 1, 10**6):
            return done + 1 - first
    raise AssertionError("never")


def test_slow_steps_of_several_threads_bring_the_next_measurement_forward(slow):
    slow.update({2: 1.0, 1: 1.5})
    choice = Choice((1, 2), {}, lambda notes: None)
    list(choice.measure(1, slow["step"]))
    took = threads.TURNS * 2.5
    assert steps_until_due(choice, slow["step"], 1) == threads.AGAIN * took
    list(choice.measure(2000, slow["step"]))
    slow[2] = 20.0
    assert steps_until_due(choice, slow["step"], 2000) == threads.PATIENCE * took / 20.0
    list(choice.measure(3000, slow["step"]))
    slow[1] = 30.0
    assert choice.at(3000) == 1
    began = choice.due
    assert steps_until_due(choice, slow["step"], 3000) > 20, "one thread is never slow by far"
    assert choice.due == began


def test_short_rests_and_what_is_noted_further_on_are_not_measured(unset):
    least = threads.WORTH * threads.TURNS * 2
    choice = Choice((1, 2), {}, lambda notes: None)
    assert choice.is_due(1, least) and not choice.is_due(1, least - 1)
    assert not Choice((2,), {}, lambda notes: None).is_due(1, least)
    again = Choice((1, 2), {1: 2, 30: 1}, lambda notes: None)
    assert [again.at(done) for done in (0, 1, 29, 30, 99)] == [1, 2, 2, 1, 1]
    assert not again.is_due(30, least) and again.is_due(31, least)
    assert Choice((1, 2, 4), {0: 8}, lambda notes: None).at(3) == 4, "a machine of fewer cores"


def training(tiny, random_genotype, halves) -> Phase:
    torch.manual_seed(0)
    found = random_genotype(tiny, 1)
    net = network.build(tiny, found, searched_precision(found))
    network.initialise(net, halves[0].batch(0, 4)[0])
    state = training_loop.start(net, 5e-3, average=True)
    plan = training_loop.Schedule(steps=9, batch=2, lr=5e-3, check=2, average=0.9)

    def steps(first: int):
        return training_loop.fit(state, *halves, plan, first=first)

    return Phase("float", lambda: plan.steps, state.parts(), steps, lambda step: {})


def searching(tiny, material) -> Phase:
    torch.manual_seed(0)
    config = SearchConfig(
        epochs=3, steps_per_epoch=3, warmup_epochs=1, batch=2, refresh=4, target_bitops=2e8
    )
    state = gradient_search.start(supernet.build(tiny, config), config)
    loop = gradient_search.Searching(tiny, state, material, config)
    return Phase("search", lambda: 9, state.parts(), loop.steps, lambda step: {})


@pytest.fixture
def make(tiny, random_genotype, halves, material):
    """Name -> a phase of 9 steps, the same at every call."""
    return {
        "float": lambda: training(tiny, random_genotype, halves),
        "search": lambda: searching(tiny, material),
    }


def state_of(run: Run, name: str) -> dict:
    """All tensors of a saved state, by their place in it."""
    return dict(leaves(torch.load(run.resume_point(name), weights_only=True), ()))


def leaves(value, place):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*place, key))
    elif isinstance(value, list):
        yield from leaves(dict(enumerate(value)), place)
    else:
        yield place, value


def require_same(one: dict, other: dict) -> None:
    timed = ("pace", "seconds")
    assert one.keys() == other.keys()
    for place, value in one.items():
        same = torch.equal(value, other[place]) if torch.is_tensor(value) else True
        assert same and (torch.is_tensor(value) or place == timed or value == other[place]), place


@pytest.fixture
def always(unset, monkeypatch):
    """A measurement after every step."""
    monkeypatch.setattr(resumable, "cores", lambda: 2)
    for name, value in {"HOPELESS": (9e9, 9e9), "WORTH": 0, "AGAIN": 0}.items():
        monkeypatch.setattr(threads, name, value)


@pytest.mark.slow  # two threads that share busy cores take minutes
@pytest.mark.parametrize("name", ["float", "search"])
def test_measuring_leaves_no_trace(make, name, always, monkeypatch, tmp_path):
    plain, measured = Run(tmp_path / "plain"), Run(tmp_path / "measured")
    monkeypatch.setattr(threads, "candidates", lambda cores: (2,))
    records = list(resumable.perform(plain, make[name]()))
    monkeypatch.setattr(threads, "candidates", lambda cores: (1, 2))
    monkeypatch.setattr(threads, "better", lambda medians, current: current)
    measured.path(resumable.THREADS).write_text(to_json({name: {0: 2}}))
    more = list(resumable.perform(measured, make[name]()))
    assert len(records) == 9 and len(more) > 2 * len(records)
    require_same(state_of(plain, name), state_of(measured, name))
    assert measured.records() == plain.records()
    assert not (plain.folder / resumable.THREADS).exists()
    assert resumable._recorded(measured) == {name: {"0": 2}}


@pytest.mark.slow  # two threads that share busy cores take minutes
@pytest.mark.parametrize("name", ["float", "search"])
def test_a_resumed_loop_repeats_the_noted_choices(make, name, always, monkeypatch, tmp_path):
    """The first run changes its mind after every step."""
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    turns = itertools.cycle((2, 1))
    monkeypatch.setattr(threads, "better", lambda medians, current: next(turns))
    list(resumable.perform(whole, make[name]()))
    notes = resumable._recorded(whole)
    chosen = list(notes[name].values())
    assert len(chosen) > 8 and chosen == [1 + k % 2 for k in range(len(chosen))]
    killed.path(resumable.THREADS).write_text(to_json(notes))
    for stop in (4, 99):
        sitting = resumable.perform(killed, make[name]())
        for record in sitting:
            if record.done == stop:
                sitting.close()
    require_same(state_of(whole, name), state_of(killed, name))
    assert resumable._recorded(killed) == notes


@pytest.mark.slow  # two threads that share busy cores take minutes
def test_a_loop_that_is_closed_while_it_measures_saves_what_it_had(make, always, tmp_path):
    run = Run(tmp_path)
    sitting = resumable.perform(run, make["float"]())
    assert [next(sitting).done for _ in range(3)] == [1, 1, 1]
    sitting.close()
    assert torch.get_num_threads() == 2
    assert checkpoint.load(run.resume_point("float"), make["float"]().parts) == 1


def test_a_stretch_without_steps_is_measured_once(slow, monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "candidates", lambda cores: (1, 2))
    slow.update({2: 3.0, 1: 1.0})
    run, seen = Run(tmp_path), []
    for _ in range(2):
        with resumable.threads_for(run, "saliency", lambda: (seen.append(1), slow["step"]())):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    assert 0 < len(seen) <= 2 * threads.TURNS
    assert resumable._recorded(run) == {"saliency": {"0": 1}}


@pytest.mark.parametrize(("two", "chosen"), [(1.0, 2), (9.0, 1)])
def test_loops_begin_with_what_was_chosen_around_them(make, slow, two, chosen, tmp_path):
    """They repeat no measurement as long as that choice is good enough."""
    slow.update({2: two, 1: 3.0})
    run = Run(tmp_path)
    with resumable.threads_for(run, "train", slow["step"]):
        assert torch.get_num_threads() == chosen
        assert len(list(resumable.perform(run, make["float"]()))) == 9
        assert torch.get_num_threads() == chosen
    assert resumable._recorded(run) == {"train": {"0": chosen}, "float": {"0": chosen}}
    assert torch.get_num_threads() == 2


def test_without_any_choice_loops_begin_with_one_thread(make, unset, tmp_path):
    run = Run(tmp_path)
    assert len(list(resumable.perform(run, make["float"]()))) == 9
    assert resumable._recorded(run) == {"float": {"0": 1}}
