"""`quantnas models`: the models that come with the package."""

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ..tables import columns

if TYPE_CHECKING:
    from quantnas.api.catalogue import Card

SETS = ("set5", "set14", "b100")
"""Sets of photographs in the list."""
AT = "LR 32x32"
"""Resolution at which BitOps are listed."""


def models(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Print the card of this model.", show_default="list all", metavar="NAME"
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """List the bundled models, or print the card of one.

    Example: quantnas models

    The names can be used with upscale, evaluate, bench and info. The list shows PSNR-Y in dB, with
    that of bicubic in brackets.
    """
    from quantnas.api import catalogue
    from quantnas.config import files

    if name is not None:
        card = catalogue.card(name)
        lines = _card(card)
        facts = files.to_json(card)
    else:
        cards = catalogue.bundled_cards()
        lines = columns(_rows(cards), left=(0, 8)) if cards else iter(["no model is bundled"])
        facts = files.to_json(cards)
    if json:
        typer.echo(facts, nl=False)
        return
    for line in lines:
        typer.echo(line)


def _rows(cards: "dict[str, Card]") -> list[list[str]]:
    """All models as a table, whose first row is the head."""
    rows = [["model", "scale", "parameters", "kB", "GBitOps", *SETS, "terms of the photographs"]]
    for name, card in cards.items():
        scores = [card.scores.get(key) for key in SETS]
        rows.append(
            [
                name,
                f"x{card.scale}",
                f"{card.parameters:,}",
                f"{card.bytes / 1000:.1f}",
                f"{card.bitops[AT] / 1e9:.3g}",
                *("-" if s is None else f"{s.psnr:.2f} ({s.bicubic_psnr:.2f})" for s in scores),
                textwrap.shorten(card.terms, 60, placeholder=" ..."),
            ]
        )
    return rows


def _card(card: "Card") -> Iterator[str]:
    """The card as text."""
    colours = "brightness only" if card.luma_only else "all colours"
    yield f"{card.name}: x{card.scale}, {colours}, found in the space {card.space}"
    yield f"{card.parameters:,} parameters, {card.file} of {card.bytes:,} bytes"
    yield f"SHA-256 {card.sha256}"
    yield ""
    for key, bitops in card.bitops.items():
        yield f"{key:<16} {bitops / 1e9:10.3f} GBitOps"
    yield ""
    rows = [["photographs", "bicubic", "model", "over bicubic"]]
    for key, s in card.scores.items():
        gain = f"{s.psnr - s.bicubic_psnr:+.2f} dB"
        base = f"{s.bicubic_psnr:.2f} / {s.bicubic_ssim:.4f}"
        rows.append([key, base, f"{s.psnr:.2f} / {s.ssim:.4f}", gain])
    yield from columns(rows)
    yield from textwrap.wrap(f"PSNR-Y in dB / SSIM-Y; {card.protocol}", 88)
    yield ""
    texts = {
        "trained on": card.trained_on,
        "terms": card.terms,
        "recipe": f"{card.recipe} ({card.minutes:g} minutes, seed {card.seed})",
        "made by": card.made_by,
    }
    for key, text in texts.items():
        head = f"{key + ':':<12}"
        yield from textwrap.wrap(text, 88, initial_indent=head, subsequent_indent=" " * len(head))
    yield ""
    widths = [[layer, *(f"{n} bits" for n in pair)] for layer, pair in card.bits.items()]
    yield from columns([["layer", "weights", "activations"], *widths])
