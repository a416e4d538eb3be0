"""`python -m quantnas.cli` is the same as `quantnas`."""

from .main import main

main()
