"""Photographs are decoded with progress before a step learns from them."""

import time
from collections.abc import Generator, Sequence

from quantnas.config.run_config import RunConfig
from quantnas.data import photo_cache
from quantnas.data.photographs import Photograph
from quantnas.progress import Progress
from quantnas.runs.run_folder import Run
from quantnas.runs.run_photographs import photographs_of

READING_EVERY = 1.0
"""Seconds between two records of the reading of photographs."""
LEFT_OUT = "photographs left out"
"""Phase of the record that counts them."""


def reading(
    run: Run,
    config: RunConfig,
    scale: int,
    size: int,
    photos: Sequence[Photograph] | None = None,
) -> Generator[Progress, None, photo_cache.Loaded]:
    """What a step learns from; progress over the photographs when that takes more than a moment.

    `photos`: others than those of the run.
    """
    given = photographs_of(run, config).train if photos is None else photos
    steps = photo_cache.loading(given, scale, size)
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
