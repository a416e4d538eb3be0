"""Watchers receive the progress of long work and may stop it; the library itself prints nothing."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from quantnas.progress import Progress

    from .run_folder import Run


class Watcher:
    """A receiver of progress, whose methods do nothing until a subclass overrides them.

    A method may raise: the step then saves its state and stops, and the exception reaches the
    caller. `quantnas.resume` goes on from that state.
    """

    def begin(self, run: "Run") -> None:
        """The run folder exists, and the first step is about to begin."""

    def __call__(self, record: "Progress") -> None:
        """A phase has advanced to step `record.done` of `record.total`."""

    def finish(self, step: str, seconds: float | None) -> None:
        """A step has ended after `seconds`; None if it had finished before this call."""

    def end(self) -> None:
        """The work on this run is over, whether its steps have finished or failed."""


SILENT = Watcher()
"""The watcher that ignores everything and never stops the work."""


def follow(steps: "Iterator[Progress]", watch: Callable[["Progress"], None]) -> Any:
    """Pass every record of a generator to `watch`; the generator's result.

    The generator is closed if `watch` raises.
    """
    with closing(cast("Generator[Progress, None, Any]", steps)):
        while True:
            try:
                record = next(steps)
            except StopIteration as end:
                return end.value
            watch(record)


@contextmanager
def watched(run: "Run", watch: Watcher) -> Iterator[None]:
    """Tell a watcher when the work on a run begins, and when it ends."""
    watch.begin(run)
    try:
        yield
    finally:
        watch.end()
