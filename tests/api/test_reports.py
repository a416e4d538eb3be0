"""Checks that a page can be made of a run whose folder cannot be written into."""

import zipfile
from pathlib import Path

import quantnas
from quantnas.config import files

ARCHIVE = Path(__file__).parents[1] / "runs" / "runs_of_0.1.0.zip"


def test_of_a_read_only_run_only_the_page_is_written(tmp_path, monkeypatch):
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    run = tmp_path / "finished"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    monkeypatch.setattr(files, "is_writable", lambda folder: folder != run)
    made = quantnas.report(run, tmp_path / "page.html")
    assert made.page.stat().st_size > 10_000 and made.run is None
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
