"""Ctrl-C while a command is loading: it ends at once, without a traceback, as nothing has begun."""

import os
import signal


def end_quietly() -> None:
    """Let Ctrl-C end the process at once with exit code 130, until `raise_again`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the shell ignores it
        signal.signal(signal.SIGINT, _leave)


def raise_again() -> None:
    """Let Ctrl-C raise KeyboardInterrupt, as usual; called when a command begins its work."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: object) -> None:
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(130)
