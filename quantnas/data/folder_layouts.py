"""Names of the folders in which data sets keep their high and low resolution.

Names are compared without regard to case. The files in the folders are not read here.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from quantnas.errors import DataError

HIGH = r"(?i:(?P<set>.*_)?(HR|GT(mod\d+)?))"
"""Pattern of a high-resolution folder's name; it counts when folders of `FAMILY` lie beside it."""

FAMILY = r"(?i:{set}LR(_.*|bic.*|x\d+)?)"
"""Pattern of a low-resolution folder's name, of any scale and any degradation."""

LOW = {
    "DIV2K, Flickr2K": r"(?i:{set}LR_bicubic)/(?i:x{scale})",
    "DIV2K, Flickr2K, without subfolders": r"(?i:{set}LR_bicubic_x{scale})",
    "Set5 and similar sets, for BasicSR": r"(?i:{set}LRbicx{scale})",
    "LR with subfolders": r"(?i:{set}LR)/(?i:x{scale})",
    "LR without subfolders": r"(?i:{set}LR_?x{scale})",
}
"""Layout -> pattern of the folder with its low resolution; the first that exists is used."""

FLAT = r"(?i:{set}LR)"
"""Pattern of a low-resolution folder that does not state its scale; file sizes must show it."""


def by_name(root: Path) -> Path:
    """`root`, as an absolute path where only that has the name of a `HIGH` folder, as for `.`"""
    whole = Path(os.path.abspath(root))
    return whole if root.name != whole.name and re.fullmatch(HIGH, whole.name) else root


def require_high(root: Path) -> None:
    """Raise DataError when `root` is the low resolution of photographs that lie beside it."""
    whole = Path(os.path.abspath(root))
    for low in (whole, whole.parent):
        for high in _matching(low.parent, HIGH):
            if low in matching_siblings(high, (FAMILY,)):
                raise DataError(
                    f"'{whole}' holds the low resolution of '{high}'.",
                    f"Give '{high}': its low resolution is found from there.",
                )


def folders(root: Path, paths: Sequence[Path]) -> list[Path]:
    """`root` and all folders between it and its images `paths`, sorted."""
    return [root, *sorted({p for path in paths for p in path.parents if root in p.parents})]


def matching_siblings(high: Path, patterns: Iterable[str], scale: int = 1) -> list[Path]:
    """Folders beside `high` that match the patterns, in their order.

    The list is empty when the name of `high` does not match `HIGH`.
    """
    match = re.fullmatch(HIGH, high.name)
    if match is None:
        return []
    parts = {"set": re.escape(match["set"] or ""), "scale": scale}
    return [low for p in patterns for low in _matching(high.parent, p.format(**parts))]


def _matching(parent: Path, pattern: str) -> Iterator[Path]:
    """Folders below `parent` whose path matches part by part; none if it cannot be listed."""
    name, _, rest = pattern.partition("/")
    try:
        paths = sorted(path for path in parent.iterdir() if re.fullmatch(name, path.name))
    except OSError:
        return
    for path in paths:
        if path.is_dir():
            yield from _matching(path, rest) if rest else [path]
