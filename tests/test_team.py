"""Checks that several processes compute what one does on the whole batch."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quantnas import config, errors, patches, search, supernet, team

STEPS = 5
SEARCH = config.SearchConfig(
    epochs=STEPS, steps_per_epoch=1, warmup_epochs=1, batch=4, patch=6, refresh=2
)


def outcome(space, material, how) -> dict[str, torch.Tensor]:
    """Parameters and buffers after a short search in double precision."""
    torch.manual_seed(0)
    net = supernet.build(space, how).double()
    state = search.start(net, how)
    loop = search.Searching(space, state, material, how)
    with pytest.MonkeyPatch.context() as patch:
        to_tensor = patches.to_tensor
        patch.setattr(patches, "to_tensor", lambda batch: to_tensor(batch).double())
        patch.setattr(search, "decided_network", lambda space, found, net, batches: net)
        fit = search.fit_grids  # later fits choose among candidates that may tie
        patch.setattr(search, "fit_grids", lambda *args, learned: learned or fit(*args))
        losses = [step.loss for step in loop.steps()]
    return {**net.state_dict(), "losses": torch.tensor(losses)}


def work(folder: Path) -> None:
    """What every process of the test does; the first one saves what came out."""
    space, material, how = torch.load(folder / "task.pt", weights_only=False)
    team.launch(2, cuda=False)
    found = outcome(space, material, how)
    assert team.size() == 2
    torch.save(found, folder / f"outcome{team.rank()}.pt")


@pytest.mark.parametrize("relaxation", ["noise", pytest.param("authors", marks=pytest.mark.slow)])
def test_two_processes_end_where_one_does(tiny, halves, tmp_path, relaxation):
    how = dataclasses.replace(SEARCH, relaxation=relaxation)
    material = search.Material(*halves, halves[0])
    torch.save((tiny, material, how), tmp_path / "task.pt")
    command = [sys.executable, __file__, str(tmp_path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, timeout=120, env=env, capture_output=True)
    wanted = outcome(tiny, material, how)
    losses = wanted["losses"]
    for rank in (0, 1):
        found = torch.load(tmp_path / f"outcome{rank}.pt")
        assert found.keys() == wanted.keys()
        torch.testing.assert_close(found.pop("losses"), losses, rtol=1e-4, atol=0)
        for name, value in found.items():  # Adam enlarges what rounding does to tiny gradients
            torch.testing.assert_close(value, wanted[name], rtol=1e-3, atol=5e-4, msg=name)


def test_alone_nothing_is_shared_out():
    t = torch.rand(4, 3)
    assert team.size() == 1 and team.rank() == 0
    assert team.share(t) is t and team.mean(t) is t and team.broadcast("x") == "x"
    assert team.average([t, None]) == [t, None]
    team.launch(1, cuda=False)
    assert team.size() == 1


def test_more_processes_than_gpus_are_refused():
    if torch.cuda.device_count() >= 64:
        pytest.skip("this machine has them")
    with pytest.raises(errors.UsageError, match="GPUs for 64 processes"):
        team.launch(64, cuda=True)


def test_without_fabric_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.UsageError, match=r"quantnas\[several\]"):
        team.launch(2, cuda=False)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
