"""Run folders that an earlier version made, when all modules lay in one folder, stay usable.

`runs_of_0.1.0.zip` holds `finished`, by `quantnas run` with a space of 8 channels and few steps
(its pictures left out), and `interrupted`, by `quantnas search` stopped after six steps.
"""

import zipfile
from pathlib import Path

import numpy as np
import pytest

import quantnas
from quantnas.cli.main import main
from quantnas.config.files import read_json
from quantnas.data import image_files
from quantnas.data.photographs import Photograph
from quantnas.evaluation import scoring
from quantnas.exporters import onnx_metadata
from quantnas.inference import upscaler
from quantnas.runs import models, networks, run_folder, run_settings

ARCHIVE = Path(__file__).parent / "runs_of_0.1.0.zip"


@pytest.fixture
def before(tmp_path, monkeypatch) -> Path:
    """A folder with both runs, which is the working directory as well."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code or 0


def test_settings_and_results_are_read(before):
    run = run_folder.existing(before / "finished")
    config = run_settings.load_config(run)
    assert (config.search.epochs, config.train.float_steps, config.quantize.steps) == (3, 20, 10)
    assert all(run.result(step) for step in run_folder.STEPS)
    assert Path(config.space).parent.resolve() == run.folder.resolve()


@pytest.mark.parametrize("kind", ["searched", "float", "trained", "quantized"])
def test_every_checkpoint_is_loaded(before, kind):
    space, net, totals = networks.checkpoint(run_folder.existing(before / "finished"), kind)
    assert space.name == "tiny" and totals.parameters > 0
    assert sum(p.numel() for p in net.parameters()) > 0


def test_the_exported_file_is_what_its_network_computes(before):
    file = before / "finished" / "model.onnx"
    assert onnx_metadata.read_metadata(file).scale == 2
    _, net, _ = networks.quantized(run_folder.existing(before / "finished"))
    low = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    by_file, by_torch = upscaler.onnx_upscaler(file)(low), upscaler.torch_upscaler(net)(low)
    assert np.abs(by_file.astype(int) - by_torch.astype(int)).max() <= 1


def test_it_scores_as_it_did(before):
    """The PSNR on the held-out photographs is the one that the earlier version has written."""
    run = run_folder.existing(before / "finished")
    (group,) = [g for name, g in run.result("evaluate")["sets"].items() if name == "held-out"]
    photos = [Photograph(path, None) for path in image_files.bundled().held_out]
    scores = list(scoring.score(models.resolve(str(run.folder)).upscaler(), photos, 2))
    assert scoring.mean(scores).psnr == pytest.approx(group["mean"]["psnr"], abs=0.02)


@pytest.mark.slow
def test_later_steps_go_on_from_it(before):
    assert command("info", "finished") == 0
    assert command("export", "finished", "-o", "again.onnx") == 0
    assert Path("again.onnx").read_bytes() == (before / "finished" / "model.onnx").read_bytes()
    few = ["--steps", "2", "--set", "quantize.batch=2"]
    assert command("quantize", "finished", "--bits", "2", *few, "-o", "two.onnx") == 0
    assert command("report", "finished") == 0
    assert (before / "finished" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_an_interrupted_search_goes_on_from_its_saved_state(before):
    run = quantnas.resume(before / "interrupted")
    records = [line["step"] for line in run.records()]
    assert records[0] == 3 and records[-1] == 120 and records == sorted(set(records))
    assert read_json(run.folder / "genotype.json")["space"] == "tiny"
