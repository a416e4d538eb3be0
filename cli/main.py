"""The `quantnas` command: the list of its commands, and the exit codes of errors."""

import errno
import io
import sys
from typing import Annotated

import typer

from quantnas import __version__
from quantnas.errors import DataError, QuantnasError, UsageError

from . import console
from .commands.bench import bench
from .commands.doctor import doctor
from .commands.evaluate import evaluate
from .commands.export import export
from .commands.info import info
from .commands.models import models
from .commands.quantize import quantize
from .commands.report import report
from .commands.run import run
from .commands.search import search
from .commands.spaces import spaces
from .commands.sweep import sweep
from .commands.train import train
from .commands.upscale import upscale

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


def _version(is_given: bool) -> None:
    """Print the version and exit, for --version."""
    if is_given:
        typer.echo(f"quantnas {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")
    ] = False,
) -> None:
    """Search, train, quantize and export small super-resolution networks.

    Start with: quantnas run

    It begins with photographs and ends with a verified ONNX file.
    """


for command in (
    run, sweep, search, train, quantize, export, evaluate, bench, report, spaces, models, info,
    upscale, doctor,
):  # fmt: skip
    app.command()(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit.

    The exit code is 0 for success, 1 for an unexpected error, 2 for wrong usage, 3 for wrong data
    or a machine on which `run` cannot work, 4 for a file that failed its verification, 5 for a
    result worse than was accepted (it is kept), 6 for a search that diverged (its last sound state
    is kept), 7 for a sweep in which points failed, and 130 after an interrupt.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # names of files need not be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in arguments
    try:
        app([a for a in arguments if a != "--debug"], prog_name="quantnas")
    except QuantnasError as error:
        if debug:
            raise
        console.failed(error)
        sys.exit(error.exit_code)
    except console.Interrupted as stop:
        how = "the state is saved" if stop.saved else "nothing had been learned yet in this step"
        saved = f"; {how}. Continue with:\n  {stop.command}" if stop.command else ""
        typer.echo(f"interrupted{saved}", err=True)
        sys.exit(130)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        known = _known(error)
        console.failed(known)
        sys.exit(known.exit_code)


def _known(error: Exception) -> QuantnasError:
    """The error to show for one that the library did not expect."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, OSError) and number in (errno.ENOSPC, errno.EDQUOT):
        return DataError(
            f"The disk is full: {error.filename or error.strerror}.",
            "Make room; a run goes on from its last saved state with --resume.",
        )
    if number == errno.ENAMETOOLONG:
        return UsageError("The name of a file or folder is too long.", "Give a shorter one.")
    return QuantnasError(
        f"Something unexpected happened: {type(error).__name__}: {error}",
        "Run the same command with --debug for the traceback, and report it.",
    )
