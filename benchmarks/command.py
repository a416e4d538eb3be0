"""The command line, as all benchmarks call it."""

import subprocess
import sys
from collections.abc import Iterable


def quantnas(*words: object, ok: Iterable[int] = (0,)) -> str:
    """What a command prints; its progress goes to standard error as usual.

    Raises SystemExit when it ends with another code than those of `ok`.
    """
    command = [sys.executable, "-m", "quantnas.cli", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode not in ok:
        raise SystemExit(
            f"`{' '.join(['quantnas', *command[3:]])}` has ended with {done.returncode}"
        )
    return done.stdout
