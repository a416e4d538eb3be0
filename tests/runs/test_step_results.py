"""Checks that damaged files of a run folder are told as such, by everything that reads them."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from quantnas.api import information
from quantnas.errors import DataError, QuantnasError, UsageError
from quantnas.evaluation import layer_damage, quantization_loss
from quantnas.reporting import html_charts, html_data, html_page, run_report
from quantnas.reporting.plots import search_curves
from quantnas.runs import networks, run_folder, run_settings, step_results
from quantnas.runs.run_folder import Run

ARCHIVE = Path(__file__).parent / "runs_of_0.1.0.zip"


@pytest.fixture
def finished(tmp_path) -> Run:
    """A finished run of an earlier version."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    return Run(tmp_path / "finished")


def change(path: Path, keys: str, value: object) -> None:
    """Replace the value at `keys`, with dots between them, in a JSON file; ... removes it."""
    whole = data = json.loads(path.read_text())
    *parents, last = [int(key) if key.isdecimal() else key for key in keys.split(".")]
    for key in parents:
        data = data[key]
    if value is ...:
        del data[last]
    else:
        data[last] = value
    path.write_text(json.dumps(whole))


DAMAGES = [
    ("steps/search.json", "best.psnr", None),
    ("steps/search.json", "best.epoch", "x"),
    ("steps/search.json", "photographs.damaged", 3),
    ("steps/train.json", "seconds", ...),
    ("steps/train.json", "seconds", "long"),
    ("steps/quantize.json", "limit", "x"),
    ("steps/quantize.json", "reached", [1]),
    ("steps/quantize.json", "psnr_to_float_predicted", "x"),
    ("steps/quantize.json", "kept_bits", 3),
    ("steps/quantize.json", "cut", [{"tensor": "head"}]),
    ("steps/export.json", "bytes", None),
    ("steps/export.json", "cost.layers.0.shape", ["a"]),
    ("steps/export.json", "cost.layers.1.macs", ...),
    ("steps/export.json", "cost.bitops", {}),
    ("steps/export.json", "verification.max_steps", ...),
    ("steps/evaluate.json", "sets", []),
    ("steps/evaluate.json", "sets", {}),
    ("steps/evaluate.json", "sets.held-out.mean.to_float", [30.0]),
    ("damage_measured.json", "slots.0.measured", 1e308),
    ("steps/evaluate.json", "sets.held-out.float.0", ...),
    ("steps/evaluate.json", "sets.held-out.mean.psnr", "x"),
    ("steps/evaluate.json", "scale", ...),
    ("env.json", "versions", 5),
    ("env.json", "command", [1]),
    ("genotype.json", "choices", None),
]


@pytest.mark.parametrize(("file", "keys", "value"), DAMAGES)
def test_a_wrong_value_is_an_error_that_names_the_file(finished, file, keys, value):
    html_data.collect("r", finished)
    change(finished.folder / file, keys, value)
    with pytest.raises(QuantnasError, match=Path(file).stem):
        html_data.collect("r", finished)
        run_report.markdown(run_report.collect(finished))
        information.describe(finished.folder)


def test_values_beyond_the_grids_are_in_the_report(finished):
    rows = [{"tensor": "head", "bits": 8, "share": 0.0123}]
    change(finished.folder / "steps/quantize.json", "cut", rows)
    report = run_report.markdown(run_report.collect(finished))
    assert "| head | 8 | 1.230% |" in report
    assert "most values beyond the grid on held-out photographs: head 1.23%" in report


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"scale": NaN}', "no finite number"),
        ('{"scale": 1e999}', "no finite number"),
        ('{"scale": 99999999999999999999}', "64 bits"),
        ('{"scale": 2', "Expecting"),
        ("[]", "no JSON object"),
    ],
)
def test_json_that_is_none_is_told(finished, text, why):
    (finished.folder / "steps" / "evaluate.json").write_text(text)
    with pytest.raises(DataError, match=why):
        finished.result("evaluate")


@pytest.mark.parametrize(
    "text", ['{"head": [1]}', '{"head": {"weights": 5, "activations": 8}}', "{}", '{"head": 1}']
)
def test_bit_widths_that_cannot_be_are_told(finished, text):
    (finished.folder / "precision.json").write_text(text)
    with pytest.raises((DataError, UsageError), match=r"precision\.json"):
        networks.quantized(finished)


NUMBERS = ["step", "loss", "psnr", "entropy", "decided", "bitops", "decided_bitops", "check"]


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [[0.0], "x", True, ...])
def test_every_number_of_a_search_is_checked_before_it_is_drawn(finished, key, value):
    path = finished.folder / "metrics.jsonl"
    first, second, *_ = path.read_text().splitlines()
    path.write_text(second + "\n")
    row = {k: v for k, v in json.loads(first).items() if k != key or value is not ...}
    if value is not ...:
        row[key] = value
    path.write_text(f"{json.dumps(row)}\n{second}\n")
    if key == "step":  # as for a line that was not written to its end
        assert [kept["step"] for kept in search_curves.read(path)] == [6]
    else:
        with pytest.raises(DataError, match=key):
            search_curves.read(path)


@pytest.mark.parametrize("name", ["p\udcff", "\ud800", "a\0b", "$^$"])
def test_any_text_of_a_run_can_be_drawn(finished, name):
    change(finished.folder / "damage_measured.json", "slots.0.slot", name)
    settings = (finished.folder / "config.yaml").read_text()
    assert "at: 32x32" in settings
    text = settings.replace("at: 32x32", f"at: {json.dumps(name)}", 1)
    (finished.folder / "config.yaml").write_text(text)
    shown = html_data.collect("r", finished)
    assert shown.search is not None and shown.search.settings["at"] == name
    assert all(html_charts.of_run(shown, "p").values())


def test_torn_and_foreign_lines_of_metrics(finished, tiny):
    path = finished.folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, '{"phase": "search", "step": 1, "prob', "[]", "7"]) + "\n")
    assert len(finished.records()) == len(lines)
    assert search_curves.read(path)
    row = json.loads(lines[0])
    path.write_text(json.dumps({**row, "entropy": "x"}) + "\n")
    with pytest.raises(DataError, match="entropy"):
        search_curves.read(path)
    other = {**row["probabilities"], "more": [1.0]}
    path.write_text(lines[0] + "\n" + json.dumps({**row, "probabilities": other}) + "\n")
    with pytest.raises(DataError, match="other choices"):
        search_curves.read(path)
    path.write_text(json.dumps({**row, "probabilities": other}) + "\n")
    with pytest.raises(DataError, match="not those of the search space"):
        search_curves.alphas_figure(search_curves.read(path), tiny)


def test_other_files_of_a_run(finished):
    (finished.folder / "damage.json").write_text('[{"slot": "head", "options": [], "mse": [1]}]')
    with pytest.raises(DataError, match=r"damage\.json"):
        layer_damage.predictions(finished)
    (finished.folder / "drop.json").write_text('{"sets": 3}')
    with pytest.raises(DataError, match=r"drop\.json"):
        quantization_loss.load(finished)
    (finished.folder / "env.json").write_text('{"verb": 3}')
    with pytest.raises(DataError, match="verb"):
        step_results.environment(finished.folder)


def test_a_page_holds_nothing_but_the_photographs_of_its_runs(finished, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    crops = finished.path("crops/0-0.webp").parent
    versions = [{"name": "bicubic", "file": "0-0.webp", "psnr": 30.0}]
    view = {"photograph": "a", "width": 4, "height": 4, "versions": versions}
    (crops / "crops.json").write_text(json.dumps({"scale": 2, "views": [view]}))
    for name in (str(secret), "../secret.txt", "../../secret.txt", "..", "a\0b"):
        change(crops / "crops.json", "views.0.versions.0.file", name)
        with pytest.raises(DataError, match="does not lie in"):
            html_page.write(html_page.of_run(finished), tmp_path / "page.html")
    change(crops / "crops.json", "views.0.versions.0.file", "0-0.webp")
    (crops / "0-0.webp").symlink_to(secret)
    with pytest.raises(DataError, match="does not lie in"):
        html_page.write(html_page.of_run(finished), tmp_path / "page.html")
    (crops / "0-0.webp").unlink()
    shutil.copy(secret, crops / "0-0.webp")
    with pytest.raises(DataError, match="no WebP"):
        html_page.write(html_page.of_run(finished), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_network_of_a_run_lies_in_its_folder(finished, tmp_path):
    text = (finished.folder / "space.yaml").read_text().replace("rfdn_deploy", "onnx")
    (finished.folder / "space.yaml").write_text(f"{text}source: ../theirs.onnx\n")
    with pytest.raises(DataError, match=r"theirs\.onnx.*does not lie in"):
        networks.architecture(run_folder.existing(finished.folder))


def test_a_network_of_a_run_may_be_a_link(finished, tmp_path):
    """Tools that keep large files elsewhere leave links to them."""
    text = (finished.folder / "space.yaml").read_text().replace("rfdn_deploy", "onnx")
    (finished.folder / "space.yaml").write_text(f"{text}source: source.onnx\n")
    theirs = tmp_path / "elsewhere.onnx"
    shutil.copy(Path(__file__).parents[1] / "cases/third_party/selu.onnx", theirs)
    (finished.folder / "source.onnx").symlink_to(theirs)
    found = run_settings.space_of(run_folder.existing(finished.folder))
    assert found.source == str(finished.folder / "source.onnx")
