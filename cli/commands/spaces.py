"""`quantnas spaces`: the built-in search spaces, and a copy of one to change."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from quantnas.config import search_space
from quantnas.errors import DataError, UsageError

from .. import console
from ..tables import columns


def spaces(
    copy: Annotated[
        str | None,
        typer.Option(help="Write this search space as a YAML file, to change it.", metavar="NAME"),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(help="File that --copy writes.", show_default="NAME.yaml", metavar="FILE"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of --to.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the built-in search spaces, or copy one into a file.

    Example: quantnas spaces --copy rfdn_small

    The column `edges` counts the searched edges, `networks` the architectures to choose from.

    GBitOps are those of the smallest and the largest architecture, at LR 32x32.

    A fixed network has nothing to choose: it is trained and quantized as it is.
    """
    if copy is not None:
        _copy(copy, to or Path(f"{copy}.yaml"), force)
        return
    if to is not None or force:
        raise UsageError(
            "--to and --force belong to --copy.", "Add --copy NAME, or leave them out."
        )
    from quantnas.api import catalogue
    from quantnas.config import files

    facts = catalogue.search_spaces()
    if json:
        typer.echo(files.to_json(facts), nl=False)
        return
    fixed = {name: f for name, f in facts.items() if f["architectures"] == 1}
    for line in _table({name: f for name, f in facts.items() if name not in fixed}):
        typer.echo(line)
    typer.echo("\nFixed networks, with nothing to choose:\n")
    for line in _fixed_table(fixed):
        typer.echo(line)


def _copy(name: str, to: Path, force: bool) -> None:
    """Write the YAML file of a built-in search space."""
    shipped = search_space.builtin()
    if name not in shipped:
        raise UsageError(
            f"There is no built-in search space called '{name}'.",
            f"Use one of {', '.join(sorted(shipped))}.",
        )
    console.refuse_existing(to, force, option="--to")
    try:
        to.write_bytes(shipped[name].read_bytes())
    except OSError as error:
        raise DataError(f"Cannot write {to}: {error.strerror}.", "Choose another --to.") from error
    typer.echo(f"{to}: a copy of {name}; change what you like, its `name` too")
    path = to if to.is_absolute() else f"./{to}"
    console.next_commands(["info", path], ["search", path])


def _table(facts: dict[str, dict[str, Any]]) -> list[str]:
    """The search spaces that leave choices open, as lines."""
    head = ["space", "scale", "channels", "cells", "edges", "networks", "GBitOps", ""]
    rows = [head]
    for name, f in facts.items():
        low, high = (n / 1e9 for n in f["bitops"]["LR 32x32"].values())
        counts = [str(f[key]) for key in ("channels", "cells", "searched_edges")]
        power = f"10^{math.log10(f['architectures']):.1f}"
        rows.append([name, f"x{f['scale']}", *counts, power, f"{low:.3g}-{high:.3g}", f["about"]])
    return list(columns(rows, left=(0, len(head) - 1)))


def _fixed_table(facts: dict[str, dict[str, Any]]) -> list[str]:
    """The fixed networks, as lines."""
    head = ["network", "scale", "channels", "cells", "parameters", "GBitOps", ""]
    rows = [head]
    for name, f in facts.items():
        sizes = [f"x{f['scale']}", *(str(f[key]) for key in ("channels", "cells"))]
        gbitops = f"{f['bitops']['LR 32x32']['largest'] / 1e9:.3g}"
        rows.append([name, *sizes, f"{f['parameters']['largest']:,}", gbitops, f["about"]])
    return list(columns(rows, left=(0, len(head) - 1)))
