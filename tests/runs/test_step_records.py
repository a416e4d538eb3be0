"""Checks that a run which goes on notices edited settings and damaged weights."""

import shutil

import pytest
import yaml

from quantnas.config.files import read_json
from quantnas.config.run_config import RunConfig
from quantnas.errors import DataError, UsageError
from quantnas.runs import run_folder, run_settings, step_records
from quantnas.runs.run_folder import Run


def edit(run: Run, old: str, new: str) -> None:
    path = run.folder / "config.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.fixture
def begun(tmp_path) -> Run:
    """A run whose steps `search` and `train` are recorded; its weights are any bytes."""
    run = Run(tmp_path / "begun")
    settings = yaml.safe_dump(run_settings.plain(RunConfig()), sort_keys=False)
    run.path("config.yaml").write_text(settings)
    for name in ("searched", "float", "trained"):
        run.weights(name).write_bytes(name.encode() * 100)
    for step in ("search", "train"):
        run.finish(step, {"seconds": 1.0})
    for step in ("search", "train"):
        step_records.record(run, step)
        step_records.seal(run, step)
    step_records.require_unchanged(run)
    return run


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("float_steps: 3000", "float_steps: 30", "train.float_steps: 30, but the step 'train'"),
        ("seed: 0", "seed: 7", "seed: 7, but the step 'search' of this run was begun with 0"),
        ("scale: null", "scale: 4", "scale: 4, but the step 'search'.* begun with nothing"),
        ("epochs: 20", "epochs: 30", "search.epochs: 30"),
    ],
)
def test_an_edited_setting_of_a_step_that_has_begun_is_named(begun, old, new, names):
    edit(begun, old, new)
    with pytest.raises(UsageError, match=names):
        step_records.require_unchanged(begun)
    edit(begun, new, old)
    step_records.require_unchanged(begun)


def test_settings_of_later_steps_may_change(begun):
    edit(begun, "bits: null", "bits: 4")
    edit(begun, "format: onnx", "format: qonnx")
    step_records.require_unchanged(begun)
    step_records.record(begun, "quantize")
    edit(begun, "bits: 4", "bits: 2")
    with pytest.raises(UsageError, match="says bits: 2, but the step 'quantize'"):
        step_records.require_unchanged(begun)


def test_a_flipped_bit_in_the_weights_of_a_finished_step_is_named(begun):
    path = begun.weights("float")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"float\.safetensors has changed since the step 'train'"):
        step_records.require_unchanged(begun)


def test_runs_of_before_and_copied_steps_have_no_record(begun, tmp_path):
    copied = Run(tmp_path / "next")
    shutil.copytree(begun.folder, copied.folder)
    (copied.folder / step_records.FILE).unlink()
    edit(copied, "seed: 0", "seed: 7")
    step_records.require_unchanged(copied)
    target = Run(tmp_path / "target")
    run_folder.carry(begun, target, until="quantize")
    assert target.result("train") is not None
    assert not (target.folder / step_records.FILE).exists()


def test_the_settings_of_the_beginning_stay_on_record(begun):
    before = read_json(begun.folder / step_records.FILE)
    edit(begun, "float_steps: 3000", "float_steps: 30")
    step_records.record(begun, "train")
    assert read_json(begun.folder / step_records.FILE) == before
