"""What a caller is told of long work, and how it stops it: the library itself prints nothing."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from quantnas.progress import Progress

    from .run_folder import Run


class Watcher:
    """Is told of what happens. Every method does nothing until a subclass says what it does.

    A method may raise: the step then saves its state and stops, and the exception reaches the
    caller. `quantnas.resume` goes on from that state.
    """

    def begin(self, run: "Run") -> None:
        """The run folder is there, and its first step is about to begin."""

    def __call__(self, record: "Progress") -> None:
        """A phase has got further: `record.done` of `record.total`."""

    def finish(self, step: str, seconds: float | None) -> None:
        """A step has ended after that time, or (None) had ended before this call."""

    def end(self) -> None:
        """Nothing more will be told of this run, whether its steps have ended or failed."""


SILENT = Watcher()
"""Tells nobody, and never stops anything."""


def follow(steps: "Iterator[Progress]", watch: Callable[["Progress"], None]) -> Any:
    """The result of a generator whose records go to `watch`; it is closed if that raises."""
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
