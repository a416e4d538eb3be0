"""Checks what `quantnas info` counts, against numbers counted by hand, and what it refuses."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from quantnas.architectures import cost, network, registry
from quantnas.cli.commands import info
from quantnas.cli.main import main
from quantnas.config import search_space
from quantnas.config.genotype import Choice, Genotype, searched_precision
from quantnas.exporters import onnx_export, onnx_metadata
from quantnas.quantization import post_training
from quantnas.runs import bundled_models

BITS = "weight_bits: [4, 8], act_bits: [4, 8]"
SPACE = f"""
name: known
skeleton: espcn
scale: 2
channels: 4
cells: 1
colours: 1
edges:
  head: {{ops: [conv5x5], {BITS}}}
  body: {{ops: [conv3x3], {BITS}}}
  upsample: {{ops: [conv3x3], {BITS}}}
"""
COUNTED = {
    "head": ((4, 1, 5, 5), 100, 8, 8, 100),
    "body0": ((2, 4, 3, 3), 72, 4, 8, 36),
    "upsample": ((4, 2, 3, 3), 72, 8, 4, 72),
}
"""Layer -> kernel, MACs per pixel, bit widths of weights and inputs, bytes; counted by hand."""


def command(*words) -> int:
    try:
        return main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def known(tmp_path, pixels):
    """The paths (genotype, ONNX file) of the network whose cost was counted by hand."""
    (tmp_path / "space.yaml").write_text(SPACE)
    where = search_space.load(str(tmp_path / "space.yaml"))
    picks = {name: (f"conv{n[0][-1]}x{n[0][-1]}", *n[2:4]) for name, n in COUNTED.items()}
    found = Genotype("known", {name: Choice(*pick) for name, pick in picks.items()})
    (tmp_path / "genotype.json").write_text(found.to_json())
    precision = searched_precision(found)
    net = network.build(where, found, precision)
    network.initialise(net, pixels(1, 8, 8))
    rows = cost.layers(registry.slots(where), found, precision, 2)
    path = tmp_path / "m.onnx"
    onnx_export.to_onnx(post_training.freeze(net), cost.total(rows, 2), 2, path)
    return tmp_path / "genotype.json", path


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(("at", "size"), [(None, (32, 32)), ("5x7", (5, 7))])
def test_the_report_of_a_network_is_what_was_counted_by_hand(known, capsys, which, at, size):
    assert command("info", known[which], "--json", *(["--at", at] if at else [])) == 0
    facts = json.loads(capsys.readouterr().out)
    pixels = size[0] * size[1]
    bitops = {name: pixels * n * w * a for name, (_, n, w, a, _) in COUNTED.items()}
    assert [row["name"] for row in facts["layers"]] == [*COUNTED]
    for row in facts["layers"]:
        shape, n, weights, inputs, nbytes = COUNTED[row["name"]]
        assert (tuple(row["shape"]), row["macs"]) == (shape, n * pixels)
        assert (row["weight_bits"], row["act_bits"]) == (weights, inputs)
        assert (row["bitops"], row["weight_bytes"]) == (bitops[row["name"]], nbytes)
        assert row["share"] == pytest.approx(bitops[row["name"]] / sum(bitops.values()))
    assert facts["at"] == f"LR {size[0]}x{size[1]}"
    assert facts["totals"][facts["at"]] == {
        "low_resolution": [*size],
        "macs": 244 * pixels,
        "bitops": sum(bitops.values()),
        "float_macs": sum(n * w / 32 * a / 32 * pixels for _, n, w, a, _ in COUNTED.values()),
    }
    assert facts["totals"]["1280x720 output"]["macs"] == 244 * 360 * 640
    assert "pixel shuffle" in facts["not_counted"]
    assert facts["cost"]["weight_bytes"] == 208


def test_the_printed_report_has_the_same_numbers(known, capsys):
    assert command("info", known[0], "--at", "5x7") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    macs, bitops = 244 * 35, (100 * 64 + 72 * 32 + 72 * 32) * 35
    assert ["LR", "5x7", f"{macs / 1e9:.3g}", f"{bitops / 1e9:.3g}"] in [x[:4] for x in lines]
    (body,) = (line for line in lines if line[:1] == ["body0"])
    middle = ["4", "bits", "8", "bits", "2.52k", "80.6k", "20.9%", "36"]
    assert body == ["body0", "conv3x3", "2x4x3x3", *middle]


@pytest.mark.parametrize("target", ["plain-x4", "rfdn50", "rfdn_small", "rfdn", "edsr_baseline"])
def test_lines_are_short_and_the_cells_of_a_table_aligned(target, capsys):
    assert target in {**bundled_models.bundled(), **search_space.builtin()}
    assert command("info", target, "--at", "1080x1920") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    table = [line for line in lines if line.count(" bits ") == 2]
    assert len({line.index(" bits ") for line in table}) == (target not in ("rfdn_small", "rfdn"))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00k"), (9996, "10.0k"), (999_499, "999k"),
     (999_500, "1.00M"), (123_456_789, "123M"), (1.5e12, "1.50T"), (2e15, "2000T")],
)  # fmt: skip
def test_counts_are_printed_with_three_digits(number, text):
    assert info._short(int(number)) == text


def test_the_parts_of_a_network_are_its_totals():
    where = search_space.load("rfdn50")
    rows = cost.extent(registry.slots(where), 4)["largest"].layers
    found, size = cost.parts(rows, (17, 30), 4), (17, 30)
    assert sum(p.bitops for p in found) == cost.bitops_at(rows, size, 4)
    assert sum(p.share for p in found) == pytest.approx(1)
    assert sum(p.weight_bytes for p in found) == cost.total(rows, 4).weight_bytes


@pytest.mark.parametrize("at", ["", "5", "5x", "0x5", "axb", "-1x5", "5x7x9"])
def test_a_size_that_is_none_is_an_error(known, capsys, at):
    assert command("info", known[1], "--at", at) == 2
    assert "height x width" in capsys.readouterr().err


def foreign(path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", *([e] for e in ends)
    )
    onnx.save(helper.make_model(graph), path)


def labelled(text: str):
    """A function that writes a file with that metadata."""

    def write(path) -> None:
        foreign(path)
        model = onnx.load(path)
        helper.set_model_props(model, {onnx_metadata.METADATA_KEY: text})
        onnx.save(model, path)

    return write


DAMAGE = {
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no model"),
    "accepted": lambda path: path.write_bytes(b"\x08\x07"),  # a model of IR version 7, no more
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(999)),
    "foreign": foreign,
    "older": labelled('{"version": "0", "scale": 2}'),
    "half": labelled('{"version": "0", "sc'),
    "list": labelled("[]"),
    "wrong": labelled('{"version": "0", "scale": 2, "layers": "head conv3x3"}'),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_what_is_no_exported_file_is_an_error_that_names_it(known, capsys, damage):
    DAMAGE[damage](known[1])
    assert command("info", known[1]) == 3
    told = capsys.readouterr().err
    assert "m.onnx" in told and "unexpected" not in told
