"""Output for people: progress with the time left, results, errors."""

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from quantnas.config import files
from quantnas.errors import DataError, QuantnasError, UsageError
from quantnas.runs.watcher import Watcher

from . import interrupts, progress_panel
from .speed import Pace

if TYPE_CHECKING:
    from quantnas.api import Run
    from quantnas.progress import Progress

RESUMABLE = ("run", "search", "train", "quantize")
"""Commands whose runs can be continued."""
ADVICE = {False: "use more bits", True: "the float network is, too: train it longer"}
"""Whether the float network is worse than bicubic -> the remedy when the quantized one is."""
LINE_EVERY = 10.0
"""Seconds between two lines of a phase when the output is not a terminal."""


class Interrupted(Exception):
    """The user asked to stop. `command` goes on, from a state if one was `saved`."""

    def __init__(self, command: str | None, saved: bool = True) -> None:
        super().__init__(command)
        self.command, self.saved = command, saved


class Display(Watcher):
    """Shows the progress of a command on standard error, and stops it after Ctrl-C.

    It is used as a context, and raises Interrupted in the first record after Ctrl-C.
    """

    def __init__(
        self, verb: str | None = None, again: str | None = None, tensorboard: bool = False
    ) -> None:
        """verb: the verb of the run; none for other work, which the command `again` continues."""
        self.verb, self.again, self.tensorboard = verb, again, tensorboard
        self.run: Run | None = None
        self._shown = ExitStack()
        self._mirror: Watcher | None = None
        self._interrupts: list[int] = []
        self._draw: progress_panel.Draw | None = None
        self._pace = Pace()

    def __enter__(self) -> "Display":
        interrupts.raise_again()
        if self.verb is None:
            self._show()
        elif self.tensorboard:
            from quantnas.api.tensorboard import TensorboardWatcher

            self._mirror = TensorboardWatcher()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._shown.close()
        if self.run is None:
            return
        if isinstance(error, DataError | UsageError) and not self.run.folder.exists():
            say(f"removed again, with nothing in it: {self.run.folder}", progress=True)
        if isinstance(error, Interrupted):
            error.saved = self.run.resumable or self.run.result(str(self.verb)) is not None

    def begin(self, run: "Run") -> None:
        self.run = run
        say(f"run folder: {run.folder}", run, progress=True)
        if self.verb in RESUMABLE:
            more = " --tensorboard" if self.tensorboard else ""
            folder = shlex.quote(str(run.folder))
            self.again = f"quantnas {self.verb} --resume {folder}{more}"
        if self._mirror is not None:
            self._mirror.begin(run)
            logs = shlex.quote(str(run.folder / "tensorboard"))
            say(f"to watch: tensorboard --logdir {logs}", run, progress=True)
        self._show()

    def __call__(self, record: "Progress") -> None:
        if self.verb is not None and self.run is None:  # the run has not begun yet
            for line in record.notes:
                say(line)
            return
        if self._draw is None:
            show = _bars if sys.stderr.isatty() else _lines
            self._draw = self._shown.enter_context(show(self.run))
        self._pace.update(record)
        self._draw(record, self._pace)
        for line in record.notes:
            say(line, self.run, progress=True)
        if self._mirror is not None:
            self._mirror(record)
        if self._interrupts:
            raise Interrupted(self.again)

    def finish(self, step: str, seconds: float | None) -> None:
        self._shown.close()
        how = "finished before" if seconds is None else f"done in {duration(seconds)}"
        say(f"{step}: {how}", self.run, progress=True)
        self._show()

    def end(self) -> None:
        self._shown.close()
        if self._mirror is not None:
            self._mirror.end()

    def _show(self) -> None:
        """Collect interrupts until `_shown` is closed; the first record begins to draw."""
        self._interrupts = self._shown.enter_context(gentle_interrupt())
        self._draw, self._pace = None, Pace()


def say(line: str, run: "Run | None" = None, progress: bool = False) -> None:
    """Print a line, progress on standard error, and append it to the log of a run.

    When nobody reads the output any more, as after `| head`, the work goes on without it.
    """
    try:
        typer.echo(files.readable(line), err=progress)
    except BrokenPipeError:
        _unread(sys.stderr if progress else sys.stdout)
    if run is not None:
        with suppress(OSError):  # the folder of a report may be read-only
            run.log(line)


def _unread(stream: TextIO) -> None:
    """Send what else is written to a stream to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def duration(seconds: float) -> str:
    """A time in words: 90 -> 1 min 30 s."""
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


@contextmanager
def gentle_interrupt() -> Iterator[list[int]]:
    """Collect the first Ctrl-C instead of raising; a second one raises as usual."""
    interrupts: list[int] = []
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        if not interrupts:  # os.write, since a signal may come while something is printed
            with suppress(OSError):  # nobody may read it
                os.write(2, b"stopping after this step; Ctrl-C again stops at once\n")
        interrupts.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _bars(run: "Run | None") -> Iterator[progress_panel.Draw]:
    """Draw bars and a panel on a terminal; the log gets a line when a phase ends."""
    with progress_panel.bars() as paint:

        def draw(record: "Progress", pace: Pace) -> None:
            paint(record, pace)
            if run is not None and record.done == record.total:
                run.log(_line(record, pace))

        yield draw


@contextmanager
def _lines(run: "Run | None") -> Iterator[progress_panel.Draw]:
    """Print a line now and then, for files and pipes."""
    phase, printed = "", 0.0

    def draw(record: "Progress", pace: Pace) -> None:
        nonlocal phase, printed
        now = time.monotonic()
        if phase != record.phase:
            phase, printed = record.phase, now
        if record.done == record.total or now - printed > LINE_EVERY:
            printed = now
            say(_line(record, pace), run, progress=True)

    yield draw


def _line(record: "Progress", pace: Pace) -> str:
    """A record as a line: phase, steps, figures, time left."""
    facts = dict(record.facts)
    if facts:
        facts["steps/s"] = pace.speed()
    words = "  ".join(f"{key} {value}" for key, value in facts.items())
    end = "" if pace.left is None else f"  left {duration(pace.left)}"
    return f"{record.phase:<12} {record.done}/{record.total}  {words}{end}"


def failed(error: QuantnasError) -> None:
    """Print the cause and the remedy of an error on standard error."""
    try:
        typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    except BrokenPipeError:
        _unread(sys.stderr)
    say(error.cause, progress=True)
    say(f"       {error.remedy}", progress=True)


def scores(result: dict[str, Any]) -> Iterator[str]:
    """One line per evaluated set."""
    for name, group in result["sets"].items():
        mean, base = group["mean"], group.get("float_mean")
        middle = f"float network {base['psnr']:.2f}, " if base else ""
        yield (
            f"{name} ({len(group['file'])} photographs, x{result['scale']}): "
            f"bicubic {mean['bicubic_psnr']:.2f} dB, {middle}file {mean['psnr']:.2f} dB "
            f"({mean['psnr'] - mean['bicubic_psnr']:+.2f}), "
            f"SSIM {mean['bicubic_ssim']:.4f} -> {mean['ssim']:.4f}"
        )
        full = None if base is None else base["psnr"]
        warning = f"worse than bicubic on {name}"
        yield from below_bicubic(warning, mean["psnr"], mean["bicubic_psnr"], full)


def below_bicubic(warning: str, psnr: float, bicubic: float, full: float | None) -> Iterator[str]:
    """The warning with a remedy, where PSNR is below that of bicubic.

    full: PSNR of the float network, where there is one.
    """
    if psnr < bicubic:
        yield f"warning: {warning}; {ADVICE[full is not None and full < bicubic]}"


FEW = 3
"""Number of layers that a note names."""


def export_lines(result: dict[str, Any]) -> Iterator[str]:
    """The exported file in a line, and a warning about a network sensitive to rounding."""
    cost, found = result["cost"], result["verification"]
    space, bitops = next(iter(cost["bitops"].items()))
    yield (
        f"{result['file']}: {result['bytes']:,} bytes, {cost['parameters']:,} parameters, "
        f"{bitops / 1e9:.2f} GBitOps at {space}; {found['integer_convolutions']} of "
        f"{found['convolutions']} convolutions in integers, {_away(found)}"
    )
    slower = found.get("slower") or {}
    if slower:
        named = ", ".join(f"{name} ({reason})" for name, reason in [*slower.items()][:FEW])
        more = f" and {len(slower) - FEW} more" if len(slower) > FEW else ""
        yield (f"note: run as ConvInteger, which is slower than QLinearConv: {named}{more}")
    if found.get("sensitivity") is not None:
        yield (
            "warning: this deep network is sensitive to rounding: file and torch differ by "
            f"{found['psnr']:.1f} dB, the network with its own arithmetic noise by "
            f"{found['sensitivity']:.1f} dB"
        )


def _away(found: dict[str, Any]) -> str:
    """The largest difference of the file from torch."""
    steps, plain = str(found["max_steps"]), found.get("unoptimised")
    if plain is not None and plain["max_steps"] != found["max_steps"]:
        steps += f" ({plain['max_steps']} with optimisation off)"
    share = found.get("share_different")
    differ = "" if share is None else f", {share:.2%} of the values different"
    return f"at most {steps} of 255 steps from torch{differ}"


def next_commands(*commands: Sequence[object]) -> None:
    """Print the commands that may come next, each as its words, in a form that can be pasted."""
    say("next:")
    for words in commands:
        say(f"  quantnas {shlex.join(map(str, words))}")


def refuse_existing(path: Path, force: bool, option: str = "-o") -> None:
    """Raise UsageError when a file would be overwritten."""
    if path.exists() and not force:
        raise UsageError(f"{path} exists already.", f"Choose another {option}, or add --force.")
