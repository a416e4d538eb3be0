"""Checks that later steps treat pre-trained weights like those of a trained run."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantnas.architectures import network, registry, released_weights
from quantnas.cli.main import main
from quantnas.config import search_space
from quantnas.config.files import sha256
from quantnas.config.run_config import QuantizeConfig, RunConfig, TrainConfig
from quantnas.config.search_space import Pixels
from quantnas.data import image_files, photographs
from quantnas.errors import DataError, UsageError
from quantnas.evaluation import scoring
from quantnas.inference import upscaler
from quantnas.pipeline import new_run, pretrained, run_sources, steps
from quantnas.runs import environment, networks, run_photographs, run_settings
from quantnas.runs.run_folder import Run

QUICK = QuantizeConfig(steps=3, batch=2, patch=12, crops=2)
RELEASED = Path(__file__).parents[2].parent / "shared" / "models" / "rfdn_aim_x4.safetensors"


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def same(a: Path, b: Path) -> bool:
    one, two = load_file(a), load_file(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.fixture
def begin(tmp_path):
    """A function (name, space, genotype or None, settings) -> (a begun run, its settings)."""
    for kind, files in (
        ("learn", image_files.bundled().train[:3]),
        ("held", image_files.bundled().held_out),
    ):
        for i, file in enumerate(files[:3]):
            photo = image_files.read(file)[40:120, 60:200]
            image_files.write(tmp_path / kind / f"{i}.png", photo)

    def make(name: str, space, genotype=None, **more) -> tuple[Run, RunConfig]:
        paths = [tmp_path / f"{space.name}.yaml", tmp_path / f"{space.name}.json"]
        paths[0].write_text(search_space.to_yaml(space))
        if genotype is not None:
            paths[1].write_text(genotype.to_json())
            more["genotype"] = str(paths[1])
        data = {"data": str(tmp_path / "learn"), "eval_data": str(tmp_path / "held")}
        config = RunConfig(str(paths[0]), quantize=QUICK, device="cpu", **{**data, **more})
        run = Run(tmp_path / name)
        new_run.begin(run, config, run_photographs.choose(config), environment.environment())
        return run, config

    return make


@pytest.fixture
def genotype(tiny, random_genotype):
    return random_genotype(tiny, 3)


@pytest.fixture
def weights(tiny, genotype, tmp_path) -> Path:
    """A file with a float network of `tiny`, alone in its folder."""
    path = tmp_path / "mine" / "net.safetensors"
    path.parent.mkdir()
    network.save(network.build(tiny, genotype, None), path, tiny)
    return path


def test_both_steps_say_where_the_weights_are_from(tiny, genotype, begin, weights):
    run, config = begin("run", tiny, genotype, bits=4)
    pretrained.adopt(run, config, weights)
    origin = {"adopted": str(weights), "sha256": sha256(weights)}
    results = [run.result(step) for step in ("search", "train")]
    assert all(origin.items() <= each.items() and each["seconds"] == 0 for each in results)
    assert networks.architecture(run) == (tiny, genotype)
    assert same(run.weights("float"), weights)


@pytest.mark.parametrize("bits", [None, 4])
def test_the_whole_chain_goes_on_from_there(tiny, genotype, begin, weights, bits):
    run, config = begin("run", tiny, genotype, bits=bits)
    pretrained.adopt(run, config, weights)
    for step in ("quantize", "export", "evaluate", "report"):
        list(steps.STEPS[step](run, config))
    net = network.build(tiny, genotype, None)
    network.load(net, weights)
    held_out = photographs.find(config.eval_data, 2)
    scores = list(scoring.score(upscaler.torch_upscaler(net), held_out, 2))
    found = run.result("evaluate")["sets"]["held-out"]
    assert found["float_mean"]["psnr"] == pytest.approx(scoring.mean(scores).psnr)
    page = (run.folder / "report.md").read_text()
    assert page.count(f"adopted {weights}") == 2 and "share decided" not in page
    widths = {row.weight_bits for row in networks.quantized(run)[2].layers}
    assert widths == ({4, 8} if bits else {c.weights for c in genotype.choices.values()})


def test_every_command_takes_the_run(tiny, genotype, begin, weights, tmp_path, capsys):
    run, config = begin("run", tiny, genotype, bits=4)
    pretrained.adopt(run, config, weights)
    output = ("--output", tmp_path)
    assert command("info", run.folder) == 0
    capsys.readouterr()
    assert command("evaluate", run.folder, "--json", *output) == 0
    about = json.loads(capsys.readouterr().out)["models"]["run"]
    assert about["what"] == f"float checkpoint {run.weights('float')}"
    assert command("quantize", run.folder, "--bits", 2, *output) == 0
    assert command("export", tmp_path / "quantize" / "run", *output) == 0
    exported = tmp_path / "export" / "run"
    assert command("report", exported) == 0
    assert f"adopted {weights}" in (exported / "report.md").read_text()
    assert command("info", exported, "--json") == 0
    assert same(exported / "checkpoints" / "float.safetensors", weights)


def test_quantizing_a_file_gives_what_quantizing_its_run_gives(
    tiny, genotype, make_run, begin, tmp_path
):
    """Both runs have the same genotype and the float network that `make_run` trained."""
    source = make_run(tmp_path / "source")
    ours, config = begin("ours", tiny, genotype, bits=4)
    pretrained.adopt(ours, config, source.weights("float"))
    for run in (source, ours):
        list(steps.STEPS["quantize"](run, config))
    assert same(ours.weights("quantized"), source.weights("quantized"))


def test_without_bits_it_is_what_a_training_of_no_steps_leaves(tiny, genotype, begin, weights):
    ours, config = begin("ours", tiny, genotype)
    pretrained.adopt(ours, config, weights)
    none = TrainConfig(start=str(weights), float_steps=0, qat_steps=0, patch=QUICK.patch)
    theirs, config = begin("theirs", tiny, genotype, train=none)
    shutil.copy(weights, theirs.weights("given"))
    for step in ("search", "train"):
        list(steps.STEPS[step](theirs, config))
    for name in ("float", "trained"):
        assert same(ours.weights(name), theirs.weights(name)), name


# Weights of third parties


def released_name(name: str) -> str:
    """The name in the released RFDN of a layer of this project."""
    pairs = [(ours, theirs) for theirs, ours in released_weights.LAYERS.items()]
    cell, _, layer = name.partition("_")
    return f"B{int(cell[4:]) + 1}.{dict(pairs[4:])[layer]}" if layer else dict(pairs[:4])[name]


def test_a_released_rfdn_needs_no_genotype(begin, tmp_path):
    space = dataclasses.replace(search_space.load("rfdn50", 2), channels=12, cells=2)
    run, config = begin("run", space, bits=4)
    tensors = {}
    found = registry.known_genotype(space, None)
    for name, conv in network.convolutions(network.build(space, found, None)).items():
        tensors[f"{released_name(name)}.weight"] = conv.weight.detach().clone()
        tensors[f"{released_name(name)}.bias"] = conv.bias.detach().clone()
    save_file(tensors, tmp_path / "theirs.safetensors")
    pretrained.adopt(run, config, tmp_path / "theirs.safetensors")
    net = network.build(space, found, None)
    released_weights.load(net, tmp_path / "theirs.safetensors")
    assert networks.architecture(run)[1] == found
    network.save(net, tmp_path / "wanted.safetensors")
    assert same(run.weights("float"), tmp_path / "wanted.safetensors")
    assert pretrained.space_of(tmp_path / "theirs.safetensors") is None


def test_the_released_file_is_adopted_by_its_space(begin):
    if not RELEASED.is_file():
        pytest.skip(f"{RELEASED} is not there")
    run, config = begin("run", search_space.load("rfdn50", 4), bits=2)
    pretrained.adopt(run, config, RELEASED)
    assert (
        sum(
            conv.weight.numel() + conv.bias.numel()
            for conv in network.convolutions(networks.checkpoint(run, "float")[1]).values()
        )
        == 433_448
    )


# What is refused


def unfinished(run: Run) -> bool:
    return not (run.folder / "steps").exists() and not run.weights("float").exists()


@pytest.mark.parametrize("kind", ["quantized", "trained"])
def test_what_is_quantized_already_is_refused(tiny, genotype, begin, make_run, tmp_path, kind):
    file = make_run(tmp_path / "source").weights(kind)
    run, config = begin("run", tiny, genotype, bits=4)
    with pytest.raises(UsageError, match="is already quantized") as raised:
        pretrained.adopt(run, config, file)
    assert raised.value.remedy == f"Give the run folder, {tmp_path / 'source'}." and unfinished(run)
    alone = shutil.copy(file, tmp_path / "alone.safetensors")
    open_, config = begin("open", tiny, bits=4)  # told before a genotype is asked for
    with pytest.raises(UsageError, match="is already quantized") as raised:
        pretrained.adopt(open_, config, Path(alone))
    assert raised.value.remedy == "Give the float network."


def test_another_scale_is_named(tiny, genotype, begin, weights):
    other = dataclasses.replace(tiny, scale=4)
    run, config = begin("run", other, genotype, bits=4)
    with pytest.raises(UsageError, match="enlarge x2, but x4 is asked for") as raised:
        pretrained.adopt(run, config, weights)
    assert raised.value.remedy == "Give --scale 2." and unfinished(run)


def test_zero_points_that_round_nothing_may_be_absent(tiny, genotype, begin, weights):
    whole = load_file(weights)
    older = {name: tensor for name, tensor in whole.items() if not name.endswith(".zero")}
    assert len(older) < len(whole)
    save_file(older, weights)
    run, config = begin("run", tiny, genotype, bits=4)
    pretrained.adopt(run, config, weights)
    found = load_file(run.weights("float"))
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())


def test_open_choices_need_a_genotype(tiny, begin, weights):
    run, config = begin("run", tiny, bits=4)
    with pytest.raises(UsageError, match="leaves 8 choices open") as raised:
        pretrained.adopt(run, config, weights)
    assert "--genotype" in raised.value.remedy and unfinished(run)


def test_a_space_in_float_needs_bits(tiny, begin, weights, random_genotype):
    edges = {kind: search_space.Edge(edge.ops, (32,)) for kind, edge in tiny.edges.items()}
    space = dataclasses.replace(tiny, edges=edges)
    found = random_genotype(space, 3)
    network.save(network.build(space, found, None), weights, space)
    run, config = begin("run", space, found)
    with pytest.raises(UsageError, match="says nothing about bits"):
        pretrained.adopt(run, config, weights)
    assert unfinished(run)


@pytest.mark.parametrize("other", ["genotype", "space", "nothing", "damaged", "missing"])
def test_a_file_that_does_not_fit_is_a_data_error(
    tiny, genotype, begin, weights, random_genotype, other
):
    if other == "genotype":
        network.save(network.build(tiny, random_genotype(tiny, 4), None), weights, tiny)
    elif other == "space":
        fixed = search_space.load("quicksrnet_small")
        found = registry.known_genotype(fixed, None)
        network.save(network.build(fixed, found, None), weights, fixed)
    elif other == "nothing":
        save_file({}, weights)
    elif other == "damaged":
        weights.write_bytes(weights.read_bytes()[:-7])
    else:
        weights.unlink()
    run, config = begin("run", tiny, genotype, bits=4)
    with pytest.raises(DataError, match=r"net\.safetensors") as raised:
        pretrained.adopt(run, config, weights)
    assert "--space" in raised.value.remedy or other in ("damaged", "missing")
    assert unfinished(run)


# What a file says of its space


def test_a_built_in_space_is_known_by_the_file(tmp_path):
    space, path = search_space.load("espcn", 3), tmp_path / "a.safetensors"
    net = network.build(space, registry.known_genotype(space, None), None)
    network.save(net, path, space)
    assert pretrained.space_of(path) == ("espcn", 3)
    network.save(net, path, dataclasses.replace(space, name="mine"))
    assert pretrained.space_of(path) is None
    network.save(net, path)
    assert pretrained.space_of(path) is None
    path.write_bytes(b"none")
    with pytest.raises(DataError, match="Cannot read"):
        pretrained.space_of(path)


@pytest.mark.parametrize(("asked", "patch"), [(None, 58), (96, 58), (40, 40)])
def test_calibration_crops_fit_a_network_of_one_size_without_its_border(asked, patch):
    only = Pixels(only=(64, 80), border=3)
    assert run_sources._for_one_size(RunConfig(), only, asked).quantize.patch == patch
    assert run_sources._for_one_size(RunConfig(), Pixels(), asked) == RunConfig()


def test_a_continued_run_of_one_size_takes_no_larger_crops_either(source, monkeypatch, tmp_path):
    run = Run(source)
    space = dataclasses.replace(run_settings.space_of(run), pixels=Pixels(only=(30, 24), border=3))
    monkeypatch.setattr(run_settings, "space_of", lambda run: space)
    settings = {"quantize.patch": 96}
    request = run_sources.Request("quantize", settings=settings, output=tmp_path / "new")
    made = run_sources.from_run(request, run)
    assert run_settings.written(made).quantize.patch == 18
