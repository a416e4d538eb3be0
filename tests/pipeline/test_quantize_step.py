"""Checks the step `quantize`: its results, limits, resuming and errors."""

import dataclasses
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from quantnas.architectures import network
from quantnas.config import search_space
from quantnas.config.genotype import searched_precision
from quantnas.config.run_config import QuantizeConfig, RunConfig
from quantnas.data import image_files
from quantnas.errors import DataError
from quantnas.pipeline import activation_ranges, quantize_step
from quantnas.quantization import baselines, bit_widths, least_squares
from quantnas.reporting.plots import damage_chart
from quantnas.runs import networks
from quantnas.runs.run_folder import Run
from quantnas.training import training_loop

QUICK = QuantizeConfig(steps=5, batch=2, patch=12, crops=4)
METHODS = ["rtn", "minmax", "adaround", "gptq", "gpfq", "qronos"]
LIMITS = ("bits", "average_bits", "target_size", "target_bitops")


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> str:
    """A folder of three photographs."""
    folder = tmp_path_factory.mktemp("mine")
    for i, file in enumerate(image_files.bundled().train[:3]):
        image_files.write(folder / f"{i}.png", image_files.read(file)[40:120, 60:200])
    return str(folder)


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    """Skip the damage chart, which takes longer than all the rest and has tests of its own."""
    monkeypatch.setattr(damage_chart, "damage", lambda rows, chosen, path: path.write_bytes(b""))


@pytest.fixture
def begin(tiny, random_genotype, pixels, mine, tmp_path):
    """A function (name, settings) -> (a run with always the same float network, its settings)."""

    def make(name: str = "run", bits: int | None = None, act_bits: int = 8, **quantize):
        torch.manual_seed(5)
        run, found = Run(tmp_path / name), random_genotype(tiny, 3)
        run.path("space.yaml").write_text(search_space.to_yaml(tiny))
        run.path("genotype.json").write_text(found.to_json())
        nets = [network.build(tiny, found, p) for p in (None, searched_precision(found))]
        with torch.no_grad():  # new networks change nearly nothing of an enlarged image
            list(network.convolutions(nets[0]).values())[-1].weight.mul_(10)
        network.inherit(nets[1], nets[0])
        network.initialise(nets[1], pixels(2, 16, 16))
        for kind, net in zip(("float", "trained"), nets, strict=True):
            network.save(net, run.weights(kind), tiny)
        return run, RunConfig(
            str(run.path("space.yaml")), bits=bits, act_bits=act_bits, device="cpu",
            quantize=dataclasses.replace(QUICK, **{"calib": mine, **quantize}),
        )  # fmt: skip

    return make


def same(a: Run, b: Run, name: str = "quantized") -> bool:
    one, two = load_file(a.weights(name)), load_file(b.weights(name))
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


# What it leaves


@pytest.mark.parametrize(
    "how",
    [{"bits": 2}, {"bits": 4, "act_bits": 4, "ends": 4}, {}, {"average_bits": 3.0},
     {"target_size": 2300, "train": "lowrank:2"}, {"bits": 2, "train": "clip"},
     {"bits": 2, "train": "none"}, {"bits": 2, "steps": 0}, {"bits": 3, "hold": 1.0, "blocks": 0.1},
     {"bits": 2, "block_steps": 4, "train": "lowrank:1"}],
    ids=str,
)  # fmt: skip
def test_every_way_leaves_a_network_and_what_was_reached(begin, how):
    run, config = begin(**how)
    records = list(quantize_step.quantize_step(run, config))
    found = run.result("quantize")
    trains = how.get("train") != "none" and how.get("steps") != 0
    first = next((name for name in LIMITS if name in how), None)
    assert found["bits"] == (how["bits"] if first == "bits" else first or "as searched")
    assert found["method"] == "saliency"
    assert found["calibration"] == (
        f"4 crops of 12x12 low-resolution pixels from {config.quantize.calib}"
    )
    assert (found["psnr_to_float_plain_rounding"] is None) == (first is None)
    assert found["psnr_to_float"] >= found["psnr_to_float_before_training"] - 1e-3
    assert found["photographs"]["used"] == 3
    assert {r.phase for r in records} >= ({"saliency", "quantize"} if trains else {"saliency"})
    assert ("quantize" in {r.phase for r in records}) == trains
    assert ("blocks" in {r.phase for r in records}) == ("block_steps" in how)
    layers = [(r.done, r.total) for r in records if r.phase == "least squares"]
    count = len(network.convolutions(networks.checkpoint(run, "float")[1]))
    assert layers == ([] if first is None else [(i, count) for i in range(count + 1)])
    assert found["limit"] == (None if first in (None, "bits") else how[first])
    assert found["reached"]["weight_bytes"] <= how.get("target_size", 1e9)
    assert found["reached"]["average_bits"] <= how.get("average_bits", 8)
    (notes,) = [r.notes for r in records if r.notes]
    assert notes[0].startswith("calibration: 4 crops") and "dB to float" in notes[-1]
    _, frozen, _ = networks.quantized(run)  # the weights fit the bits in the folder
    assert all(conv.weight.isfinite().all() for conv in network.convolutions(frozen).values())
    plain = {name.rpartition(".")[2] for name in load_file(run.weights("quantized"))}
    assert plain <= {"weight", "bias", "log2_step", "zero", "octaves"}
    for name in ("damage.json", "damage.md", "plots/damage.png"):
        assert (run.folder / name).is_file()


def test_what_it_reports_is_what_its_network_gives(begin):
    run, config = begin(bits=3)
    list(quantize_step.quantize_step(run, config))
    _, frozen, _ = networks.quantized(run)
    space, teacher, _ = networks.checkpoint(run, "float")
    assert space.colours == 3
    steps = quantize_step._calibration(run, config, space)
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)
    _, held, _ = end.value.value
    low, _ = held.batch(0, 32)
    with torch.no_grad():
        error = (frozen(low).clamp(0, 1) - teacher(low).clamp(0, 1)).square().mean()
    found = run.result("quantize")["psnr_to_float"]
    assert found == pytest.approx(-10 * error.log10().item(), abs=1e-3)


def test_too_few_minutes_are_warned_of(begin, monkeypatch):
    monkeypatch.setattr(quantize_step, "FEW", 10**6)
    run, config = begin(bits=2, minutes=0.001)
    *_, last = [r for r in quantize_step.quantize_step(run, config) if r.notes]
    wanted = f"only {last.done} steps of retraining fit into 0.001 minutes; give more"
    assert last.notes == (f"warning: {wanted}",) and 0 < last.done < 10**6


def test_a_start_that_retraining_spoils_is_kept(begin):
    run, config = begin(bits=4, rate=100.0, range_photos=0)
    list(quantize_step.quantize_step(run, config))
    found = run.result("quantize")
    before = found["psnr_to_float_before_training"]
    assert found["psnr_to_float"] == pytest.approx(before, abs=1e-3)
    other, untrained = begin("other", bits=4, train="none", range_photos=0)
    list(quantize_step.quantize_step(other, untrained))
    assert same(run, other)


def test_retraining_helps(begin):
    run, config = begin(bits=2, steps=40, rate=0.05, range_photos=0)
    list(quantize_step.quantize_step(run, config))
    found = run.result("quantize")
    assert found["psnr_to_float"] > found["psnr_to_float_before_training"] + 0.2
    assert found["psnr_to_float"] > found["psnr_to_float_plain_rounding"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_there_to_compare_with(begin, monkeypatch, method):
    monkeypatch.setattr(baselines, "STEPS", 20)
    run, config = begin(bits=3, method=method)
    records = list(quantize_step.quantize_step(run, config))
    found = run.result("quantize")
    assert found["method"] == method and "quantize" not in {r.phase for r in records}
    whole = [r.done == r.total for r in records if r.phase == method]
    assert whole[-1] and len(whole) > (method not in METHODS[:2])
    before = found["psnr_to_float_before_training"]
    assert found["psnr_to_float"] == pytest.approx(before, abs=1e-3)
    assert (before == found["psnr_to_float_plain_rounding"]) == (method == "rtn")
    networks.quantized(run)
    assert set(METHODS) == set(baselines.METHODS)


# Time, interruption


def test_it_ends_in_time_with_a_result(begin):
    run, config = begin(bits=2, minutes=0.02, steps=1)
    began = time.monotonic()
    records = list(quantize_step.quantize_step(run, config))
    assert time.monotonic() - began < 60, "a busy machine may be slow, but never this slow"
    steps = [r for r in records if r.phase == "quantize"]
    warned = any("steps of retraining fit into" in line for r in records for line in r.notes)
    assert warned == (steps[-1].done < quantize_step.FEW)
    assert steps and steps[-1].done == steps[-1].total
    found = run.result("quantize")
    assert found["psnr_to_float"] >= found["psnr_to_float_before_training"] - 1e-3


@pytest.mark.parametrize(
    "how",
    [{}, {"average_bits": 3.0, "train": "lowrank:2", "hold": 1.0, "blocks": 0.1, "block_steps": 3}],
    ids=str,
)
def test_closed_in_the_middle_it_ends_where_it_would_have(begin, monkeypatch, how):
    (whole, config), (cut, _) = (begin(name, steps=12, **how) for name in ("whole", "cut"))
    list(quantize_step.quantize_step(whole, config))
    begun = []
    early = ("least squares", 3) if "average_bits" in how else ("saliency", 2)
    for phase, after in (("saliency", 1), early, ("quantize", 4), ("quantize", 3)):
        progress = quantize_step.quantize_step(cut, config)
        begun.append(next(r for r in progress if r.phase == phase).done)
        for _ in range(after - 1):
            next(progress)
        progress.close()
        assert cut.result("quantize") is None and not cut.weights("quantized").exists()
    assert begun == [0, 0, 1, 5]
    monkeypatch.setattr(bit_widths, "plan", None)
    monkeypatch.setattr(least_squares, "improve", None)
    assert cut.spent > 0
    cut.spend(1000.0)
    rest = list(quantize_step.quantize_step(cut, config))
    (note,) = (line for r in rest for line in r.notes)
    assert note == "going on at step 8 of the retraining, with the bits of precision.json"
    assert [r.done for r in rest if r.phase == "quantize"] == list(range(8, 13))
    assert same(cut, whole) and same(cut, whole, "quantize_last")
    for name in ("metrics.jsonl", "precision.json", "damage.json"):
        assert (cut.folder / name).read_text() == (whole.folder / name).read_text()
    results = [run.result("quantize") for run in (cut, whole)]
    spent = [result.pop("seconds") for result in results]
    assert 1000 < spent[0] < 1100 and spent[1] < 100
    assert results[0] == results[1]
    assert not list(cut.folder.rglob("*.resume"))


# Photographs


def test_ranges_come_from_whole_photographs_and_what_they_cut_is_told(begin, monkeypatch):
    seen = []
    measure = activation_ranges.ranges.measure

    def spy(net, photographs):
        seen.extend(photographs)
        return measure(net, photographs)

    monkeypatch.setattr(activation_ranges.ranges, "measure", spy)
    monkeypatch.setattr(activation_ranges, "NOTABLE", 1e-3)
    run, config = begin(bits=4, train="none", range_photos=9)
    records = list(quantize_step.quantize_step(run, config))
    assert [r.done for r in records if r.phase == "ranges"] == list(range(10))
    assert len(seen) == 9 and {x.shape for x in seen} == {(1, 3, 32, 32)}
    assert not [r for r in records if r.phase == "values beyond grids"]
    psnr = run.result("quantize")["psnr_to_float"]
    other, config = begin("other", bits=4, train="none", range_photos=0)
    records = list(quantize_step.quantize_step(other, config))
    (note,) = [n for r in records if r.phase == "values beyond grids" for n in r.notes]
    rows = other.result("quantize")["cut"]
    assert note.startswith("warning: ") and f"{rows[0]['tensor']} {rows[0]['share']:.1%}" in note
    assert psnr > other.result("quantize")["psnr_to_float"] + 2
    assert "ranges" not in {r.phase for r in records}


def test_a_flat_picture_is_warned_of(begin, tmp_path):
    folder = tmp_path / "flat"
    image_files.write(folder / "0.png", np.full((80, 160, 3), (90, 40, 200), np.uint8))
    run, config = begin(bits=4, train="none", calib=str(folder))
    records = list(quantize_step.quantize_step(run, config))
    (note,) = [n for r in records if r.phase == "flat pictures" for n in r.notes]
    assert note == f"warning: flat pictures, as in {folder}, say nothing about ranges"
    assert run.result("quantize")["psnr_to_float"] > 40


def test_photographs_are_made_smaller_or_taken_as_they_are(begin, monkeypatch):
    seen = {}
    measure = training_loop.measure

    def spy(net, held, objective, count=32):
        seen[reduce] = [pair.low.shape for pair in held.pairs]
        return measure(net, held, objective, count)

    monkeypatch.setattr(training_loop, "measure", spy)
    for reduce in (True, False):
        run, config = begin(f"run{reduce}", bits=4, reduce=reduce)
        list(quantize_step.quantize_step(run, config))
        origin = run.result("quantize")["calibration"]
        assert origin.endswith(", taken as low resolution") != reduce
    assert set(seen[True]) == {(40, 70, 3)} and set(seen[False]) == {(80, 140, 3)}


def test_without_a_folder_they_are_those_of_the_run(begin):
    run, config = begin(bits=4, calib=None)
    list(quantize_step.quantize_step(run, config))
    found = run.result("quantize")
    assert found["calibration"].endswith("from the bundled photographs")
    assert found["photographs"]["used"] == len(image_files.bundled().train)


# What cannot be


@pytest.mark.parametrize(
    ("value", "cause"),
    [(float("nan"), "Layer 'cell0_fuse' contains NaN or infinite weights."),
     (1e38, "Layer 'cell0_fuse' outputs NaN or infinite values for a photograph.")],
)  # fmt: skip
def test_a_network_that_is_no_number_is_refused_by_the_name_of_its_layer(begin, value, cause):
    run, config = begin(bits=4)
    space, net, _ = networks.checkpoint(run, "float")
    with torch.no_grad():
        network.convolutions(net)["cell0_fuse"].weight.fill_(value)
        network.convolutions(net)["cell0_fuse"].bias.fill_(3e38)
    network.save(net, run.weights("float"), space)
    with pytest.raises(DataError) as raised:
        list(quantize_step.quantize_step(run, config))
    assert raised.value.cause == cause and "rain the network again" in raised.value.remedy
    assert run.result("quantize") is None and not run.weights("quantized").exists()
    assert not (run.folder / "precision.json").exists()
