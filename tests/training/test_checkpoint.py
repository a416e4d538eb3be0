"""Checks that checkpoints are written whole and read back exactly, and that damage is reported."""

import pytest
import torch
from torch import nn, optim

from quantnas.errors import DataError
from quantnas.training import checkpoint


def parts(width: int = 3) -> dict:
    net = nn.Linear(width, 2)
    optimizer = optim.Adam(net.parameters(), 0.1)
    net(torch.rand(4, width)).sum().backward()
    optimizer.step()
    return {"net": net, "optimizer": optimizer}


def test_every_part_comes_back_exactly(tmp_path):
    path, saved, restored = tmp_path / "c.pt", parts(), parts()
    checkpoint.save(path, 17, saved)
    assert checkpoint.load(path, restored) == 17
    for p, q in zip(saved["net"].parameters(), restored["net"].parameters(), strict=True):
        assert torch.equal(p, q)
        states = saved["optimizer"].state[p], restored["optimizer"].state[q]
        assert all(torch.equal(states[0][k], states[1][k]) for k in ("step", "exp_avg"))


def test_a_missing_file_is_step_0_and_changes_nothing(tmp_path):
    found = parts()
    before = found["net"].weight.clone()
    assert checkpoint.load(tmp_path / "c.pt", found) == 0
    assert torch.equal(found["net"].weight, before)


def test_nothing_but_the_file_is_left(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, 1, parts())
    checkpoint.save(path, 2, parts())
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    assert checkpoint.load(path, parts()) == 2


def test_a_failure_while_writing_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    checkpoint.save(path, 1, parts())

    def fail(state, target):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(DataError, match="disk full"):
        checkpoint.save(path, 2, parts())
    assert checkpoint.load(path, parts()) == 1


@pytest.mark.parametrize("keep", [0, 20, 0.5, -30])
def test_a_damaged_file_is_a_data_error(tmp_path, keep):
    path = tmp_path / "c.pt"
    checkpoint.save(path, 3, parts())
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match=r"c\.pt cannot be restored") as caught:
        checkpoint.load(path, parts())
    assert "delete it" in caught.value.remedy


def test_a_checkpoint_of_something_else_is_a_data_error(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, 3, parts(5))
    with pytest.raises(DataError):
        checkpoint.load(path, parts(3))
    checkpoint.save(path, 3, {"net": parts()["net"]})
    with pytest.raises(DataError):
        checkpoint.load(path, parts())


def test_reading_takes_no_code(tmp_path):
    torch.save({"step": 1, "net": eval}, tmp_path / "c.pt")
    with pytest.raises(DataError):
        checkpoint.load(tmp_path / "c.pt", {"net": parts()["net"]})


def test_every_flipped_bit_of_the_weights_is_noticed(tmp_path):
    """Elsewhere a flip is noticed, or changes nothing that is restored."""
    path, saved = tmp_path / "c.pt", parts(64)
    checkpoint.save(path, 3, saved)
    whole = path.read_bytes()
    weights = saved["net"].weight.detach().numpy().tobytes()
    begin = whole.index(weights)
    noticed = 0
    places = [*range(0, len(whole), 37), *range(begin, begin + len(weights), 3)]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        restored = parts(64)
        try:
            checkpoint.load(path, restored)
        except DataError:
            noticed += 1
            continue
        assert not begin <= place < begin + len(weights)
        assert torch.equal(restored["net"].weight, saved["net"].weight)
        states = [each["optimizer"].state_dict()["state"][0] for each in (saved, restored)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert noticed > len(places) / 2


def test_a_zeroed_file_is_told_without_the_words_of_torch(tmp_path):
    path = tmp_path / "c.pt"
    path.write_bytes(bytes(5000))
    with pytest.raises(DataError, match="damaged or incomplete") as caught:
        checkpoint.load(path, parts())
    assert "weights_only" not in str(caught.value)
