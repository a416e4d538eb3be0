"""Checks that several processes compute the same as one process on the whole batch."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quantnas.architectures import network
from quantnas.config import genotype, run_config
from quantnas.data import patches
from quantnas.nas import gradient_search, supernet
from quantnas.training import collectives, processes, training_loop

ROOT = Path(__file__).parents[2]
SEARCH = run_config.SearchConfig(
    epochs=5, steps_per_epoch=1, warmup_epochs=1, batch=4, patch=6, refresh=2
)
PLAN = training_loop.Schedule(steps=6, batch=4, lr=5e-3, check=2)
TRAININGS = {
    "float": (False, PLAN, training_loop.Objective()),
    "rounded": (True, PLAN, training_loop.Objective()),
    "average": (
        True,
        dataclasses.replace(PLAN, average=0.9),
        training_loop.Objective(loss="charbonnier"),
    ),
    "teacher": (True, PLAN, training_loop.Objective(share=0.3, colours=1)),
}
"""Name -> (whether the network is rounded, schedule, objective)."""
SHORT = dataclasses.replace(PLAN, steps=10**6, check=10**6, seconds=0.5)


def searched(space, material, how) -> dict[str, torch.Tensor]:
    """Parameters, buffers and losses of a short search in double precision."""
    torch.manual_seed(0)
    net = supernet.build(space, how).double()
    state = gradient_search.start(net, how)
    loop = gradient_search.Searching(space, state, material, how)
    with pytest.MonkeyPatch.context() as patch:
        in_double(patch)
        patch.setattr(gradient_search, "decided_network", lambda space, found, net, batches: net)
        fit = gradient_search.fit_grids  # later fits choose among candidates that may tie
        patch.setattr(gradient_search, "fit_grids", lambda *args, learned: learned or fit(*args))
        losses = [step.loss for step in loop.steps()]
    return {**net.state_dict(), "losses": torch.tensor(losses)}


def trained(space, found, material, name) -> dict[str, torch.Tensor]:
    """Last weights, losses and measurements of a short training in double precision."""
    rounded, plan, objective = TRAININGS.get(name, (False, SHORT, training_loop.Objective()))
    torch.manual_seed(0)
    bits = genotype.searched_precision(found)
    with pytest.MonkeyPatch.context() as patch:
        in_double(patch)
        net = network.build(space, found, bits if rounded else None).double()
        if rounded:
            network.initialise(net, material.weights.batch(0, 4)[0])
        if name == "teacher":
            teacher = network.build(space, found, None).double()
            objective = dataclasses.replace(
                objective, teacher=training_loop.teacher_target(teacher)
            )
        state = training_loop.start(net, plan.lr, plan.average > 0)
        records = list(training_loop.fit(state, material.weights, material.held, plan, objective))
    losses = torch.tensor([r.loss for r in records])
    measured = torch.tensor([r.psnr for r in records if r.psnr is not None])
    return {**state.last, "losses": losses, "measured": measured}


def in_double(patch) -> None:
    to_tensor = patches.to_tensor
    patch.setattr(patches, "to_tensor", lambda batch: to_tensor(batch).double())


def work(folder: Path) -> None:
    """The script of both test processes, each of which saves its results in the folder."""
    space, found, material, relaxations = torch.load(folder / "task.pt", weights_only=False)
    processes.launch(2)
    assert processes.size() == 2 and collectives.size() == 1
    with collectives.sharing():
        assert collectives.size() == 2
        outcomes = {
            name: searched(space, material, dataclasses.replace(SEARCH, relaxation=name))
            for name in relaxations
        }
        for name in (*TRAININGS, "short") if "noise" in relaxations else ():
            outcomes[name] = trained(space, found, material, name)
    torch.save(outcomes, folder / f"outcome{collectives.rank()}.pt")
    if collectives.rank() > 0:
        assert not list(processes.tasks())
    processes.disconnect()
    assert processes.size() == 1


def together(folder: Path, task) -> list[dict[str, dict[str, torch.Tensor]]]:
    """Run two processes on a task and return the results of each."""
    torch.save(task, folder / "task.pt")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, str(folder)]
    subprocess.run(command, check=True, timeout=180, env=env, capture_output=True)
    return [torch.load(folder / f"outcome{rank}.pt") for rank in (0, 1)]


@pytest.fixture(scope="module")
def both(tmp_path_factory, request):
    """Function that runs two processes on its first task and returns those results ever after."""
    found = []

    def compute(*task):
        if not found:
            found.extend(together(tmp_path_factory.mktemp("both"), task))
        return found

    return compute


def require_equal(outcomes, name, expected, **tolerance) -> None:
    """Compare results; the tolerances differ since Adam enlarges errors of tiny gradients."""
    for outcome in outcomes:
        found = {k: v for k, v in outcome[name].items() if k != "measured"}
        assert found.keys() == expected.keys() - {"measured"}
        torch.testing.assert_close(found["losses"], expected["losses"], rtol=1e-4, atol=0)
        for key, value in found.items():
            torch.testing.assert_close(value, expected[key], msg=f"{name}: {key}", **tolerance)


@pytest.mark.slow
def test_two_processes_find_what_one_does(tiny, random_genotype, material, both):
    outcomes = both(tiny, random_genotype(tiny, 1), material, ["noise"])
    require_equal(outcomes, "noise", searched(tiny, material, SEARCH), rtol=1e-3, atol=5e-4)


@pytest.mark.slow
def test_so_they_do_with_the_authors_relaxation(tiny, random_genotype, material, tmp_path):
    how = dataclasses.replace(SEARCH, relaxation="authors")
    outcomes = together(tmp_path, (tiny, random_genotype(tiny, 1), material, ["authors"]))
    require_equal(outcomes, "authors", searched(tiny, material, how), rtol=1e-3, atol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_as_one_does(tiny, random_genotype, material, both, name):
    found = random_genotype(tiny, 1)
    expected = trained(tiny, found, material, name)
    outcomes = both(tiny, found, material, ["noise"])
    require_equal(outcomes, name, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outcomes[0][name]["measured"], expected["measured"])
    assert len(expected["measured"]) == 3 and not len(outcomes[1][name]["measured"])


@pytest.mark.slow
def test_the_clock_of_the_first_process_ends_both(tiny, random_genotype, material, both):
    first, second = both(tiny, random_genotype(tiny, 1), material, ["noise"])
    assert 5 <= len(first["short"]["losses"]) == len(second["short"]["losses"]) < 10**4
    require_equal([second], "short", first["short"], rtol=0, atol=0)


def test_alone_nothing_is_shared_out():
    t = torch.rand(4, 3)
    assert collectives.size() == 1 and collectives.rank() == 0
    assert (
        torch.equal(collectives.share(t), t)
        and collectives.mean(t) is t
        and collectives.broadcast([1, 0.5]) == [1, 0.5]
    )
    assert collectives.average([t, None]) == [t, None]
    with collectives.sharing():
        assert collectives.size() == 1 and collectives.rows(4) == slice(None)


def test_rows_of_a_batch_are_those_of_the_whole(halves):
    low, high = halves[0].batch(3, 6)
    part = halves[0].batch(3, 6, slice(2, 4))
    assert torch.equal(part[0], low[2:4]) and torch.equal(part[1], high[2:4])
    assert halves[0].fingerprint() == halves[0].fingerprint() != halves[1].fingerprint()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
