"""One self-contained HTML page about runs: pictures, style and script are embedded.

A template renders text and charts; a small script selects, sorts and compares, on data embedded as
JSON. A content security policy in the page keeps browsers from loading anything.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from quantnas import __version__
from quantnas.config import files
from quantnas.config.files import inside
from quantnas.errors import DataError
from quantnas.evaluation import tables
from quantnas.reporting.plots import pareto_front
from quantnas.runs.run_folder import Run

from . import html_charts, html_data, html_text, photo_slider, seed_groups
from .html_data import AT, Scores, Shown, Source

FILE = "report.html"
SCRIPTS = ("elements.js", "compare.js", "page.js")
"""Scripts of the page in the order in which they run."""
SIZE = "\ue000"
"""Placeholder in the page until its size is known."""
ONE, SEVERAL = 3_600_000, 20_000_000
"""Most bytes of a page of one run, and of several; photographs are left out to stay below."""


def write(source: Source, path: Path) -> None:
    """Write the page of the runs of a source to `path`.

    Raises DataError when a run lacks a part or the file cannot be written.
    """
    text = html(source, [html_data.collect(name, run) for name, run in source.done])
    try:
        files.write_text(path, text)
    except OSError as error:
        raise DataError(
            f"Cannot write {path}: {error.strerror}.", "Choose another file."
        ) from error


def of_run(run: Run) -> Source:
    """Return the source of a page of one run, which may still be at its report step."""
    name = files.readable(run.folder.resolve().name)
    return Source(name, ((name, run),), (), ())


def html(source: Source, shown: Sequence[Shown]) -> str:
    """Return the page of the runs `shown`, which were collected from `source`."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=FunctionLoader(_file),
    )  # fmt: skip
    store = _Store()
    sets = _sets(shown)
    data = {
        "at": AT,
        "sets": [{"label": group.label, "published": _beside(group)} for group in sets],
        "runs": [_run(one, sets, store) for one in _within(shown)],
        "images": store.images,
    }
    template = environment.get_template("page.html")
    words = {
        "source": source,
        "runs": [
            html_text.of(one) | {"charts": html_charts.of_run(one, f"run-{i}")}
            for i, one in enumerate(shown)
        ],
        "fronts": list(html_charts.fronts([_measured(group, shown) for group in sets])),
        "sets": [group.label for group in sets],
        "columns": _columns(sets),
        "groups": list(_groups(shown, sets)),
        "published": pareto_front.SOURCE if any(map(_beside, sets)) else None,
        "data": embedded(data),
        "style": _file("style.css"),
        "script": "\n".join(map(_file, SCRIPTS)),
        "at": AT,
        "version": __version__,
        "size": SIZE,
        "beside": tables.beside_bicubic,
    }
    text = files.readable(template.render(words))
    return text.replace(SIZE, size(len(text.encode())))


def size(count: int) -> str:
    """Return a number of bytes as text, in kB or MB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def _file(name: str) -> str:
    return (resources.files("quantnas") / "reporting" / "page" / name).read_text(encoding="utf-8")


def embedded(data: Any) -> str:
    """Return JSON that is safe in a script element: it can neither end it nor begin another."""
    text = json.dumps(files.plain(data), separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


# Sets of photographs: two runs share a set where name, scale and photographs are equal


@dataclass(frozen=True)
class _Group:
    label: str
    name: str
    scale: int
    images: tuple[str, ...]

    @property
    def key(self) -> tuple[str, int, tuple[str, ...]]:
        """Identity of the set, equal to `_key` of the scores on it."""
        return self.name, self.scale, self.images


def _key(one: Shown, scores: Scores) -> tuple[str, int, tuple[str, ...]]:
    return scores.name, one.scale, tuple(row[0] for row in scores.rows)


def _sets(shown: Sequence[Shown]) -> list[_Group]:
    keys = list(dict.fromkeys(_key(one, scores) for one in shown for scores in one.scores))
    groups, labels = [], dict[str, int]()
    for name, scale, images in keys:
        label = f"{name}, x{scale} ({len(images)})"
        labels[label] = labels.get(label, 0) + 1
        if labels[label] > 1:
            label += f", others {labels[label]}"
        groups.append(_Group(label, name, scale, images))
    return groups


def _columns(sets: Sequence[_Group]) -> list[str]:
    """Return short labels of the sets: their names alone where these are unique."""
    names = [group.name for group in sets]
    return names if len(set(names)) == len(names) else [group.label for group in sets]


def _groups(shown: Sequence[Shown], sets: Sequence[_Group]) -> Iterator[dict[str, Any]]:
    """Yield means and standard deviations over runs that differ only in their seed."""
    scores = [{_key(one, s): s.mean[2][0] for s in one.scores} for one in shown]
    for alike in seed_groups.groups([s.name for s in shown], [s.data["config"] for s in shown]):
        these = [shown[at] for at in alike.members]
        yield {
            "name": alike.name,
            "runs": len(these),
            "psnr": [
                seed_groups.spread([scores[at].get(group.key) for at in alike.members], 2)
                for group in sets
            ],
            "bitops": seed_groups.spread([one.bitops / 1e9 for one in these], 3),
            "kilobytes": seed_groups.spread([one.bytes / 1e3 for one in these], 1),
        }


def _beside(group: _Group) -> bool:
    """Whether the published points were measured on this set."""
    return pareto_front.beside_published(group.name, group.scale)


def _measured(group: _Group, shown: Sequence[Shown]) -> html_charts.Set:
    """Return the runs that have scores on a set."""
    rows = [
        (i, one, scores)
        for i, one in enumerate(shown)
        for scores in one.scores
        if _key(one, scores) == group.key
    ]
    return html_charts.Set(group.label, tuple(rows), _beside(group))


# What the script shows


@dataclass
class _Store:
    """Pictures as data URIs, each stored once."""

    images: list[str] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)

    def add(self, content: bytes) -> int:
        """Store a picture in WebP, and return its index among the images."""
        key = hashlib.sha256(content).hexdigest()
        if key not in self.seen:
            self.seen[key] = len(self.images)
            self.images.append(html_text.uri(content))
        return self.seen[key]


def _within(shown: Sequence[Shown]) -> list[Shown]:
    """Return the runs with as many photographs as fit the page, at least one each."""
    limit = ONE if len(shown) == 1 else SEVERAL
    for count in (3, 2, 1):
        cut = [
            replace(one, views=one.views and replace(one.views, views=one.views.views[:count]))
            for one in shown
        ]
        if sum(dict(_crops(cut)).values()) * 4 / 3 < limit:
            break
    return cut


def _crops(shown: Sequence[Shown]) -> Iterator[tuple[str, int]]:
    """Yield hash and size in bytes of every photograph file of the runs."""
    for one in shown:
        for view in one.views.views if one.views else ():
            for version in view.versions:
                content = _content(one, version.file)
                yield hashlib.sha256(content).hexdigest(), len(content)


def _content(one: Shown, file: str) -> bytes:
    """Return a photograph's file. Raises DataError unless it is a WebP file that can be read."""
    path = _crop(one, file)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}.", "Make the report of that run again."
        ) from error
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        raise DataError(f"{path} is no WebP image.", "Make the report of that run again.")
    return content


def _crop(one: Shown, file: str) -> Path:
    """Return the path of a photograph. Raises DataError unless it lies among the photographs."""
    folder = one.folder / photo_slider.FOLDER
    return inside(folder, file, folder / photo_slider.FILE)


def _run(one: Shown, sets: Sequence[_Group], store: _Store) -> dict[str, Any]:
    """Return the numbers of a run for the table of all runs, and its photographs."""
    results: dict[int, dict[str, float]] = {}
    for scores in one.scores:
        at = [group.key for group in sets].index(_key(one, scores))
        plain, full, ours = scores.mean
        results[at] = {"psnr": ours[0], "float": full[0], "bicubic": plain[0], "ssim": ours[1]}
    return {
        "name": one.name,
        "bitops": one.bitops,
        "bytes": one.bytes,
        "parameters": one.data["export"]["cost"]["parameters"],
        "scale": one.scale,
        "bits": html_text.bits(one.data),
        "seconds": sum(seconds for _, seconds, _ in html_text.steps(one.data)),
        "sets": results,
        "views": [_view(one, view, store) for view in (one.views.views if one.views else ())],
    }


def _view(one: Shown, view: Any, store: _Store) -> dict[str, Any]:
    return {
        "name": view.photograph,
        "width": view.width,
        "height": view.height,
        "versions": [
            {"name": v.name, "psnr": v.psnr, "image": store.add(_content(one, v.file))}
            for v in view.versions
        ],
    }
