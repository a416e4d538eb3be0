"""Decodes photographs, with progress, before a step trains on them."""

import time
from collections.abc import Generator, Sequence

from quantnas.config.run_config import RunConfig
from quantnas.data import photo_cache
from quantnas.data.photographs import Photograph
from quantnas.progress import Progress
from quantnas.runs.run_folder import Run
from quantnas.runs.run_photographs import photographs_of

READING_EVERY = 1.0
"""Seconds between two progress records while photographs are read."""
LEFT_OUT = "photographs left out"
"""Phase of the record that counts the photographs that were left out."""


def reading(
    run: Run,
    config: RunConfig,
    scale: int,
    size: int,
    photos: Sequence[Photograph] | None = None,
) -> Generator[Progress, None, photo_cache.Loaded]:
    """Load photographs for a step; yields progress when that takes more than a second.

    size: side of a patch, low-resolution pixels. photos: the photographs; None: the training
    photographs of the run.
    """
    photos = photographs_of(run, config).train if photos is None else photos
    steps = photo_cache.loading(photos, scale, size)
    shown = began = time.monotonic()
    while True:
        try:
            record = next(steps)
        except StopIteration as end:
            loaded: photo_cache.Loaded = end.value
            break
        if record.done < record.total and time.monotonic() - shown > READING_EVERY:
            shown = time.monotonic()
            yield Progress("photographs", record.done, record.total, record.facts())
    if shown > began:
        yield Progress("photographs", record.total, record.total, record.facts())
    if loaded.left_out:  # a phase of its own stays visible
        yield Progress(LEFT_OUT, loaded.left_out, loaded.left_out, record.facts())
    for line in loaded.remarks():
        run.log(line)
    return loaded
