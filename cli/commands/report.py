"""`quantnas report`: the report of a run made anew, or one page of many runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantnas.errors import UsageError

from .. import console

if TYPE_CHECKING:
    from quantnas.runs.run_folder import Run


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Folder of an exported run, of its evaluation, or of a sweep; several are shown "
            "on one page.",
            metavar="RUN|SWEEP",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where the page is written.",
            show_default="report.html, in the folder of a run or a sweep given alone",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file of that name.")] = False,
) -> None:
    """Write one HTML page about runs, with everything in it; and a run's report.json and .md.

    Example: quantnas report runs/export/rfdn_small

    Example: quantnas report runs/run/rfdn_small runs/run/rfdn_small-2 -o both.html

    The page opens in any browser, without a network. Runs of a sweep that are unfinished or have
    failed are listed on it.

    A run that has not been evaluated is evaluated first, on the photographs that it held out. Given
    the folder of an evaluation, the report is that of the run, with the folders measured there.
    """
    from quantnas.reporting import html_data, html_page

    alone = sources[0] if len(sources) == 1 else None
    if output is not None or alone is None:
        _refuse(output or Path(html_page.FILE), force)
    if alone is not None and not html_data.is_sweep(alone):
        run = _made_anew(alone)
        console.say(f"report: {run.folder / 'report.md'}", run)
        if output is None:
            return _say(run.folder / html_page.FILE)
        sources = [run.folder]
    source = html_data.find([_evaluated(folder) for folder in sources])
    for _, run in source.done:
        if not html_data.is_whole(run):
            _made_anew(run.folder)
    target = output or (alone / html_page.FILE if alone else Path(html_page.FILE))
    html_page.write(source, target)
    return _say(target)


def _say(target: Path) -> None:
    from quantnas.reporting import html_page

    console.say(f"page: {target} ({html_page.size(target.stat().st_size)})")


def _evaluated(folder: Path) -> Path:
    """A folder of a run or a sweep; of a run that is exported and has no report yet, after that."""
    from quantnas.evaluation import model_comparison
    from quantnas.reporting import html_data
    from quantnas.runs import run_folder

    if html_data.is_sweep(folder):
        return folder
    found, _ = model_comparison.of_run(folder) or (folder, [])
    run = run_folder.existing(found)
    if run.result("export") is not None and not html_data.is_finished(run):
        _made_anew(folder)
    return found


def _made_anew(source: Path) -> "Run":
    """The run in a folder, or of an evaluation, after its last steps."""
    from quantnas.pipeline import report_again

    with console.Display() as watch:
        return report_again.report_again(source, watch)


def _refuse(target: Path, force: bool) -> None:
    """Raise UsageError for a file that is there, unless it is a page in the folder of a run."""
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output {target} is no page.", "Let its name end in .html.")
    from quantnas.reporting import html_data, html_page

    ours = (target.parent / "config.yaml").is_file() or html_data.is_sweep(target.parent)
    if not (ours and target.name == html_page.FILE):
        console.refuse_existing(target, force, "--output")
