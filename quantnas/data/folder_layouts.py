"""The usual folders of photographs with low-resolution versions of their own, by their names.

Names are compared without regard to case. What lies in the folders is not looked at here.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from quantnas.errors import DataError

HIGH = r"(?i:(?P<set>.*_)?(HR|GT(mod\d+)?))"
"""Name of a folder of high resolution, when folders of `FAMILY` lie beside it."""

FAMILY = r"(?i:{set}LR(_.*|bic.*|x\d+)?)"
"""Name of a folder of low resolution, whatever its scale and however it was made."""

LOW = {
    "DIV2K, Flickr2K": r"(?i:{set}LR_bicubic)/(?i:x{scale})",
    "the same, unpacked flat": r"(?i:{set}LR_bicubic_x{scale})",
    "Set5 and its like, for BasicSR": r"(?i:{set}LRbicx{scale})",
    "the plainest": r"(?i:{set}LR)/(?i:x{scale})",
    "the plainest, flat": r"(?i:{set}LR_?x{scale})",
}
"""Where the layouts keep the low resolution; the first that is there is taken."""

FLAT = r"(?i:{set}LR)"
"""Where it may lie without a word about the scale; the sizes of the files have to tell it."""


def by_name(root: Path) -> Path:
    """`root`; written out where only that shows that it is a HIGH, as of `.`"""
    whole = Path(os.path.abspath(root))
    return whole if root.name != whole.name and re.fullmatch(HIGH, whole.name) else root


def require_high(root: Path) -> None:
    """Raise DataError for a folder of low resolution that lies beside its photographs."""
    whole = Path(os.path.abspath(root))
    for low in (whole, whole.parent):
        for high in _matching(low.parent, HIGH):
            if low in beside(high, (FAMILY,)):
                raise DataError(
                    f"'{whole}' holds the low resolution of '{high}'.",
                    f"Give '{high}': its low resolution is found from there.",
                )


def folders(root: Path, paths: Sequence[Path]) -> list[Path]:
    """`root`, and the folders on the way to its images."""
    return [root, *sorted({p for path in paths for p in path.parents if root in p.parents})]


def beside(high: Path, patterns: Iterable[str], scale: int = 1) -> list[Path]:
    """The folders beside `high` that match, in the order of the patterns; none if it is no HIGH."""
    match = re.fullmatch(HIGH, high.name)
    if match is None:
        return []
    parts = {"set": re.escape(match["set"] or ""), "scale": scale}
    return [low for p in patterns for low in _matching(high.parent, p.format(**parts))]


def _matching(parent: Path, pattern: str) -> Iterator[Path]:
    """The folders below `parent` that match, name by name; none if it cannot be listed."""
    name, _, rest = pattern.partition("/")
    try:
        found = sorted(path for path in parent.iterdir() if re.fullmatch(name, path.name))
    except OSError:
        return
    for path in found:
        if path.is_dir():
            yield from _matching(path, rest) if rest else [path]
