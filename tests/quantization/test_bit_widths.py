"""Checks the bit widths of a quantization: given, searched, or allocated within a limit."""

import dataclasses
import json
import math

import pytest

from quantnas.architectures import cost, network, registry
from quantnas.config.genotype import searched_precision, uniform_precision
from quantnas.config.run_config import QuantizeConfig, RunConfig
from quantnas.config.search_space import Precision
from quantnas.errors import UsageError
from quantnas.pipeline import quantize_step
from quantnas.quantization import bit_widths

LIMITS = ("average_bits", "target_size", "target_bitops")


def settings(bits: int | None = None, act_bits: int = 8, **quantize) -> RunConfig:
    return RunConfig(bits=bits, act_bits=act_bits, quantize=QuantizeConfig(**quantize))


@pytest.fixture
def given(small, random_genotype, pixels):
    """Function (name of the space) -> arguments of `plan` but the settings; rfdn has attention."""

    def build(name: str = "rfdn"):
        space = small[name]
        found = random_genotype(space, 2)
        return space, found, network.build(space, found, None), pixels(2, 16, 16)

    return build


@pytest.fixture
def plan(given):
    """Function (settings, name of the space) -> plan."""

    def make(config: RunConfig, name: str = "rfdn") -> bit_widths.Plan:
        space, found, teacher, low = given(name)
        return bit_widths.plan(space, found, config, teacher, low)

    return make


def spent(config: RunConfig, space, found, precision) -> float:
    """The cost of the whole network in the unit of the limit."""
    slots, c = registry.slots(space), config.quantize
    rows = cost.layers(slots, found, precision, space.scale)
    if c.target_bitops is not None:
        height, width = map(int, c.at.split("x"))
        return cost.bitops_at(rows, (height, width), space.scale)
    if c.target_size is not None:
        return cost.total(rows, space.scale).weight_bytes
    ends = {slots[0].name, slots[-1].name}
    inner = [row for row in rows if row.name.partition(".")[0] not in ends]
    counts = [math.prod(row.shape) for row in inner]
    bits = [row.weight_bits for row in inner]
    return sum(n * b for n, b in zip(counts, bits, strict=True)) / sum(counts)


@pytest.fixture
def between(given):
    """Function (name of a limit, share, ends) -> settings with a limit that lies this share of the
    way from the least to the greatest cost."""

    def find(name: str, share: float, ends: int = 8) -> RunConfig:
        space, found, *_ = given()
        slots = registry.slots(space)
        costs = []
        for bits, acts in ((2, 4 if name == "target_bitops" else 8), (8, 8)):
            precision = uniform_precision(slots, bits, acts, ends)
            config = settings(at="20x30", **{name: 1})
            costs.append(spent(config, space, found, precision))
        limit = costs[0] + share * (costs[1] - costs[0])
        return settings(ends=ends, at="20x30", **{name: limit})

    return find


# Given and searched bits


@pytest.mark.parametrize(("bits", "acts", "ends"), [(2, 8, 8), (4, 4, 8), (3, 2, 4)])
def test_given_bits_are_everywhere_but_at_the_ends_and_in_attention(plan, given, bits, acts, ends):
    slots = registry.slots(given()[0])
    found = plan(settings(bits, acts, ends=ends)).precision
    gates = {slot.name for slot in slots if slot.gate}
    assert gates and list(found) == [slot.name for slot in slots]
    for name, width in found.items():
        end = name in (slots[0].name, slots[-1].name)
        kept = 8 if name in gates else ends if end else None
        assert width == (Precision(kept, kept) if kept else Precision(bits, acts)), name


def test_without_bits_they_are_as_searched(plan, given):
    found = plan(settings(), "apart")
    assert found.precision == searched_precision(given("apart")[1])
    for name, row in found.damage.items():
        assert found.precision[name] in row.options
        assert {w.activations for w in row.options} == {found.precision[name].activations}


def test_the_predicted_error_is_that_of_the_chosen_and_falls_with_the_bits(plan):
    errors = []
    for bits in (2, 3, 4, 8):
        found = plan(settings(bits))
        chosen = [row.mse[row.options.index(found.precision[s])] for s, row in found.damage.items()]
        assert found.mse == pytest.approx(sum(chosen))
        errors.append(found.mse)
    assert errors == sorted(errors, reverse=True) and errors[0] > 10 * errors[-1]


# Bits within a limit


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize(("share", "ends"), [(0.1, 8), (0.4, 8), (0.2, 4)])
def test_a_limit_is_kept_and_used_up(plan, given, between, name, share, ends):
    space, found, *_ = given()
    config = between(name, share, ends)
    limit = getattr(config.quantize, name)
    chosen = plan(config)
    assert 0.95 * limit < spent(config, space, found, chosen.precision) <= limit
    for slot, row in chosen.damage.items():
        for option in row.options:
            if row.at(option) < row.at(chosen.precision[slot]):
                better = {**chosen.precision, slot: option}
                assert spent(config, space, found, better) > limit, f"{slot} could be {option}"
    slots = registry.slots(space)
    kept = {slot.name: Precision(8, 8) for slot in slots if slot.gate}
    kept |= dict.fromkeys((slots[0].name, slots[-1].name), Precision(ends, ends))
    assert all(chosen.precision[slot] == width for slot, width in kept.items())
    assert len({chosen.precision[s.name] for s in slots if s.name not in kept}) > 1


@pytest.mark.parametrize("name", LIMITS)
def test_more_room_does_less_damage(plan, between, name):
    errors = [plan(between(name, share)).mse for share in (0.1, 0.2, 0.4)]
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[-1]


def test_activations_are_chosen_where_bitops_count_and_given_otherwise(plan, between):
    for config, expected in [
        (between("target_bitops", 0.3), {4, 8}),
        (settings(average_bits=3), {8}),
        (settings(average_bits=3, act_bits=4), {4, 8}),  # 8 at the ends and in attention
    ]:
        assert {w.activations for w in plan(config).precision.values()} == expected


@pytest.mark.parametrize(
    ("name", "limit", "unit"),
    [("average_bits", 1.5, "bits per weight"), ("target_size", 700, "bytes"),
     ("target_bitops", 1e6, "BitOps")],
)  # fmt: skip
def test_an_unreachable_limit_names_the_least_one_that_can_be_reached(given, name, limit, unit):
    space, found, *_ = given()
    with pytest.raises(UsageError) as error:
        bit_widths.check(space, found, settings(**{name: limit}))
    assert error.value.cause.startswith(f"No choice of bits is within {limit:,.12g} {unit}; ")
    least = float(error.value.cause.rpartition("the least is ")[2][:-1].replace(",", ""))
    assert error.value.remedy == f"Give `{name}` at least that."
    assert least > limit
    bit_widths.check(space, found, settings(**{name: least}))
    with pytest.raises(UsageError):
        bit_widths.check(space, found, settings(**{name: 0.999 * least}))


def test_a_limit_beside_given_bits_is_refused(given):
    space, found, *_ = given()
    with pytest.raises(UsageError, match=r"`bits` 4 and a limit, `average_bits`, are both given"):
        bit_widths.check(space, found, settings(4, average_bits=3))
    bit_widths.check(space, found, settings(4))
    bit_widths.check(space, found, settings())


@pytest.mark.parametrize(("bits", "free"), [(8, True), (9.5, True), (7.5, False)])
def test_a_limit_that_limits_nothing_is_said(plan, bits, free):
    lines = [
        line for line in quantize_step.notes(plan(settings(average_bits=bits))) if "note:" in line
    ]
    expected = ["note: nothing is limited by `average_bits`: every layer gets 8 bits"]
    assert lines == (expected if free else [])


def test_what_bits_cost_is_counted(plan, given):
    space, found, *_ = given()
    config = settings(average_bits=3)
    precision = plan(config).precision
    costs = bit_widths.reached(space, found, precision)
    for name, limit in [("average_bits", config), ("weight_bytes", settings(target_size=1)),
                        ("bitops", settings(target_bitops=1))]:  # fmt: skip
        assert costs[name] == pytest.approx(spent(limit, space, found, precision)), name


# Tables and messages


@pytest.mark.parametrize("config", [settings(2), settings(average_bits=3.3)])
def test_the_notes_name_every_width_and_how_often_it_is_used(plan, config):
    found = plan(config)
    *lines, last = quantize_step.notes(found)
    used = list(found.precision.values())
    expected = {
        f"w{w.weights}a{w.activations}: {used.count(w)} of {len(used)} layers" for w in used
    }
    assert {line.strip().partition(" (")[0] for line in lines} == expected
    text = "\n".join(lines)
    few = [n for n, w in found.precision.items() if used.count(w) < 12]
    assert few and all(name in text for name in few)
    assert f"({-10 * math.log10(found.mse):.1f} dB to float)" in last
    worst = max(found.damage.values(), key=lambda row: row.at(found.precision[row.slot]))
    assert f"most of it from: {worst.slot} " in last


def test_the_files_of_a_run_say_the_same(plan, tmp_path):
    found = plan(settings(average_bits=3.3), "tiny")
    quantize_step.save(found, tmp_path)
    rows = json.loads((tmp_path / "precision.json").read_text())
    assert {name: Precision(**row) for name, row in rows.items()} == found.precision
    damage = json.loads((tmp_path / "damage.json").read_text())
    assert damage == [
        json.loads(json.dumps(dataclasses.asdict(row))) for row in found.damage.values()
    ]
    table = (tmp_path / "damage.md").read_text().splitlines()
    assert len(table) == 2 + len(found.precision)
    assert len({line.count("|") for line in table}) == 1
    for line, (name, width) in zip(table[2:], found.precision.items(), strict=True):
        assert line.startswith(f"| {name} | {width.weights} | {width.activations} | ")
    assert (tmp_path / "plots" / "damage.png").read_bytes().startswith(b"\x89PNG")
