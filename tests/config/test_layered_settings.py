"""Checks the rule that combines layers of settings, by calling it and through the commands."""

import itertools
from pathlib import Path

import pytest
import yaml

from quantnas.cli.commands import sweep as sweep_command
from quantnas.cli.main import main
from quantnas.config.layered_settings import flat, layered, over, together
from quantnas.config.run_config import RunConfig
from quantnas.errors import UsageError
from quantnas.pipeline import new_run
from quantnas.runs import run_settings

BITS = ({"bits": 2}, {"quantize.average_bits": 3}, {"quantize.target_bitops": 1e9},
        {"quantize.target_size": 9e3})  # fmt: skip
SEARCHES = ({"search.target_bitops": 1e9}, {"search.penalty": 0.1}, {"search.epochs": 30},
            {"search.strategy": "random"}, {"search.keep": "best"})  # fmt: skip
RIVALS = [
    *itertools.permutations(BITS, 2),
    ({"bits": 4, "act_bits": 4}, {"quantize.average_bits": 3}),
    ({"bits": 4, "act_bits": 4}, {"bits": 2}),
    ({"quantize.average_bits": 3}, {"bits": None}),
    ({"quantize.minutes": 5}, {"quantize.steps": 300}),
    ({"quantize.minutes": 5}, {"quantize.steps": 0}),
    ({"quantize.steps": 300}, {"quantize.minutes": 5}),
    ({"search.target_bitops": 1e9}, {"search.penalty": 0.1}),
    ({"search.penalty": 0.1}, {"search.target_bitops": 1e9}),
    ({"quantize.method": "rtn"}, {"quantize.steps": 300}),
    ({"quantize.method": "rtn"}, {"quantize.minutes": 5}),
    ({"quantize.method": "rtn"}, {"quantize.train": "clip"}),
    ({"quantize.method": "rtn"}, {"quantize.method": "minmax", "quantize.steps": 9}),
    ({"quantize.method": "rtn", "quantize.steps": 0}, {"quantize.train": "clip"}),
    ({"quantize.train": "none"}, {"quantize.steps": 300}),
    ({"quantize.train": "none"}, {"quantize.minutes": 5}),
    ({"quantize.steps": 0}, {"quantize.train": "clip"}),
    ({"quantize.steps": 0}, {"quantize.minutes": 5}),
    *(({"genotype": "g.json"}, search) for search in SEARCHES),
    ({"search.target_bitops": 1e9}, {"genotype": "g.json"}),
    ({"space": "rfdn", "genotype": "g.json"}, {"space": "basic"}),
    ({"search.processes": 2}, {"search.strategy": "random"}),
    ({"train.start": "float"}, {"train.float_steps": 9}),
    ({"train.qat_steps": 0}, {"train.start": "float"}),
    ({"train.teacher_share": 0}, {"train.teacher": "own"}),
]
"""Settings below, a layer over them that replaces them all, and the settings that remain."""
NO_RIVALS = [
    ({"scale": 3}, {"space": "basic"}),
    ({"space": "basic"}, {"scale": 3}),
    ({"genotype": "g.json"}, {"space": "basic"}),
    ({"space": "basic"}, {"genotype": "g.json"}),
    ({"search.target_bitops": 1e9}, {"space": "basic"}),
    ({"genotype": "g.json"}, {"search.batch": 4}),
    ({"eval_data": "held"}, {"data": "photographs"}),
    ({"act_bits": 4}, {"quantize.average_bits": 3}),
    ({"bits": 2}, {"act_bits": 4}),
    ({"quantize.target_bitops": 1e9}, {"quantize.at": "64x64"}),
    ({"quantize.minutes": 5}, {"quantize.train": "none"}),
    ({"quantize.minutes": 5}, {"quantize.train": "clip"}),
    ({"quantize.steps": 7}, {"quantize.rate": 0.1}),
    ({"quantize.steps": 7}, {"quantize.method": "rtn"}),
    ({"quantize.method": "rtn"}, {"quantize.train": "none"}),
    ({"quantize.method": "rtn"}, {"quantize.steps": 0}),
    ({"quantize.method": "rtn", "quantize.rate": 0.1},
     {"quantize.train": "clip", "quantize.steps": 0}),
    ({"train.max_hours": 1.0}, {"train.float_steps": 9}),
    ({"train.start": "float"}, {"train.float_steps": 0}),
]  # fmt: skip
"""Settings below, a layer over them that replaces none of them, and the settings that remain."""
EXPECTED = [
    *((below, layer, layer) for below, layer in RIVALS),
    *((below, layer, below | layer) for below, layer in NO_RIVALS),
]


def name(value: object) -> str:
    return "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else ""


pairs = pytest.mark.parametrize(("below", "layer", "left"), EXPECTED, ids=name)


def alone(settings: dict[str, object]) -> RunConfig:
    """The configuration of these settings, where no setting replaces another."""
    config = run_settings.plain(RunConfig())
    for setting, value in settings.items():
        section, _, key = setting.rpartition(".")
        (config[section] if section else config)[key] = value
    return layered(RunConfig(), config)


@pytest.fixture
def type_(tmp_path, monkeypatch, make_run, capsys):
    """A function from the words of a command to its configurations, without running anything."""
    monkeypatch.chdir(tmp_path)
    configs: list[RunConfig] = []

    def stop(verb, output, name, config, source=None, complete=None):
        configs.append(config)
        raise KeyboardInterrupt

    def points(points):
        configs.extend(point.config for point in points)

    monkeypatch.setattr(new_run, "fresh", stop)
    monkeypatch.setattr(sweep_command, "_list", points)

    def run(*words: object) -> list[RunConfig]:
        configs.clear()
        if "mine" in words and not Path("mine").exists():
            make_run(tmp_path / "mine")
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            if end.code not in (0, 130):
                raise UsageError(capsys.readouterr().err, "") from end
        return list(configs)

    return run


def file(**content: object) -> str:
    Path("file.yaml").write_text(yaml.safe_dump(content))
    return "file.yaml"


def sections(settings: dict[str, object]) -> dict[str, object]:
    """Nest the settings as in configuration files: search.epochs -> search: {epochs}."""
    nested: dict[str, object] = {}
    for setting, value in settings.items():
        section, _, key = setting.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[key] = value
    return nested


def whole(settings: dict[str, object]) -> dict[str, object]:
    """All settings for a file, except the search space, which the run defines."""
    return {
        key: value for key, value in run_settings.plain(alone(settings)).items() if key != "space"
    }


def text(value: object) -> str:
    return "null" if value is None else str(value)


def each(flag: str, settings: dict[str, object]) -> list[str]:
    return [word for k, v in settings.items() for word in (flag, f"{k}={text(v)}")]


# The rule itself


@pairs
def test_what_a_later_layer_asks_for_replaces_its_rivals_below(below, layer, left):
    expected, before = alone(left), dict(below)
    assert layered(RunConfig(), below, layer) == expected
    assert layered(layered(RunConfig(), below), layer) == expected, "below as the base"
    assert layered(RunConfig(), sections(below), sections(layer)) == expected, "with sections"
    assert layered(RunConfig(), below, {"quantize.crops": 9}, layer).quantize.crops == 9
    assert below == before, "it is not changed"


@pairs
def test_a_whole_configuration_replaces_everything(below, layer, left):
    every = run_settings.plain(alone(layer))
    assert layered(RunConfig(), below, every) == alone(layer)


def test_values_may_be_written_as_text():
    texts = {"bits": "w2a4", "search": {"target_bitops": "0.5G"}}
    config = layered(RunConfig(), texts)
    assert (config.bits, config.act_bits, config.search.target_bitops) == (2, 4, 5e8)
    config = layered(config, {"bits": "searched"})
    assert (config.bits, config.act_bits) == (None, 8)
    assert layered(RunConfig(), texts, {"quantize.target_size": "9K"}).bits is None
    with pytest.raises(UsageError, match="bits cannot be 'w9'"):
        layered(RunConfig(), {"bits": "w9"})


def test_layers_are_those_before_with_others_over_them():
    assert over({"seed": 1, "search": {"at": "8x8"}}, {"search.epochs": 9, "seed": 2}) == {
        "search.at": "8x8", "search.epochs": 9, "seed": 2,
    }  # fmt: skip
    assert flat({"quantize": 3, "search": {}}) == {"quantize": 3}
    assert over({"quantize": 3}, {"quantize": {"steps": 1}}) == {"quantize.steps": 1}
    assert over({"quantize": {"steps": 1}}, {"quantize": 3}) == {"quantize": 3}


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"scale.x": 1}, "file: 'scale' is no section"),
        ({"quantize": 3}, "file: 'quantize' cannot be 3"),
        ({"quantize": 3, "quantize.steps": 1}, "file: 'quantize' cannot be 3"),
        ({"serch.epochs": 3}, "file: unknown key 'serch'"),
        ({"search.epoch": 3}, "file: unknown key 'search.epoch'"),
    ],
)
def test_what_cannot_be_is_told(layer, words):
    with pytest.raises(UsageError, match=words):
        layered(RunConfig(), layer, source="file")


ALTERNATIVES = [
    *itertools.combinations(BITS, 2),
    ({"quantize.steps": 9}, {"quantize.minutes": 5}),
    ({"search.target_bitops": 1e9}, {"search.penalty": 0.1}),
]


@pytest.mark.parametrize(("one", "other"), ALTERNATIVES, ids=name)
def test_alternatives_are_not_asked_for_at_once(type_, one, other):
    with pytest.raises(UsageError, match="are both given"):
        together(one, other)
    assert together(one, dict.fromkeys(other)) == {**one, **dict.fromkeys(other)}
    for verb in (["run"], ["quantize", "mine"]):
        with pytest.raises(UsageError, match="are both given"):
            type_(*verb, *each("--set", one | other))
    for typed in (each("--set", one) + each("--vary", other), each("--vary", one | other)):
        with pytest.raises(UsageError, match="are both given"):
            type_("sweep", "--seed", "0,1", *typed, "--dry-run")


# The rule in the commands


@pairs
def test_a_run_puts_what_is_typed_over_its_file(type_, below, layer, left):
    command = ["run", "--config", file(**sections(below))]
    assert type_(*command, *each("--set", layer)) == [alone(left)]


FIXED = {"space", "scale", "genotype"}
OF_A_RUN = [pair for pair in EXPECTED if not FIXED & {*pair[0], *pair[1]}]


@pytest.mark.slow
@pytest.mark.parametrize(("below", "layer", "left"), OF_A_RUN, ids=name)
def test_quantize_puts_what_is_typed_over_its_file_and_its_run(type_, below, layer, left):
    (expected,) = type_("quantize", "mine", "--config", file(**whole(left)))
    command = ["quantize", "mine", "--config", file(**whole(below))]
    assert type_(*command, *each("--set", layer)) == [expected]


@pytest.mark.slow  # eight kinds of sweep for every pair; the options of `sweep` are tested below
@pairs
def test_a_sweep_puts_every_layer_over_those_before(type_, below, layer, left):
    expected = [run_settings.settled(alone(left | {"seed": seed})) for seed in (0, 1)]
    under, varied = sections(below), {k: [v] for k, v in layer.items()}
    lists = {k: [v] for k, v in below.items()}
    ways = {
        "base, --set": (under, each("--set", layer)),
        "base, --vary": (under, each("--vary", layer)),
        "base, vary": (under | {"vary": varied}, []),
        "base, points": (under | {"points": [sections(layer)]}, []),
        "vary, --set": ({"vary": lists}, each("--set", layer)),
        "vary, --vary": ({"vary": lists}, each("--vary", layer)),
        "points, --set": ({"points": [under]}, each("--set", layer)),
        "points, --vary": ({"points": [under]}, each("--vary", layer)),
    }
    for way, (content, typed) in ways.items():
        command = ["sweep", "--config", file(**content), "--seed", "0,1", "--dry-run"]
        assert type_(*command, *typed) == expected, way


TYPED = [
    ({"quantize.average_bits": 3}, ["--bits", "2"], {"bits": 2}, ("run", "quantize", "sweep")),
    ({"bits": 2, "act_bits": 4}, ["--average-bits", "3"], {"quantize.average_bits": 3},
     ("quantize",)),
    ({"bits": 2}, ["--target-size", "9K"], {"quantize.target_size": 9e3}, ("quantize",)),
    ({"bits": 2}, ["--target-bitops", "1G"], {"quantize.target_bitops": 1e9}, ("quantize",)),
    ({"quantize.minutes": 5}, ["--steps", "9"], {"quantize.steps": 9}, ("quantize",)),
    ({"quantize.steps": 9}, ["--minutes", "5"], {"quantize.minutes": 5}, ("quantize",)),
    ({"quantize.method": "rtn"}, ["--steps", "9"], {"quantize.steps": 9}, ("quantize",)),
    ({"quantize.train": "none"}, ["--minutes", "5"], {"quantize.minutes": 5}, ("quantize",)),
    ({"quantize.steps": 0}, ["--train", "clip"], {"quantize.train": "clip"}, ("quantize",)),
    ({"search.target_bitops": 1e9}, ["--penalty", "0.1"], {"search.penalty": 0.1},
     ("run", "sweep")),
    ({"search.penalty": 0.1}, ["--target-bitops", "1G"], {"search.target_bitops": 1e9},
     ("run", "sweep")),
    ({"genotype": "g.json"}, ["--target-bitops", "1G"], {"search.target_bitops": 1e9},
     ("run", "sweep")),
    ({"genotype": "g.json"}, ["--epochs", "30"], {"search.epochs": 30}, ("run", "sweep")),
    ({"space": "rfdn", "genotype": "g.json"}, ["basic"], {"space": "basic"}, ("run", "sweep")),
]  # fmt: skip


@pytest.mark.parametrize(("below", "words", "left", "verbs"), TYPED, ids=str)
def test_an_option_is_a_layer_over_the_file(type_, below, words, left, verbs):
    for verb in verbs:
        if verb == "sweep":
            expected = [run_settings.settled(alone(left | {"seed": seed})) for seed in (0, 1)]
            rest = ["--seed", "0,1", "--dry-run"]
        elif verb == "quantize":
            expected = type_(verb, "mine", "--config", file(**whole(left)))
            rest = ["mine"]
        else:
            expected, rest = [alone(left)], []
        content = whole(below) if verb == "quantize" else sections(below)
        assert type_(verb, *words, *rest, "--config", file(**content)) == expected, verb


def test_bits_of_a_sweep_win_over_a_limit_in_its_file(type_):
    command = ["sweep", "--config", file(quantize={"average_bits": 3}), "--dry-run"]
    configs = type_(*command, "--bits", "searched,2,w4a4")
    assert [(c.bits, c.act_bits) for c in configs] == [(None, 8), (2, 8), (4, 4)]
    assert {c.quantize.budget for c in configs} == {None}


def test_points_that_differ_by_replaced_settings_alone_are_one(type_):
    points = [{"seed": 0, "bits": 2}, {"seed": 1, "bits": 2}, {"seed": 1, "bits": 3}]
    command = ["sweep", "--dry-run", "--config", file(points=points)]
    assert [(c.seed, c.bits) for c in type_(*command, "--set", "seed=7")] == [(7, 2), (7, 3)]
    configs = type_(*command, "--vary", "quantize.average_bits=3,4")
    assert [(c.seed, c.quantize.average_bits) for c in configs] == [(0, 3), (0, 4), (1, 3), (1, 4)]
    vary = {"quantize.method": ["rtn", "saliency"], "quantize.steps": [0, 9]}
    command = ["sweep", "--dry-run", "--config", file(vary=vary)]
    configs = type_(*command, "--vary", "quantize.train=none,clip")
    assert [(c.quantize.steps, c.quantize.method, c.quantize.train) for c in configs] == [
        (0, "rtn", "none"), (400, "saliency", "clip"), (9, "rtn", "none"),
        (9, "saliency", "clip"), (0, "saliency", "none"), (9, "saliency", "none"),
    ]  # fmt: skip
