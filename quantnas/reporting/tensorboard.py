"""TensorBoard scalars from `metrics.jsonl` (needs the extra `quantnas[tensorboard]`)."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantnas.errors import UsageError
from quantnas.runs import step_results


def require() -> None:
    """Raise UsageError when the package is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError(
            "TensorBoard is not installed.",
            "Install it with: pip install 'quantnas[tensorboard]', or leave out --tensorboard.",
        )


class Mirror:
    """Follows the `metrics.jsonl` of a run folder into event files in its folder `tensorboard`.

    Event files are rewritten from the first line, so that a resumed run has each step once.
    """

    def __init__(self, folder: Path) -> None:
        require()
        from torch.utils.tensorboard import SummaryWriter

        self.metrics, self.read = folder / "metrics.jsonl", 0
        target = folder / "tensorboard"
        for old in target.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = SummaryWriter(str(target))

    def update(self) -> None:
        """Write the rows that were recorded since the last call.

        Call it first after the first step: by then a resumed run has removed the rows of the
        steps that it repeats.
        """
        if not self.metrics.exists() or self.metrics.stat().st_size <= self.read:
            return
        for row in self._new():
            for name, value in scalars(row):
                self.writer.add_scalar(f"{row['phase']}/{name}", value, row["step"])
        self.writer.flush()

    def close(self) -> None:
        self.update()
        self.writer.close()

    def _new(self) -> Iterator[dict[str, Any]]:
        with self.metrics.open("rb") as file:
            file.seek(self.read)
            for line in file:
                if line.endswith(b"\n"):
                    self.read += len(line)
                    row = step_results.record(line.decode("utf-8", "replace"))
                    if row is not None:
                        yield row


def scalars(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield (name, value) of every number in a row; a check's PSNR is `decided_psnr`."""
    for name, value in row.items():
        if name != "step" and isinstance(value, int | float):
            yield name, float(value)
    check = row.get("check")
    psnr = check.get("psnr") if isinstance(check, dict) else None
    if isinstance(psnr, int | float):
        yield "decided_psnr", float(psnr)
