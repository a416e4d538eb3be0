"""A matplotlib figure as SVG inside an HTML page: compact, in the page's colours, with tooltips.

Text stays text, in the font of the page. Identifiers begin with a prefix, so that several figures
can stand in one page. The style sheet that matplotlib writes is left out, because it would hold for
the whole page.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

DPI = 72
"""Dots per inch of a figure in which something is placed in pixels: SVG counts in 1/72 inch."""
SETTINGS: dict[Any, str] = {"svg.fonttype": "none", "svg.hashsalt": "quantnas"}


@dataclass(frozen=True)
class Mark:
    """Tooltip and link of one artist of a figure."""

    title: str
    """Text of its tooltip."""
    link: str = ""
    """Address of the link; empty for none."""


def inline(
    figure: Figure, prefix: str, label: str, marks: Mapping[str, Mark], theme: Mapping[str, str]
) -> str:
    """Return an svg element with that accessible name; `marks` belong to gids of the figure.

    `theme` has colours of the page's style sheet for colours of the figure (`#rrggbb`).
    """
    root = _parsed(figure)
    for element in root.iter():
        _shorten(element, theme)
    for element in list(root.iter()):
        if element.get("id") in marks:
            _mark(element, marks[element.attrib["id"]])
    _rename(root, prefix, set(marks))
    linked = any(mark.link for mark in marks.values())
    root.attrib = {
        "viewBox": root.attrib["viewBox"], "role": "group" if linked else "img",
        "aria-label": label, "style": "fill:var(--ink);stroke-linejoin:round;stroke-linecap:butt",
    }  # fmt: skip
    return ElementTree.tostring(root, encoding="unicode")


def _parsed(figure: Figure) -> Element:
    """Return matplotlib's SVG with elements and attributes freed of name spaces."""
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_facecolor("none")
    content = io.BytesIO()
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the font of the page may have it
        FigureCanvasSVG(figure).print_svg(content)  # `savefig` would draw twice
    root = ElementTree.fromstring(content.getvalue())
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(name): value for name, value in element.attrib.items()}
    return root


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _shorten(element: Element, theme: Mapping[str, str]) -> None:
    """Drop parts that the page does not need, shorten the rest, and apply the page's colours."""
    for child in list(element):
        if child.tag in ("metadata", "style"):
            element.remove(child)
        elif element.tag == "defs":
            child.attrib.pop("style", None)  # every use of a definition has its style again
    element.tail = None
    if element.tag != "text":
        element.text = None
    if element.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    if "style" in element.attrib:
        style = re.sub(r"font-family:[^;]*;?", "", element.attrib["style"])
        style = re.sub("#[0-9a-f]{6}", lambda found: theme.get(found[0], found[0]), style)
        element.set("style", re.sub(r"\s*([:;])\s*", r"\1", style).rstrip("; "))
    if "d" in element.attrib:
        element.set("d", re.sub(r"\s*([A-Za-z])\s*", r"\1", " ".join(element.attrib["d"].split())))
    for name in element.attrib.keys() - {"id", "href"}:
        element.set(name, re.sub(r"-?\d+\.\d+", _rounded, element.attrib[name]))


def _rounded(number: re.Match[str]) -> str:
    """Return a number with at most two digits after the point."""
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _mark(element: Element, mark: Mark) -> None:
    """Give a group a tooltip, also on its unpainted parts, and a link."""
    title = Element("title")
    title.text = mark.title
    element.insert(0, title)
    element.set("pointer-events", "all")
    if mark.link:
        element.tag = "a"
        element.set("href", mark.link)


def _rename(root: Element, prefix: str, marked: set[str]) -> None:
    """Prefix identifiers that are marked or referred to, and drop all others."""
    own = {element.attrib["id"] for element in root.iter() if "id" in element.attrib}
    kept = own & (marked | {target for element in root.iter() for target in _targets(element)})
    for element in root.iter():
        if element.get("id") in kept:
            element.set("id", f"{prefix}-{element.attrib['id']}")
        else:
            element.attrib.pop("id", None)
        for target in kept & set(_targets(element)):
            for name in ("href", "clip-path"):
                if name in element.attrib:
                    element.set(
                        name, element.attrib[name].replace(f"#{target}", f"#{prefix}-{target}")
                    )


def _targets(element: Element) -> Iterator[str]:
    """Yield the identifiers that an element refers to."""
    for name in ("href", "clip-path"):
        yield from re.findall(r"#([\w.-]+)", element.get(name, ""))
