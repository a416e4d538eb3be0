"""Checks the command `quantize`: options, output, errors and exit codes."""

import dataclasses
import json
import signal
from pathlib import Path

import pytest

from quantnas.architectures import network, registry
from quantnas.cli import console
from quantnas.cli.commands import quantize as quantize_command
from quantnas.cli.main import main
from quantnas.config import search_space
from quantnas.config.files import read_json, to_json, write_text
from quantnas.config.genotype import searched_precision
from quantnas.config.run_config import QuantizeConfig, RunConfig
from quantnas.data import image_files
from quantnas.evaluation import quantization_loss
from quantnas.inference import upscaler
from quantnas.pipeline import new_run
from quantnas.reporting.plots import damage_chart
from quantnas.runs import networks, run_folder, run_photographs, run_settings
from quantnas.runs.run_folder import Run

QUICK = QuantizeConfig(steps=3, batch=2, patch=12, crops=4)
FAST = ["steps=3", "batch=2", "patch=12", "crops=4"]


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    """Leave out the damage chart, which takes longer than all the rest."""
    monkeypatch.setattr(damage_chart, "damage", lambda rows, chosen, path: path.write_bytes(b""))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder with the folders `learn` and `held` of small photographs."""
    root = tmp_path_factory.mktemp("photos")
    for kind, files in (
        ("learn", image_files.bundled().train[:3]),
        ("held", image_files.bundled().held_out),
    ):
        for i, file in enumerate(files[:3]):
            image_files.write(root / kind / f"{i}.png", image_files.read(file)[40:100, 60:140])
    return root


@pytest.fixture
def source(tiny, random_genotype, pixels, photos, tmp_path) -> Run:
    """A trained run of the space `tiny`, with quick settings for quantization."""
    run, found = Run(tmp_path / "source"), random_genotype(tiny, 3)
    (tmp_path / "tiny.yaml").write_text(search_space.to_yaml(tiny))
    (tmp_path / "tiny.json").write_text(found.to_json())
    data, held = (str(photos / kind) for kind in ("learn", "held"))
    where = str(tmp_path / "tiny.yaml")
    config = RunConfig(where, data=data, eval_data=held, device="cpu", quantize=QUICK)
    new_run.begin(run, config, run_photographs.choose(config), {})
    run.path("genotype.json").write_text(found.to_json())
    nets = [network.build(tiny, found, p) for p in (None, searched_precision(found))]
    network.inherit(nets[1], nets[0])
    network.initialise(nets[1], pixels(2, 16, 16))
    for kind, net in zip(("float", "trained"), nets, strict=True):
        network.save(net, run.weights(kind), tiny)
    for step in ("search", "train"):
        run.finish(step, {"seconds": 1.0})
    return run


@pytest.fixture
def type_(tmp_path, capsys):
    """A function of arguments: exit code, output and errors of a command that writes to `made`."""

    def run(*arguments: object, verb: str = "quantize", fast: bool = False):
        words = [verb, *arguments]
        if "--resume" not in arguments and verb == "quantize":
            words += ["--output", tmp_path / "made"]
        for setting in FAST if fast else ():
            words += ["--set", f"quantize.{setting}"]
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        return (int(end.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def made(tmp_path):
    return tmp_path / "made" / "quantize"


@pytest.fixture
def file_options(source, photos, tmp_path) -> list[object]:
    """The arguments that the float weights of `source` need when they are given as a file."""
    return [
        source.weights("float"), "--space", tmp_path / "tiny.yaml",
        "--genotype", tmp_path / "tiny.json", "--calib", photos / "learn",
        "--eval-data", photos / "held", "--device", "cpu",
    ]  # fmt: skip


def nothing(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if path.is_file()]


def bit_widths(folder: Path) -> set[int]:
    return {row["weights"] for row in read_json(folder / "precision.json").values()}


# What it takes


def test_a_run_is_quantized_and_told_in_numbers(type_, source, made):
    code, out, err = type_(source.folder, "--bits", 2)
    assert code == 0 and bit_widths(made / "source") == {2, 8}
    assert "closeness to the float network on validation patches: plain rounding " in out
    assert "\nheld-out (3 photographs): bicubic " in out
    assert out.rstrip().endswith(f"next:\n  quantnas export {made / 'source'}")
    rows = read_json(made / "source" / "precision.json").values()
    count = [row["weights"] for row in rows].count(2)
    assert f"  w2a8: {count} of {len(rows)} layers (" in err and "quantize: done in" in err
    log = (made / "source" / "log.txt").read_text()
    assert all(line in log for line in out.splitlines()[:2])


def test_a_file_is_quantized_as_its_run_is_and_goes_on(type_, source, file_options, made):
    assert type_(*file_options, "--bits", 4, fast=True)[0] == 0
    mine = made / "tiny"
    assert bit_widths(mine) == {4, 8}
    assert type_(source.folder, "--bits", 4)[0] == 0
    weights = [Run(f).weights("quantized").read_bytes() for f in (mine, made / "source")]
    assert weights[0] == weights[1]
    told = run_folder.existing(mine).result("train")
    assert told is not None and told["adopted"] == str(source.weights("float"))
    root = made.parent
    assert type_(mine, "--output", root, verb="export")[0] == 0
    exported = root / "export" / "tiny"
    code, out, _ = type_(exported, verb="report")
    assert code == 0 and str(exported / "report.md") in out
    assert "held-out" in (exported / "report.md").read_text()


def test_a_file_that_names_a_built_in_network_needs_nothing_else(type_, photos, tmp_path, made):
    where = search_space.load("quicksrnet_small", 2)
    weights = tmp_path / "net.safetensors"
    found = registry.known_genotype(where, None)
    network.save(network.build(where, found, None), weights, where)
    options = ["--average-bits", 3, "--calib", photos / "learn", "--eval-data", photos / "held"]
    code, _, err = type_(weights, *options, "--device", "cpu", fast=True)
    assert code == 0 and len(bit_widths(made / "quicksrnet_small")) > 1, err


def test_a_finished_run_prints_its_results_again(type_, source, made):
    _, before, _ = type_(source.folder, "--bits", 3)
    weights = Run(made / "source").weights("quantized")
    stamp = weights.stat().st_mtime_ns
    code, again, err = type_("--resume", made / "source")
    assert (code, again) == (0, before) and "quantize: finished before" in err
    assert weights.stat().st_mtime_ns == stamp
    (made / "source" / quantization_loss.FILE).unlink()  # as if it was stopped while measuring
    assert type_("--resume", made / "source")[:2] == (0, before)


@pytest.mark.slow
def test_another_way_to_choose_bits_replaces_that_of_the_run(type_, source, made):
    ways = [("--bits", "w2a4"), ("--average-bits", 3), ("--target-size", "2.4K"), ("--bits", 3)]
    before = source.folder
    for i, way in enumerate(ways):
        assert type_(before, *way, "--name", f"n{i}")[0] == 0
        before = made / f"n{i}"
    bits = [run_folder.existing(made / f"n{i}").result("quantize")["bits"] for i in range(4)]
    assert bits == [2, "average_bits", "target_size", 3]
    assert bit_widths(made / "n3") == {3, 8}
    acts = {row["activations"] for row in read_json(made / "n1" / "precision.json").values()}
    assert acts == {8}, "the 4 of the run before are not kept"


@pytest.mark.slow
def test_another_length_of_retraining_replaces_that_of_the_run(type_, source, made):
    before = source.folder
    lengths = [("--train", "none"), ("--minutes", 0.01), ("--steps", 2), ("--steps", 0)]
    for i, length in enumerate(lengths):
        assert type_(before, "--bits", 2, *length, "--name", f"n{i}")[0] == 0
        before = made / f"n{i}"
    asked = [
        run_settings.load_config(run_folder.existing(made / f"n{i}")).quantize for i in range(4)
    ]
    assert [each.train for each in asked] == ["none", "weights", "weights", "weights"]
    assert [each.minutes for each in asked] == [None, 0.01, None, None]
    assert [each.steps for each in asked[2:]] == [2, 0] and not asked[3].retrains


@pytest.mark.slow
def test_what_is_to_be_retrained_is_retrained_whatever_the_run_was(type_, source, made):
    assert type_(source.folder, "--bits", 2, "--method", "rtn", "--name", "rtn")[0] == 0
    for name, way in {"option": ("--steps", 2), "set": ("--set", "quantize.steps=2")}.items():
        code, out, _ = type_(made / "rtn", *way, "--name", name)
        again = run_settings.load_config(run_folder.existing(made / name)).quantize
        assert (again.method, again.steps, again.retrains) == ("saliency", 2, True)
        told = f"note: --method is saliency here; for {made / 'rtn'} it was rtn\n"
        assert code == 0 and told in out
    code, out, _ = type_(made / "rtn", "--bits", 3, "--name", "baseline")
    assert code == 0 and "note:" not in out


# What is too bad


def test_too_large_a_drop_ends_with_5_behind_the_results_and_keeps_them(
    type_, source, photos, made, tmp_path
):
    """The drop is large on a photograph that the float network itself has enlarged."""
    low = image_files.read(photos / "held" / "0.png")
    upscale = upscaler.torch_upscaler(networks.checkpoint(source, "float")[1])
    image_files.write(tmp_path / "own" / "LRx2" / "a.png", low)
    image_files.write(tmp_path / "own" / "HR" / "a.png", upscale(low))
    options = ["--bits", 2, "--max-drop", 1.5, "--benchmark", tmp_path / "own" / "HR"]
    code, out, err = type_(source.folder, *options)
    _, mine = quantization_loss.load(Run(made / "source"))
    assert code == 5 and mine.full == 100 > mine.quantized + 5
    assert f"float network {mine.full:.2f}, quantized {mine.quantized:.2f} " in out
    assert f"({-mine.drop:+.2f})" in out and "next:" not in out
    cause, remedy = err.splitlines()[-2:]
    assert cause.startswith("error: Quantization costs ") and "the 1.5 dB that are allowed" in cause
    assert remedy.strip().startswith("Give more bits (--bits, --average-bits), ")
    assert Run(made / "source").weights("quantized").is_file()
    assert type_("--resume", made / "source")[0] == 5
    assert type_(made / "source", "--max-drop", 90)[0] == 0


# What is refused, and leaves nothing behind


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bits", 2, "--average-bits", 3], "--bits and --average-bits are both given"),
        (["--target-size", "9K", "--target-bitops", "1G"], "--target-size are both given"),
        (["--bits", 5], "error: --bits cannot be 5"),
        (["--bits", "w1a4"], "error: --bits cannot be 1"),
        (["--bits", "w4a5"], "error: --bits cannot be 5"),
        (["--bits", "four"], "Write 2, 3, 4 or 8, or both as in w2a4"),
        (["--average-bits", 1.5], "is within 1.5 bits per weight; the least is "),
        (["--target-size", 100], "is within 100 bytes; the least is "),
        (["--target-bitops", "1K"], "is within 1,000 BitOps; the least is "),
        (["--target-size", "small"], "--target-size cannot be 'small'"),
        (["--average-bits", -1], "error: --average-bits is -1.0.\n       It must be a number of"),
        (["--average-bits", 1], "Give --average-bits at least that."),
        (["--bits", 2, "--set", "quantize.average_bits=3"], "`average_bits` are both given"),
        (["--ends", 5], "error: --ends cannot be 5"),
        (["--train", "lowrank:0"], "lowrank:8 (any rank)"),
        (["--method", "best"], "error: --method cannot be 'best'"),
        (["--minutes", 0], "--minutes is 0.0.\n       It must be a number of at least 0.001."),
        (["--steps", -1], "--steps is -1"),
        (["--set", "quantize.steps=-1"], "configuration: 'quantize': `steps` is -1"),
        (["--bits", 2, "--steps", 9, "--minutes", 1], "--steps and --minutes are both given"),
        (["--bits", 2, "--at", "8x8"], "--at is given without --target-bitops"),
        (["--bits", 2, "--method", "rtn", "--steps", 9], "--method rtn is not retrained"),
        (["--bits", 2, "--method", "rtn", "--train", "clip"], "--train is given, but"),
        (["--train", "none", "--steps", 9], "with --train none nothing is retrained"),
        (["--carry", "float", "--carry-drop", 0.1], "--carry float leaves no choice"),
        (["--bits", 2, "--name", "a/b"], "--name cannot be 'a/b'"),
        (["--max-drop", -1], "--max-drop is -1.0"),
        (["--target-bitops", "1G", "--at", "32"], "height x width"),
        (["--scale", 3], "is x2, but x3 is given"),
    ],
    ids=str,
)
def test_a_wrong_option_ends_with_2_and_leaves_nothing(type_, source, made, arguments, words):
    code, _, err = type_(source.folder, *arguments)
    assert code == 2 and words in err, err
    assert len(err.splitlines()) == 2 and nothing(made.parent)


@pytest.mark.parametrize(
    ("photograph", "words", "alone"),
    [(None, "does not exist", False), ((20, 30), "holds a crop of 24 pixels", False),
     ((20, 80), "--set quantize.patch=10\n", False), ((2, 3), "Give larger photographs.", False),
     ("held", "Give --calib a folder of other", False), ("none", "holds no images", False),
     ("text", "cannot", False),
     (None, "does not exist", True), ("held", "is in", True)],
)  # fmt: skip
def test_bad_photographs_end_with_3_and_leave_nothing(
    type_, source, photos, file_options, made, tmp_path, photograph, words, alone
):
    folder = tmp_path / "calib"
    if photograph is not None:
        folder.mkdir()
    if isinstance(photograph, tuple):
        height, width = photograph
        photo = image_files.read(photos / "learn" / "0.png")[:height, :width]
        image_files.write(folder / "small.png", photo)
    elif photograph == "held":
        (folder / "same.png").symlink_to(photos / "held" / "1.png")
    elif photograph == "text":
        (folder / "a.png").write_text("none")
    what = file_options if alone else [source.folder]
    code, _, err = type_(*what, "--bits", 4, "--calib", folder, fast=True)
    assert code == 3 and words in err and "calib" in err, err
    assert len(err.splitlines()) == 2 and nothing(made.parent)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (["--average-bits", 1.5], 2, "the least is "),
        (["--bits", 4, "--average-bits", 3], 2, "are both given"),
        (["--bits", 4, "--scale", 7], 2, "should be 2, 3 or 4"),
    ],
    ids=str,
)
def test_of_a_file_nothing_is_left_either(type_, file_options, made, change, code, words):
    found, _, err = type_(*file_options, *change, fast=True)
    assert found == code and words in err, err
    assert nothing(made.parent)


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [("quantized", 2, "is already quantized"), ("missing", 3, "There is no "),
     ("text", 3, "Cannot read "), ("other", 3, "of another network"),
     ("nameless", 2, "does not say which network"), ("open", 2, "choices open")],
)  # fmt: skip
def test_a_file_that_cannot_be_used(
    type_, source, file_options, random_genotype, tiny, made, tmp_path, kind, code, words
):
    path, rest = tmp_path / "net.safetensors", file_options[1:]
    if kind == "quantized":
        path = source.weights("trained")
    elif kind == "text":
        path.write_text("none")
    elif kind != "missing":
        found = random_genotype(tiny, 4 if kind == "other" else 3)
        network.save(network.build(tiny, found, None), path, tiny)
    rest = rest[4:] if kind == "nameless" else rest[:2] + rest[4:] if kind == "open" else rest
    found, _, err = type_(path, *rest, "--bits", 4, fast=True)
    assert found == code and words in err, err
    assert len(err.splitlines()) == 2 and nothing(made.parent)


def test_a_network_in_float_needs_bits(type_, source, file_options, tiny, made, tmp_path):
    edges = {kind: search_space.Edge(edge.ops, (32,)) for kind, edge in tiny.edges.items()}
    where = dataclasses.replace(tiny, edges=edges)
    source.path("space.yaml").write_text(search_space.to_yaml(where))
    (tmp_path / "tiny.yaml").write_text(search_space.to_yaml(where))
    found = json.loads(source.path("genotype.json").read_text())
    for choice in found["choices"].values():
        choice |= {"weights": 32, "activations": 32}
    (tmp_path / "tiny.json").write_text(json.dumps(found))
    code, _, err = type_(source.folder)
    assert code == 2 and "says nothing about bits" in err and nothing(made.parent)
    assert "Give --bits 8, 4, 3 or 2, or a limit, such as --average-bits 3." in err
    code, _, err = type_(*file_options, "--average-bits", 3, fast=True)
    assert code == 0 and bit_widths(made / "tiny") > {8}, err


@pytest.mark.parametrize(
    ("space", "bits", "limit", "words"),
    [
        ("quicksrnet_small", (), "average_bits=1.5", "is within 1.5 bits per weight"),
        ("quicksrnet_small", ("--bits", 4), "average_bits=3", "`average_bits` are both given"),
        ("rfdn_small", ("--bits", 4), "target_size=90000", "`target_size` are both given"),
    ],
)
def test_a_whole_run_is_refused_before_it_trains(type_, photos, made, space, bits, limit, words):
    options = ["--data", photos / "learn", "--eval-data", photos / "held", "--device", "cpu"]
    options += ["--set", f"quantize.{limit}", "--set", "train.patch=12", "--set", "search.patch=12"]
    options += ["--scale", 2, "--output", made.parent]
    code, _, err = type_(space, *bits, *options, verb="run", fast=True)
    assert code == 2 and words in err, err
    assert nothing(made.parent)


def test_photographs_that_cannot_be_decoded_leave_no_folder(type_, source, made, tmp_path):
    """The files begin as valid images, so the fault shows only when they are decoded."""
    image_files.write(
        tmp_path / "calib" / "a.png", image_files.read(image_files.bundled().train[0])
    )
    whole = (tmp_path / "calib" / "a.png").read_bytes()
    (tmp_path / "calib" / "a.png").write_bytes(whole[: len(whole) // 2])
    code, _, err = type_(source.folder, "--bits", 4, "--calib", tmp_path / "calib")
    assert code == 3 and not (made / "source").exists()
    assert f"removed again, with nothing in it: {made / 'source'}" in err
    assert type_(source.folder, "--bits", 4)[0] == 0
    Run(made / "source").weights("quantized").unlink()
    (made / "source" / "steps" / "quantize.json").unlink()
    assert type_("--resume", made / "source")[0] == 0, "an old folder is kept"


def test_a_stopped_run_as_the_source_gives_its_float_network(type_, source, photos, made):
    assert type_(source.folder, "--bits", 4, "--calib", photos / "learn")[0] == 0
    (made / "source" / "steps" / "quantize.json").unlink()
    code, out, _ = type_(made / "source", "--bits", 3, "--name", "next")
    assert code == 0 and bit_widths(made / "next") == {3, 8}
    assert f"note: {made / 'source'} is not quantized to its end; its float network" in out
    assert f"note: --calib {photos / 'learn'} is that of {made / 'source'}" in out
    code, out, _ = type_(source.folder, "--bits", 3, "--name", "plain")
    assert code == 0 and "is not quantized to its end" not in out and "note: --calib" not in out


@pytest.mark.parametrize(
    ("phase", "words"),
    [("saliency", "nothing had been learned yet in this step"), ("quantize", "the state is saved"),
     ("evaluate held-out", "the state is saved")],
)  # fmt: skip
def test_it_can_be_stopped_anywhere_and_goes_on(type_, source, made, monkeypatch, phase, words):
    line = console._line
    monkeypatch.setattr(console, "LINE_EVERY", -1.0)

    def stop(record, pace):
        if record.phase == phase:
            signal.raise_signal(signal.SIGINT)
        return line(record, pace)

    with monkeypatch.context() as patch:
        patch.setattr(console, "_line", stop)
        code, _, err = type_(source.folder, "--bits", 4)
    assert code == 130 and err.endswith(
        f"interrupted; {words}. Continue with:\n  quantnas quantize --resume {made / 'source'}\n"
    )
    assert type_("--resume", made / "source")[0] == 0


def test_the_float_network_is_named_where_it_is_worse_than_bicubic(type_, source, made):
    _, out, _ = type_(source.folder, "--bits", 8)
    (row,) = quantization_loss.load(Run(made / "source"))
    assert row.below_bicubic == row.untrained == ("the float network is, too" in out)
    reached = read_json(made / "source" / "steps" / "quantize.json")["reached"]
    assert f"reached: {reached['weight_bytes']:,} bytes of packed weights, " in out


def test_resume_takes_nothing_beside(type_, source, made):
    assert type_(source.folder, "--bits", 4)[0] == 0
    code, _, err = type_("--resume", made / "source", "--average-bits", 3, "--max-drop", 1)
    assert code == 2 and "--average-bits, --max-drop is given" in err
    assert type_("--resume", made / "nowhere")[0] == 3


@pytest.mark.parametrize(("made_by", "code"), [("train", 2), ("search", 2), ("run", 0), ("", 0)])
def test_only_an_own_run_is_resumed(type_, source, made_by, code):
    write_text(source.path("env.json"), to_json({"command": ["quantnas", made_by, "x"]}))
    found, _, err = type_("--resume", source.folder)
    assert found == code and (source.folder / "precision.json").exists() == (code == 0)
    if code:
        assert f"is a run of `quantnas {made_by}`, not one of `quantnas quantize`" in err
        assert f"in a folder of its own: quantnas quantize {source.folder}" in err


def test_the_command_that_goes_on_has_the_file_that_was_asked_for(tmp_path):
    with quantize_command._Display(None, {}, Path("my file.onnx")) as watch:
        watch.begin(Run(tmp_path))
        watch.end()
    assert watch.again == f"quantnas quantize --resume {tmp_path} -o 'my file.onnx'"
