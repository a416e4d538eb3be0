"""Checks timing by turns, its statistics, the description of the machine, and profiles."""

import dataclasses
import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from quantnas.errors import DataError, UsageError
from quantnas.evaluation import latency, node_profile, processor, session_noise
from quantnas.evaluation.latency import Result, Row, Setting, Spread, Times
from quantnas.evaluation.processor import Machine
from quantnas.runs import models
from quantnas.runs.watcher import follow


@pytest.fixture
def clock(monkeypatch):
    """A fake clock, [wall time, processor time] in seconds, which the tests advance."""
    at = [100.0, 7.0]
    monkeypatch.setattr(latency, "now", lambda: (at[0], at[1]))
    return at


def result_of(steps):
    """(the records of a generator, its return value)."""
    records = []
    result = follow(steps, records.append)
    return records, result


def slow(clock, log, name, seconds):
    """A function that takes `seconds` (a tuple: by turns), half of it processor time."""
    spent = itertools.cycle(seconds) if isinstance(seconds, tuple) else itertools.repeat(seconds)

    def run() -> None:
        each = next(spent)
        log.append(name)
        clock[0] += each
        clock[1] += each / 2

    return run


def test_models_take_turns_for_the_given_time(clock):
    log: list[str] = []
    runs = {name: slow(clock, log, name, 1 + i) for i, name in enumerate("ab")}
    records, taken = result_of(latency.by_turns(runs, 30, None))
    assert log == ["a", "b"] * (latency.WARM + 10)
    assert taken == {"a": [(1.0, 0.5)] * 10, "b": [(2.0, 1.0)] * 10}
    assert [r.done for r in records] == list(range(1, 11))
    assert {r.total for r in records} == {10} and records[-1].facts == {"a": "1000.0 ms"}


def test_there_are_some_rounds_whatever_the_time(clock):
    runs = {"a": slow(clock, [], "a", 60)}
    assert len(result_of(latency.by_turns(runs, 1, None))[1]["a"]) == latency.LEAST
    assert len(result_of(latency.by_turns(runs, 1, 7))[1]["a"]) == 7


@pytest.fixture
def plain(monkeypatch, clock):
    """A bundled model whose runs take 1 or 3 s, and those of its float reference twice that."""
    monkeypatch.setattr(latency, "session", lambda file, threads, what: (what, Fake()))
    monkeypatch.setattr(session_noise, "own_size", lambda run: None)

    def runner(run, size, what):
        factor = 2 if "float" in what else 1
        return slow(clock, [], what, (factor, factor, 3 * factor))

    monkeypatch.setattr(latency, "runner", runner)
    return models.resolve("plain-x4")


class Fake:
    """A stand-in for a session."""


def test_the_ratio_is_taken_within_a_round(plain):
    setting = Setting((90, 160), 1, rounds=8)
    _, found = result_of(latency.measure([plain], setting))
    (row,) = found.rows
    assert (found.size, found.rounds, found.threads) == ((90, 160), 8, 1)
    assert row.ratio == Times(Spread(0.5, 0.5, 0.5, 0.5), Spread(0.5, 0.5, 0.5, 0.5))
    spent = [3000, 1000, 1000, 3000, 1000, 1000, 3000, 1000]  # behind two runs that warm up
    low, high = np.percentile(spent, 25), np.percentile(spent, 75)
    assert row.times.wall == Spread(1000.0, low, high, 1000.0)
    assert row.times.cpu == Spread(500.0, low / 2, high / 2, 500.0)
    assert row.float_times is not None and row.float_times.wall.median == 2000.0
    assert row.weight_bits == (4, 8) and row.act_bits == (4, 8)
    assert row.bytes == plain.file.stat().st_size


def test_bitops_are_those_of_the_measured_size(plain):
    _, small = result_of(latency.measure([plain], Setting((32, 32), rounds=1)))
    assert small.rows[0].bitops == plain.cost.bitops["LR 32x32"]


def row(ratio: float = 0.5, bits: int = 8, cpu: float = 1.0) -> Row:
    one, share = Spread(10, 10, 10, 10), Spread(10 * cpu, 10 * cpu, 10 * cpu, 10 * cpu)
    beside = Times(Spread(ratio, ratio, ratio, ratio), Spread(0.25, 0.25, 0.25, 0.25))
    return Row("it", "model it", 9, (bits, 8), (8, 8), 9, Times(one, share), None, beside)


VNNI = Machine("x", 2, {"avx2": True, "vnni": True}, "1.32.0")
OLD = dataclasses.replace(VNNI, features={"avx2": True, "vnni": False})


@pytest.mark.parametrize(
    ("row", "machine", "words"),
    [
        (row(), VNNI, []),
        (row(bits=4), VNNI, ["fewer bits make the file smaller, not faster"]),
        (row(1.2), OLD, ["it is not faster than float on this machine; the processor has no VNNI"]),
        (row(1.2), VNNI, ["--per-layer"]),
        (row(cpu=0.5), VNNI, ["had only 50% of a core; by processor time the ratio is 0.25 (it)"]),
    ],
)
def test_what_the_figures_mean_is_said(row, machine, words):
    notes = latency.notes(Result((8, 8), 1, 3, (row,)), machine)
    assert len(notes) == len(words)
    assert all(part in note for part, note in zip(words, notes, strict=True))


def doubling(path, kind=TensorProto.FLOAT, sides=("h", "w")):
    """An ONNX file that adds an image to itself."""
    ends = [helper.make_tensor_value_info(n, kind, ["n", 3, *sides]) for n in ("lr", "sr")]
    made = helper.make_graph(
        [helper.make_node("Add", ["lr", "lr"], ["sr"])], "g", *([e] for e in ends)
    )
    opset = [helper.make_opsetid("", 14)]
    onnx.save(helper.make_model(made, opset_imports=opset, ir_version=7), path)
    return dataclasses.replace(models.resolve("plain-x4"), name=path.stem, file=path)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.UINT8])
def test_the_input_is_what_the_file_takes(tmp_path, kind):
    model = doubling(tmp_path / "m.onnx", kind)
    _, found = result_of(latency.measure([model], Setting((5, 7), 2, rounds=2)))
    assert found.rows[0].float_times is None and found.rows[0].ratio is None
    assert found.rows[0].times.wall.median > 0


def test_a_file_of_one_size_is_measured_at_that_size(tmp_path):
    any_size, fixed = doubling(tmp_path / "a.onnx"), doubling(tmp_path / "b.onnx", sides=(5, 7))
    _, found = result_of(latency.measure([any_size, fixed], Setting(rounds=1)))
    assert found.size == (5, 7)
    with pytest.raises(UsageError, match="b takes images of 5x7 alone, not of 6x7"):
        result_of(latency.measure([any_size, fixed], Setting((6, 7))))


def test_what_is_no_network_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"torn")
    model = dataclasses.replace(models.resolve("plain-x4"), file=tmp_path / "m.onnx")
    with pytest.raises(DataError, match="cannot load bundled model plain-x4"):
        result_of(latency.measure([model], Setting()))


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"seconds": 0.0}, {"rounds": 0}])
def test_impossible_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Setting(**wrong)


def test_processors_say_what_they_can():
    able = {"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx_vnni": True}
    name, features = processor.processor({**able, "avx512_vnni": False, "cpu_name": "Some EPYC"})
    assert name == "Some EPYC" and features is not None
    assert [k for k, there in features.items() if there] == ["avx2", "avx512", "vnni"]
    assert processor.processor({"neon": True, "dot": True, "i8mm": False}) == (
        "", {"asimd": True, "dotprod": True, "i8mm": False}
    )  # fmt: skip
    assert processor.processor({"architecture": "s390x"}) == ("", None)


def test_a_torch_that_does_not_tell_leaves_the_features_open(monkeypatch):
    assert processor.here().features is not None
    monkeypatch.delattr(processor.torch.cpu, "get_capabilities")
    assert processor.here().features is None and processor.here().processor


@pytest.mark.parametrize(
    ("features", "lacks"),
    [({"vnni": False}, "VNNI"), ({"dotprod": False}, "dot product instructions"), (None, None),
     ({"vnni": True, "amx": False}, None)],
)  # fmt: skip
def test_what_makes_integers_slow_is_known(features, lacks):
    assert Machine("x", 1, features, "1").lacks == lacks


def event(index: str, name: str, kind: str, spent: int, given: str) -> dict:
    facts = {"node_index": index, "op_name": kind, "input_type_shape": [{given: [1]}]}
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": spent, "args": facts}


def test_a_profile_is_a_table_of_nodes_without_the_runs_that_warm_up():
    events = [{"cat": "Session", "name": "model_run", "dur": 9, "args": {}}]
    for spent in (9000, 9000, 1000, 3000, 2000):
        events += [
            event("1", "body_token_7", "QLinearConv", spent, "uint8"),
            event("2", "head", "Conv", 3 * spent, "float"),
            event("3", "Add_3", "Add", spent, "float"),
        ]
    found = node_profile.nodes(events, ["body", "head"])
    assert [(n.layer, n.operator, n.ms, n.share, n.in_float) for n in found] == [
        ("head", "Conv", 6.0, 0.6, True),
        ("body", "QLinearConv", 2.0, 0.2, False),
        ("", "Add", 2.0, 0.2, True),
    ]
