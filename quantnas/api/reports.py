"""The verb report: the report of a run made anew, or one HTML page of many runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from quantnas.config import files
from quantnas.errors import UsageError
from quantnas.evaluation import model_comparison
from quantnas.pipeline import report_again
from quantnas.reporting import html_data, html_page
from quantnas.runs.watcher import SILENT, Watcher

from .run_verbs import Place, Run


@dataclass(frozen=True)
class Report:
    """A page about runs."""

    page: Path
    """The HTML file, which holds everything that it shows."""
    run: Run | None
    """The run whose `report.json` and `report.md` were made anew; none for a page of several."""

    @property
    def size(self) -> str:
        """The size of the page in words, as 2.1 MB."""
        return html_page.size(self.page.stat().st_size)


def report(
    sources: Place | Sequence[Place], output: Place | None = None, *, watch: Watcher = SILENT
) -> Report:
    """Write one HTML page about runs; for a single run its `report.json` and `report.md`, too.

    A run that has not been evaluated is evaluated first, on the photographs that it held out. Of a
    finished run in a folder that cannot be written into, only the page is written.

    Args:
        sources: One or several folders of exported runs, of their evaluations, or of sweeps.
        output: The page to write; one that is there is overwritten. By default it is
            `report.html` in the folder of the only run or sweep, or else in the current folder.
        watch: Is told how far the work is, and may stop it.

    Returns:
        The page, and the run where there is only one.

    Raises:
        DataError: For a folder that is no exported run and no sweep, and when no run has finished.
        UsageError: For an `output` that is not named as an HTML file.

    Example:
        ```python
        quantnas.report(["runs/run/rfdn_small", "runs/run/rfdn_small-2"], "both.html").page
        ```
    """
    folders = _folders(sources)
    alone = folders[0] if len(folders) == 1 else None
    target = None if output is None else _require_page(Path(output))
    run = None
    if alone is not None and not html_data.is_sweep(alone):
        if target is not None and not files.is_writable(_run_folder(alone)):
            html_page.write(html_data.find([_run_folder(alone)]), target)
            return Report(target, None)
        run = _made_anew(alone, watch)
        if target is None:
            return Report(run.folder / html_page.FILE, run)
        folders = [run.folder]
    source = html_data.find([_evaluated(folder, watch) for folder in folders])
    for _, found in source.done:
        if not html_data.is_whole(found):
            _made_anew(found.folder, watch)
    page = target or (alone / html_page.FILE if alone else Path(html_page.FILE))
    html_page.write(source, page)
    return Report(page, run)


def would_overwrite(sources: Place | Sequence[Place], output: Place | None) -> Path | None:
    """The file that `report` would replace, unless it is a page in the folder of a run or a sweep.

    Raises UsageError as `report`.
    """
    if output is None and len(_folders(sources)) == 1:
        return None
    target = _require_page(Path(output or html_page.FILE))
    folder = target.parent
    owned = (folder / "config.yaml").is_file() or html_data.is_sweep(folder)
    return target if target.exists() and not (owned and target.name == html_page.FILE) else None


def _folders(sources: Place | Sequence[Place]) -> list[Path]:
    one = isinstance(sources, str | PathLike)
    return [Path(sources)] if one else [Path(source) for source in sources]  # type: ignore[arg-type, union-attr]


def _require_page(target: Path) -> Path:
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"`output` {target} is no page.", "Let its name end in .html.")
    return target


def _run_folder(folder: Path) -> Path:
    """The folder itself, or that of the run that an evaluation in it measured."""
    return (model_comparison.of_run(folder) or (folder, []))[0]


def _evaluated(folder: Path, watch: Watcher) -> Path:
    """The folder of a sweep, or of a run, whose last steps are done where it is exported."""
    if html_data.is_sweep(folder):
        return folder
    found = _run_folder(folder)
    run = Run.open(found)
    if run.result("export") is not None and not html_data.is_finished(run):
        _made_anew(folder, watch)
    return found


def _made_anew(folder: Path, watch: Watcher) -> Run:
    """The run in a folder, or of the evaluation in it, after its evaluation and its report."""
    return Run(report_again.report_again(folder, watch).folder)
