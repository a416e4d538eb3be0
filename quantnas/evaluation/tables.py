"""The tables of an evaluation: rows of cells, for the command line and for Markdown alike."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]
"""What `model_comparison.collect` gives."""
Rows = list[list[str]]
"""The first row is the head."""
AT = "LR 32x32"
"""Resolution at which costs are compared."""


def models(found: Found) -> Rows:
    """What is compared, and what it costs."""
    rows = [["model", "parameters", "kB", f"GBitOps at {AT}", "arithmetic"]]
    for name, model in found["models"].items():
        cost, size = model["cost"], f"{model['bytes'] / 1000:.1f}"
        counts = ["-", size, "-"]
        if cost is not None:
            counts = [f"{cost['parameters']:,}", size, f"{cost['bitops'][AT] / 1e9:.3g}"]
        rows.append([name, *counts, "float" if model["float"] else "integers"])
    return rows


def means(found: Found) -> Rows:
    """Bicubic and every model on every set: PSNR / SSIM, and dB over bicubic."""
    sets = found["sets"]
    base = [f"{g['bicubic']['psnr']:.2f} / {g['bicubic']['ssim']:.4f}" for g in sets.values()]
    rows = [["", *(f"{name} ({photos(group)})" for name, group in sets.items())]]
    rows.append(["bicubic", *base])
    for name in found["models"]:
        means = [group["models"][name]["mean"] for group in sets.values()]
        rows.append([name, *(f"{_score(mean)} ({_gain(mean):+.2f})" for mean in means)])
    return rows


def images(found: Found, name: str) -> Rows:
    """Every photograph of a set, and the mean; for one model with the dB over bicubic."""
    group = found["sets"][name]["models"]
    alone = len(group) == 1
    rows = [["photograph", "bicubic", *group, *(["over bicubic"] if alone else [])]]
    parts = [[*model["images"], {**model["mean"], "image": "mean"}] for model in group.values()]
    for scores in zip(*parts, strict=True):
        first = scores[0]
        base = f"{first['bicubic_psnr']:.2f} / {first['bicubic_ssim']:.4f}"
        gain = [f"{_gain(first):+.2f}"] if alone else []
        rows.append([first["image"], base, *map(_score, scores), *gain])
    return rows


def worst(found: Found, name: str) -> Iterator[str]:
    """A sentence about the worst photograph of every model on a set."""
    for label, model in found["sets"][name]["models"].items():
        row, gain = model["worst"], _gain(model["worst"])
        yield f"Worst for {label}: {row['image']}, {beside_bicubic(gain)}, the {extreme(gain)}."


def extreme(gain: float) -> str:
    """In which sense a photograph is the worst."""
    return "smallest gain" if gain >= 0 else "largest loss"


def beside_bicubic(gain: float) -> str:
    """1.2 -> 1.20 dB above bicubic"""
    return f"{abs(gain):.2f} dB {'above' if gain >= 0 else 'below'} bicubic"


def photos(group: Found) -> str:
    """`5 photographs`; with low resolution of their own, that too."""
    count = len(next(iter(group["models"].values()))["images"])
    low = "" if group["low"] == "bicubic" else f", LR from {group['low']}"
    return f"{count} photograph{'s' if count > 1 else ''}{low}"


def markdown(title: str, found: Found) -> str:
    """The whole page."""
    lines = [
        f"# {title}", "",
        f"x{found['scale']}. Protocol: {found['protocol']}.", "",
        "## Models", "", *_piped(models(found)), "",
        *(f"- {name}: {model['what']}" for name, model in found["models"].items()), "",
        "## Means", "", *_piped(means(found)), "",
        "PSNR-Y in dB / SSIM-Y (dB over bicubic).", "",
    ]  # fmt: skip
    if "plot" in found:
        lines += [f"![PSNR over BitOps](plots/{found['plot']})", ""]
    for name, group in found["sets"].items():
        lines += [f"## {name}", "", *_piped(images(found, name)), ""]
        lines += [*(f"- {line}" for line in worst(found, name)), ""]
        for label, model in group["models"].items():
            lines += [f"![Difference of {label}](plots/{model['plot']})", ""]
    command = " ".join(found["environment"]["command"])
    return "\n".join([*lines, f"Made with `{command}`."]) + "\n"


def _score(row: Found) -> str:
    return f"{row['psnr']:.2f} / {row['ssim']:.4f}"


def _gain(row: Found) -> float:
    gain: float = row["psnr"] - row["bicubic_psnr"]
    return gain


def _piped(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table."""
    head, *rest = rows
    for cells in (head, ["---"] * len(head), *rest):
        yield f"| {' | '.join(cells)} |"
