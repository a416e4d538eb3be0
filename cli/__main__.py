"""`python -m quantnas.cli` is the same as `quantnas`; it loads the commands after all else."""

from . import interrupts


def main() -> None:
    """Run the command line and exit, as `quantnas.cli.main.main` says."""
    interrupts.end_quietly()
    from .main import main as begin

    begin()


if __name__ == "__main__":
    main()
