"""The tables of an evaluation, as rows of cells for the command line and for Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Evaluation = Mapping[str, Any]
"""An evaluation, or a part of it, as `model_comparison.collect` gives it."""
Rows = list[list[str]]
"""Rows of cells; the first row is the header."""
AT = "LR 32x32"
"""Resolution at which costs are compared."""


def models(evaluation: Evaluation) -> Rows:
    """The table of the models and their cost."""
    rows = [["model", "parameters", "kB", f"GBitOps at {AT}", "arithmetic"]]
    for name, model in evaluation["models"].items():
        cost, size = model["cost"], f"{model['bytes'] / 1000:.1f}"
        counts = ["-", size, "-"]
        if cost is not None:
            counts = [f"{cost['parameters']:,}", size, f"{cost['bitops'][AT] / 1e9:.3g}"]
        rows.append([name, *counts, "float" if model["float"] else "integers"])
    return rows


def means(evaluation: Evaluation) -> Rows:
    """The table of mean PSNR / SSIM per set, with dB over bicubic, for bicubic and every model.

    Below each quantized network whose float network is at hand, its PSNR to that one stands.
    """
    sets = evaluation["sets"]
    base = [f"{g['bicubic']['psnr']:.2f} / {g['bicubic']['ssim']:.4f}" for g in sets.values()]
    rows = [["", *(f"{name} ({photos(group)})" for name, group in sets.items())]]
    rows.append(["bicubic", *base])
    for name in evaluation["models"]:
        means = [group["models"][name]["mean"] for group in sets.values()]
        rows.append([name, *(f"{_score(mean)} ({_gain(mean):+.2f})" for mean in means)])
        if any(mean.get("to_float") is not None for mean in means):
            rows.append([f"{name}, to its float network", *(f"{m['to_float']:.2f}" for m in means)])
    return rows


def images(evaluation: Evaluation, name: str) -> Rows:
    """The table of all photographs of a set and their mean; a single model has dB over bicubic."""
    group = evaluation["sets"][name]["models"]
    alone = len(group) == 1
    parts = [[*model["images"], {**model["mean"], "image": "mean"}] for model in group.values()]
    close = alone and parts[0][-1].get("to_float") is not None
    more = ["over bicubic", *(["to float network"] if close else [])]
    rows = [["photograph", "bicubic", *group, *(more if alone else [])]]
    for scores in zip(*parts, strict=True):
        first = scores[0]
        base = f"{first['bicubic_psnr']:.2f} / {first['bicubic_ssim']:.4f}"
        gain = [f"{_gain(first):+.2f}"] if alone else []
        gain += [f"{first['to_float']:.2f}"] if close else []
        rows.append([first["image"], base, *map(_score, scores), *gain])
    return rows


def worst(evaluation: Evaluation, name: str) -> Iterator[str]:
    """One sentence per model about its worst photograph of a set."""
    for label, model in evaluation["sets"][name]["models"].items():
        row, gain = model["worst"], _gain(model["worst"])
        yield f"Worst for {label}: {row['image']}, {beside_bicubic(gain)}, the {extreme(gain)}."


def extreme(gain: float) -> str:
    """The sense in which a photograph is the worst: `smallest gain` or `largest loss`."""
    return "smallest gain" if gain >= 0 else "largest loss"


def beside_bicubic(gain: float) -> str:
    """A gain in words: 1.2 -> `1.20 dB above bicubic`."""
    return f"{abs(gain):.2f} dB {'above' if gain >= 0 else 'below'} bicubic"


def photos(group: Evaluation) -> str:
    """`5 photographs`, with the source of low-resolution images that are not bicubic."""
    count = len(next(iter(group["models"].values()))["images"])
    low = "" if group["low"] == "bicubic" else f", LR from {group['low']}"
    return f"{count} photograph{'s' if count > 1 else ''}{low}"


def markdown(title: str, evaluation: Evaluation) -> str:
    """The Markdown page of an evaluation."""
    lines = [
        f"# {title}", "",
        f"x{evaluation['scale']}. Protocol: {evaluation['protocol']}.", "",
        "## Models", "", *_piped(models(evaluation)), "",
        *(f"- {name}: {model['what']}" for name, model in evaluation["models"].items()), "",
        "kB are 1000 bytes of the file; BitOps are multiply-accumulates times both bit widths, at "
        f"a low resolution of {AT.removeprefix('LR ')} pixels.", "",
        "## Means", "", *_piped(means(evaluation)), "",
        "PSNR-Y in dB / SSIM-Y (dB over bicubic); PSNR-Y to the float network in dB.", "",
    ]  # fmt: skip
    if "plot" in evaluation:
        lines += [f"![PSNR over BitOps](plots/{evaluation['plot']})", ""]
    for name, group in evaluation["sets"].items():
        lines += [f"## {name}", "", *_piped(images(evaluation, name)), ""]
        alone = len(group["models"]) == 1
        more = "; over bicubic and to the float network, PSNR-Y in dB" if alone else ""
        lines += [f"PSNR-Y in dB / SSIM-Y{more}.", ""]
        lines += [*(f"- {line}" for line in worst(evaluation, name)), ""]
        for label, model in group["models"].items():
            lines += [f"![Difference of {label}](plots/{model['plot']})", ""]
    command = " ".join(evaluation["environment"]["command"])
    return "\n".join([*lines, f"Made with `{command}`."]) + "\n"


def _score(row: Evaluation) -> str:
    return f"{row['psnr']:.2f} / {row['ssim']:.4f}"


def _gain(row: Evaluation) -> float:
    gain: float = row["psnr"] - row["bicubic_psnr"]
    return gain


def _piped(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a Markdown table."""
    head, *rest = rows
    for cells in (head, ["---"] * len(head), *rest):
        yield f"| {' | '.join(cells)} |"
