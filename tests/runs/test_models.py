"""Checks how texts name models, and that the bundled models are complete."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from quantnas import progress
from quantnas.architectures import network
from quantnas.architectures.cost import Cost
from quantnas.cli.main import main
from quantnas.config import files
from quantnas.data import image_files
from quantnas.data.photographs import Photograph
from quantnas.errors import DataError, QuantnasError, UsageError
from quantnas.evaluation import model_comparison, scoring
from quantnas.exporters import onnx_metadata
from quantnas.runs import bundled_models, models

TEXTS = {"trained_on": "six photographs", "terms": "CC0", "recipe": "not at all"}


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def measured(model: models.Model) -> dict:
    """The evaluation of a model on one small photograph."""
    sets = [model_comparison.PhotoSet("set5", (Photograph(image_files.bundled().held_out[0]),))]
    steps = model_comparison.measure({model.name: model.upscaler()}, sets, model.scale)
    return model_comparison.collect([model], sets, finish(steps))


def finish(steps):
    """The return value of a generator."""
    while True:
        try:
            assert isinstance(next(steps), progress.Progress)
        except StopIteration as end:
            return end.value


@pytest.fixture
def run(make_run, tmp_path):
    return make_run(tmp_path / "runs" / "mine")


# What a name means


def test_a_run_is_its_most_finished_network(run):
    found = models.resolve(str(run.folder))
    assert found.file == run.folder / "model.onnx" and "exported file" in found.what
    assert (found.name, found.scale) == ("mine", 2)
    (run.folder / "model.onnx").unlink()
    for kind in ("quantized", "trained", "float"):
        found = models.resolve(str(run.folder))
        assert found.file.stem == kind and f"{kind} checkpoint" in found.what
        found.file.unlink()
    with pytest.raises(DataError, match="holds no trained network"):
        models.resolve(str(run.folder))


def test_an_export_that_did_not_finish_does_not_count(run):
    (run.folder / "steps" / "export.json").unlink()
    assert models.resolve(str(run.folder)).file.stem == "quantized"


def test_checkpoints_are_what_they_are(run):
    """Float checkpoints count 32 bits; the frozen and the exported network give equal pixels."""
    found = {k: models.resolve(str(run.weights(k))) for k in models.KINDS}
    assert [k for k in found if found[k].is_float] == ["float", "searched"]
    exported = models.resolve(str(run.folder / "model.onnx"))
    assert exported.cost == found["quantized"].cost == found["trained"].cost
    assert isinstance(exported.cost, Cost) and exported.name == "mine"
    at, plain = "LR 32x32", found["float"].cost
    assert plain.bitops[at] == 1024 * plain.macs[at] and plain.macs == exported.cost.macs
    low = image_files.read(image_files.bundled().held_out[0])[:40, :51]
    one, two = (m.upscaler()(low).astype(int) for m in (exported, found["quantized"]))
    assert one.shape == (80, 102, 3) and abs(one - two).max() <= 1


def test_a_checkpoint_made_for_another_space_is_refused_with_both_names(run, tiny):
    other = dataclasses.replace(tiny, name="other")
    found = models.networks.architecture(run)[1]
    network.save(network.build(tiny, found, None), run.weights("float"), other)
    with pytest.raises(DataError, match="made for the space other x2, but the run has tiny x2"):
        models.resolve(str(run.weights("float")))
    network.save(network.build(tiny, found, None), run.weights("float"))  # as older versions did
    assert models.resolve(str(run.weights("float"))).is_float


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("nothing", UsageError, "no run folder, file or bundled model 'nothing'"),
        ("nothing.onnx", DataError, "The file .nothing.onnx. does not exist"),
        ("nothing.safetensors", DataError, "does not exist"),
        ("alone.safetensors", DataError, "no checkpoint in a run folder"),
        ("cut.onnx", DataError, "damaged or no ONNX file"),
        ("foreign.onnx", DataError, "is quantized already"),
        ("photo.png", DataError, "neither an ONNX file"),
        ("net.pt", DataError, "checkpoint of PyTorch, which holds no network"),
        ("folder", DataError, "not a run folder"),
    ],
)
def test_what_is_no_model_is_one_clear_sentence(run, tmp_path, monkeypatch, text, kind, words):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("photo.png").write_bytes(b"")
    Path("net.pt").write_bytes(b"PK\x03\x04")
    shutil.copy(run.weights("float"), "alone.safetensors")
    whole = (run.folder / "model.onnx").read_bytes()
    Path("cut.onnx").write_bytes(whole[: len(whole) // 2])
    model = onnx.load_from_string(whole)
    del model.metadata_props[:]
    onnx.save(model, "foreign.onnx")
    with pytest.raises(QuantnasError, match=words) as found:
        models.resolve(text)
    assert type(found.value) is kind and found.value.remedy.endswith(".")


def test_a_file_of_an_older_version_can_be_used_but_has_no_cost(run, tmp_path):
    model = onnx.load(run.folder / "model.onnx")
    old = {"version": "0.1.0", "scale": 2, "cost": {"parameters": 3}}
    onnx.helper.set_model_props(model, {onnx_metadata.METADATA_KEY: json.dumps(old)})
    onnx.save(model, tmp_path / "old.onnx")
    found = models.resolve(str(tmp_path / "old.onnx"))
    assert found.cost is None and not found.is_float
    assert (
        found.upscaler()(image_files.read(image_files.bundled().held_out[0])[:24, :30]).shape[1]
        == 60
    )
    with pytest.raises(DataError, match="older version"):
        models.facts(found.file)


def test_several_models_have_names_of_their_own_and_one_scale(run, make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "other" / "mine")
    found = models.resolve_all(
        ["runs/mine", "other/mine", "runs/mine/checkpoints/float.safetensors"]
    )
    assert [m.name for m in found] == ["runs/mine", "other/mine", "mine float"]
    make_run(tmp_path / "larger", scale=4)
    with pytest.raises(UsageError, match=r"runs/mine is x2, but .*larger.* is x4"):
        models.resolve_all(["runs/mine", "larger"])
    with pytest.raises(UsageError, match="given twice"):
        models.resolve_all(["runs/mine", "runs/mine/model.onnx"])


def test_a_run_and_its_unfinished_export_keep_their_paths_as_names(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (run.folder / "steps" / "export.json").unlink()
    found = models.resolve_all(["runs/mine", "runs/mine/model.onnx"])
    assert [m.name for m in found] == ["runs/mine", "runs/mine/model.onnx"]


def test_info_tells_the_cost_of_that_very_checkpoint(run, tmp_path, capsys):
    for kind in models.KINDS:
        assert command("info", run.weights(kind), "--json") == 0
        cost = json.loads(capsys.readouterr().out)["cost"]
        assert cost["bitops"] == models.resolve(str(run.weights(kind))).cost.bitops
        inside = {row["weight_bits"] for row in cost["layers"]}
        assert (inside == {32}) == (kind in ("float", "searched"))
    shutil.copy(run.weights("float"), run.weights("float_last"))
    assert command("info", run.weights("float_last")) == 3
    assert "is no checkpoint in a run folder" in capsys.readouterr().err


# Bundled models


@pytest.fixture
def shipped(run, tmp_path, monkeypatch):
    """A folder of bundled models with a single model."""
    monkeypatch.setattr(bundled_models, "FOLDER", tmp_path / "models")
    found = models.resolve(str(run.folder))
    made = models.make_card(run.folder, "tiny-x2", measured(found), TEXTS)
    models.bundle(made, found.file, bundled_models.FOLDER)
    return made


def test_a_card_is_made_of_a_run_its_evaluation_and_texts(run, shipped):
    assert bundled_models.bundled() == {"tiny-x2": bundled_models.FOLDER / "tiny-x2.onnx"}
    assert bundled_models.read("tiny-x2") == shipped
    facts = {"name": "tiny-x2", "file": "tiny-x2.onnx", "scale": 2, "space": "tiny", "seed": 0}
    facts |= {"minutes": 3.0, "made_by": "quantnas run tiny", "luma_only": False, **TEXTS}
    assert {key: getattr(shipped, key) for key in facts} == facts
    assert shipped.sha256 == files.sha256(run.folder / "model.onnx")
    assert shipped.bits["head"] == (8, 8) and shipped.bitops["LR 32x32"] > 0
    assert shipped.scores["set5"].bicubic_psnr > 20
    found = models.resolve("tiny-x2")
    assert (found.name, found.what) == ("tiny-x2", "bundled model tiny-x2")
    assert bundled_models.best(2) == "tiny-x2"
    with pytest.raises(UsageError, match="no bundled model of x3"):
        bundled_models.best(3)
    with pytest.raises(UsageError, match="Bundled are tiny-x2"):
        models.resolve("tiny-x3")


def test_a_card_of_a_lone_file_needs_every_text(run, tmp_path):
    lone = tmp_path / "lone.onnx"
    shutil.copy(run.folder / "model.onnx", lone)
    evaluation = measured(models.resolve(str(lone)))
    with pytest.raises(UsageError, match="is missing"):
        models.make_card(lone, "a", evaluation, TEXTS)
    with pytest.raises(UsageError, match="unknown key 'tems'"):
        models.make_card(run.folder, "a", evaluation, TEXTS | {"tems": "CC0"})
    evaluation["models"]["lone"]["sha256"] = "0"
    with pytest.raises(DataError, match="not of"):
        models.make_card(run.folder, "a", evaluation, TEXTS)


def test_a_card_is_read_strictly(shipped):
    path = bundled_models.FOLDER / "tiny-x2.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"colour": "blue"}))
    with pytest.raises(UsageError, match="unknown key 'colour'"):
        bundled_models.read("tiny-x2")
    path.write_text(json.dumps(facts | {"bitops": {"LR 1x1": 3}}))
    with pytest.raises(UsageError, match="lacks 'LR 32x32'"):
        bundled_models.read("tiny-x2")
    path.unlink()
    with pytest.raises(DataError, match="Cannot read"):
        bundled_models.read("tiny-x2")


def test_a_bundled_model_is_used_by_its_name(shipped, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image_files.write("p.png", image_files.read(image_files.bundled().held_out[0])[:40, :52])
    assert command("upscale", "p.png") == 0 and "by tiny-x2" in capsys.readouterr().out
    assert image_files.read("p_x2.png").shape == (80, 104, 3)
    assert command("upscale", "p.png", "-m", "tiny-x2", "-o", "q.png") == 0
    assert np.array_equal(image_files.read("p_x2.png"), image_files.read("q.png"))
    assert (
        command("upscale", "p.png", "-m", "runs/mine/checkpoints/float.safetensors", "--force") == 0
    )
    assert "by mine float" in capsys.readouterr().out
    assert command("upscale", "p.png", "--scale", "3") == 2
    assert "no bundled model of x3" in capsys.readouterr().err
    assert command("upscale", "p.png", "-m", "tiny-x2", "--scale", "3", "-o", "r.png") == 2
    assert "--scale is 3, but bundled model tiny-x2 enlarges x2" in capsys.readouterr().err
    Path("one").mkdir()
    shutil.copy("p.png", "one")
    assert command("evaluate", "tiny-x2", "--data", "one") == 0
    assert "tiny-x2: bundled model tiny-x2" in capsys.readouterr().out
    assert command("info", "tiny-x2", "--json") == 0
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert (cost["parameters"], cost["bitops"]) == (shipped.parameters, shipped.bitops)


def test_models_lists_the_bundled_ones_and_prints_a_card(shipped, capsys):
    assert command("models") == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["model", "scale", "parameters", "kB", "GBitOps"]
    assert line.split()[:2] == ["tiny-x2", "x2"] and line.endswith("CC0")
    score = shipped.scores["set5"]
    assert f"{score.psnr:.2f} ({score.bicubic_psnr:.2f})" in line and line.count(" - ") == 2
    assert command("models", "tiny-x2") == 0
    out = capsys.readouterr().out
    for words in (shipped.sha256, "six photographs", "CC0", "not at all (3 minutes, seed 0)"):
        assert words in out
    assert all(layer in out for layer in shipped.bits) and "Protocol" not in out
    assert command("models", "--json") == 0
    assert json.loads(capsys.readouterr().out)["tiny-x2"]["sha256"] == shipped.sha256
    assert command("models", "tiny-x2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tiny-x2"
    assert command("models", "tiny") == 2
    assert "Bundled are tiny-x2." in capsys.readouterr().err


def test_without_bundled_models_every_command_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundled_models, "FOLDER", tmp_path)
    assert command("models") == 0
    assert capsys.readouterr().out == "no model is bundled\n"
    assert command("models", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {}
    assert command("upscale", "p.png") == 2
    assert "No model is bundled; give a run or a file." in capsys.readouterr().err


@pytest.mark.parametrize("name", bundled_models.bundled())
def test_a_bundled_model_is_what_its_card_says_and_beats_bicubic(name):
    file, card = bundled_models.bundled()[name], bundled_models.read(name)
    facts = models.facts(file)
    assert {key: getattr(card, key) for key in facts} == facts
    assert (card.name, card.file) == (name, file.name)
    assert card.protocol == scoring.PROTOCOL
    photos = [Photograph(path) for path in image_files.bundled().held_out]
    scores = list(scoring.score(models.resolve(name).upscaler(), photos, card.scale))
    assert scoring.mean(scores).gain > 0
