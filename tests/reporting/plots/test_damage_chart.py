"""Checks the picture and the table of a bit allocation."""

import dataclasses

import pytest

from quantnas.config.search_space import Precision
from quantnas.data import image_files
from quantnas.errors import DataError
from quantnas.quantization.bit_allocation import Damage
from quantnas.reporting.plots import damage_chart

WIDTHS = (Precision(2, 4), Precision(3, 8), Precision(4, 8), Precision(8, 8))
ENDS = (Precision(8, 8),)


def rows(cells: int = 2) -> list[Damage]:
    inner = [
        Damage(f"cell{k}_{name}", WIDTHS, tuple(10.0 ** -(i + k) for i in (2, 3, 4, 6)))
        for k in range(cells)
        for name in ("body0", "fuse")
    ]
    return [Damage("head", ENDS, (1e-6,)), *inner, Damage("upsample", ENDS, (0.0,))]


def picks(found: list[Damage]) -> dict[str, Precision]:
    return {row.slot: row.options[i % len(row.options)] for i, row in enumerate(found)}


def test_every_option_has_a_mark_and_the_chosen_ones_are_filled():
    found = rows()
    chosen = picks(found)
    axes = damage_chart.damage_figure(found, chosen).axes[0]
    low, high = axes.get_xlim()
    marks = [line for line in axes.lines if line.get_marker() != "None"]
    places = [(round(line.get_ydata()[0]), line.get_xdata()[0]) for line in marks]
    wanted = [(y, max(mse, low)) for y, row in enumerate(found) for mse in row.mse]
    assert sorted(places) == sorted(wanted)
    assert all(low <= x <= high for _, x in places)
    filled = [p for p, m in zip(places, marks, strict=True) if m.get_markerfacecolor() != "white"]
    assert filled == [(y, max(r.at(chosen[r.slot]), low)) for y, r in enumerate(found)]


def test_slots_and_their_bits_stand_beside_each_other():
    found = rows()
    chosen = picks(found)
    axes = damage_chart.damage_figure(found, chosen).axes[0]
    (right,) = axes.child_axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [row.slot for row in found]
    bits = [f"w{w.weights} a{w.activations}" for w in chosen.values()]
    assert [text.get_text() for text in right.get_yticklabels()] == bits
    total = sum(row.at(chosen[row.slot]) for row in found)
    assert f"{total:.2e}" in axes.get_xlabel()


def test_the_picture_is_written_and_grows_with_the_slots(tmp_path):
    sizes = []
    for cells in (1, 12):
        found = rows(cells)
        damage_chart.damage(found, picks(found), tmp_path / "damage.png")
        sizes.append(image_files.read(tmp_path / "damage.png").shape)
    assert sizes[0][1] == sizes[1][1]
    assert sizes[0][0] < sizes[1][0]
    with pytest.raises(DataError):
        damage_chart.damage(found, picks(found), tmp_path / "damage.png" / "of_a_file.png")


def test_nothing_but_zeros_can_be_drawn(tmp_path):
    found = [dataclasses.replace(row, mse=(0.0,) * len(row.mse)) for row in rows()]
    damage_chart.damage(found, picks(found), tmp_path / "damage.png")
    assert damage_chart.table(found, picks(found))[1] == ["head", "8", "8", "0.00e+00", "inf"]


def test_the_table_has_a_row_for_every_slot():
    found = rows()
    head, *cells = damage_chart.table(found, picks(found))
    assert head == ["slot", "weights", "inputs", "output MSE", "PSNR to float"]
    assert [row[0] for row in cells] == [row.slot for row in found]
    assert cells[1] == ["cell0_body0", "3", "8", "1.00e-03", "30.0"]
