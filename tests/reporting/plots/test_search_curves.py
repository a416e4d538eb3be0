"""Checks the plots and TensorBoard scalars of a search on artificial metrics."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.lines import Line2D

from quantnas.architectures import registry
from quantnas.config import search_space
from quantnas.config.search_space import Edge, Precision, SearchSpace
from quantnas.data import image_files
from quantnas.reporting import tensorboard
from quantnas.reporting.plots import canvas, search_curves


def record(folder: Path, where: SearchSpace, steps: int = 40) -> dict[str, list[float]]:
    """Write metrics of a search in which every edge moves from uniform to its first pair."""
    choices = {slot.choice: slot.options for slot in registry.slots(where) if slot.options > 1}
    probabilities: dict[str, list[float]] = {}
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(10, steps + 1, 10):
            share = step / steps
            for name, n in choices.items():
                probabilities[name] = [(1 - share) / n] * n
                probabilities[name][0] += share
            check = {"epoch": 1, "psnr": 25.0, "bitops": 10**9, "genotype": {}}
            row = {
                "phase": "search", "step": step, "loss": 0.1, "psnr": 20 + share,
                "entropy": 1 - share, "decided": share, "bitops": 2e9, "decided_bitops": 1.5e9,
                "probabilities": probabilities, "check": check if step % 20 == 0 else None,
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
        file.write(json.dumps({"phase": "float", "step": 10, "loss": 0.1, "psnr": None}) + "\n")
    (folder / "config.yaml").write_text("search: {target_bitops: 1.2e+9, at: 48x32}")
    return probabilities


def rows(folder: Path) -> list[dict]:
    return search_curves.read(folder / "metrics.jsonl")


def look(line: Line2D) -> tuple:
    dashes = str(line._dash_pattern)
    return line.get_color(), line.get_marker(), dashes, line.get_linewidth()


@pytest.mark.parametrize("name", ["tiny", "rfdn_small", "rfdn"])
def test_both_pictures_are_written_and_show_something(name, tiny, tmp_path):
    where = tiny if name == "tiny" else search_space.load(name)
    record(tmp_path, where)
    written = search_curves.draw(tmp_path, where)
    assert written == [tmp_path / "plots" / "alphas.png", tmp_path / "plots" / "search.png"]
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")
        pixels = image_files.read(path)
        assert all(300 < side < 2500 for side in pixels.shape[:2])
        assert 0.01 < np.mean(pixels.min(axis=2) < 128) < 0.5


@pytest.mark.parametrize("name", ["rfdn_small", "basic", "rfdn"])
def test_there_is_one_panel_per_choice_and_one_line_per_pair(name, tmp_path):
    where = search_space.load(name)
    wanted = record(tmp_path, where)
    figure = search_curves.alphas_figure(rows(tmp_path), where)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(wanted)
    for axes, probabilities in zip(figure.axes, wanted.values(), strict=True):
        assert [line.get_ydata()[-1] for line in axes.lines] == probabilities
        assert len({look(line) for line in axes.lines}) == len(probabilities)


def test_the_legend_names_every_operation_and_width_once(tiny, tmp_path):
    body = Edge(("conv1x1", "conv3x3"), weight_bits=(2, 8), act_bits=(4, 8))
    where = SearchSpace("apart", "rfdn_deploy", 2, 8, 1, tiny.edges | {"body": body})
    record(tmp_path, where)
    (legend,) = search_curves.alphas_figure(rows(tmp_path), where).legends
    names = [text.get_text() for text in legend.get_texts()]
    searched = [slot for slot in registry.slots(where) if slot.options > 1]
    ops = {op for slot in searched for op in slot.ops}
    widths = {search_curves.bits(width) for slot in searched for width in slot.bit_widths}
    assert len(names) == len({*names}) and {*names} == ops | widths
    assert {"w2a8", "8 bits"} <= widths


def test_more_operations_and_widths_than_colours_and_dashes_stay_apart(tmp_path):
    ops = (
        "conv1x1", "conv3x3", "conv5x5", "conv1x1_groups2", "conv3x3_groups2", "growth1x1",
        "growth3x3", "factorised3x3", "separable3x3", "separable5x5",
    )  # fmt: skip
    body = Edge(ops, weight_bits=(2, 3, 4, 8), act_bits=(4, 8))
    fixed = Edge(("conv3x3",), (8,))
    edges = {"body": body, "distill": fixed, "upsample": fixed}
    where = SearchSpace("wide", "rfdn_deploy", 2, 12, 1, edges)
    record(tmp_path, where)
    for axes in search_curves.alphas_figure(rows(tmp_path), where).axes:
        assert len({look(line) for line in axes.lines}) == len(axes.lines) == 80


def test_the_target_is_drawn_where_there_is_one(tiny, tmp_path):
    record(tmp_path, tiny)
    for config, lines in (({}, 2), ({"target_bitops": 1.2e9, "at": "48x32"}, 3)):
        middle = search_curves.search_figure(rows(tmp_path), config).axes[1]
        assert len(middle.lines) == lines
    assert list(middle.lines[2].get_ydata()) == [1.2, 1.2]
    assert middle.get_ylabel() == "GBitOps at LR 48x32"


def test_an_infinite_psnr_and_a_search_without_checks_are_drawn(tiny, tmp_path):
    record(tmp_path, tiny)
    changed = [row | {"psnr": None, "check": None} for row in rows(tmp_path)]
    figure = search_curves.search_figure(changed, {})
    assert len(figure.axes[2].lines) == 1
    canvas.save(figure, tmp_path / "a.png")


@pytest.mark.parametrize("text", [None, "", '{"phase": "search", "step": 3, "best": null}\n'])
def test_nothing_is_drawn_of_a_run_without_a_search_by_gradient(tiny, tmp_path, text):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    assert search_curves.draw(tmp_path, tiny) == []
    assert not (tmp_path / "plots").exists()


def test_a_space_with_nothing_to_choose_has_no_picture_of_probabilities(tiny, tmp_path):
    fixed = dict.fromkeys(tiny.edges, Edge(("conv3x3",), (8,)))
    where = SearchSpace("fixed", "rfdn_deploy", 2, 8, 1, fixed)
    record(tmp_path, where)
    assert [path.name for path in search_curves.draw(tmp_path, where)] == ["search.png"]


def test_widths_are_named():
    assert search_curves.bits(Precision(4, 4)) == "4 bits"
    assert search_curves.bits(Precision(2, 8)) == "w2a8"


def written_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = module.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_tensorboard_follows_the_metrics_and_begins_anew(tiny, tmp_path):
    record(tmp_path, tiny, steps=20)
    for _ in range(2):  # the second time as a resumed run does
        mirror = tensorboard.Mirror(tmp_path)
        mirror.update()
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"phase": "search", "step": 30, "loss": 0.5, "check": [1]}\n')
            file.write('[1]\n{"phase": "sea\n{"phase": "sea')
        mirror.update()
        mirror.close()
        found = written_scalars(tmp_path)
        assert [step for step, _ in found["search/loss"]] == [10, 20, 30]
        assert found["search/decided_psnr"] == [(20, 25.0)]
        assert found["search/bitops"] == [(10, 2e9), (20, 2e9)]
        assert "float/psnr" not in found and found["float/loss"][0][0] == 10
        record(tmp_path, tiny, steps=20)
