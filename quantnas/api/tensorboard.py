"""A watcher that shows a run in TensorBoard while it is going on."""

from typing import TYPE_CHECKING

from quantnas.reporting.tensorboard import Mirror, require
from quantnas.runs.watcher import Watcher

if TYPE_CHECKING:
    from quantnas.progress import Progress
    from quantnas.runs.run_folder import Run


class TensorboardWatcher(Watcher):
    """Copies the recorded values of a run into event files in its folder `tensorboard`.

    Raises UsageError without the extra `tensorboard`.
    """

    def __init__(self) -> None:
        require()
        self._mirror: Mirror | None = None

    def begin(self, run: "Run") -> None:
        self._mirror = Mirror(run.folder)

    def __call__(self, record: "Progress") -> None:
        if self._mirror is not None:
            self._mirror.update()

    def end(self) -> None:
        if self._mirror is not None:
            self._mirror.close()
