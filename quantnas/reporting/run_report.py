"""Report of a run: the results of its steps as one JSON object and as Markdown."""

import shlex
from collections.abc import Iterator
from typing import Any

from quantnas.config.files import read_json
from quantnas.runs import step_results
from quantnas.runs.run_folder import STEPS, Run


def collect(run: Run) -> dict[str, Any]:
    """Return settings, environment, genotype and step results of a run.

    Raises DataError or UsageError for a file that is missing or damaged.
    """
    steps = {step: run.whole_result(step) for step in STEPS[:-1]}
    return {
        "run": run.folder.name,
        "config": step_results.settings(run.folder),
        "environment": step_results.environment(run.folder),
        "genotype": read_json(run.folder / "genotype.json"),
        "plots": sorted(path.name for path in (run.folder / "plots").glob("*.png")),
        **{step: result for step, result in steps.items() if result is not None},
    }


def markdown(data: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    evaluated, config = data["evaluate"], data["config"]
    lines = [
        f"# {data['run']}",
        "",
        f"x{evaluated['scale']} super-resolution, space `{config['space']}`, "
        f"seed {config['seed']}, weights {bits(data)}.",
        "",
        "## Quality of the exported file",
        "",
        f"Protocol: {evaluated['protocol']}. The file was run by ONNX Runtime.",
        "",
        *_scores(evaluated["sets"]),
        "",
        "![Crop](plots/crop.png)",
        "",
        *_cost(data["export"]),
        "",
        "## Verification",
        "",
        "\n\n".join(verification(data)),
        "",
        *_search(data),
        "## Steps",
        "",
        *_steps(data),
        "",
        *_cut(data),
        f"Made with `{shlex.join(data['environment'].get('command', []))}`.",
    ]
    return "\n".join(lines) + "\n"


def _cost(export: dict[str, Any]) -> Iterator[str]:
    cost = export["cost"]
    yield "## Cost"
    yield ""
    yield (
        f"{cost['parameters']:,} parameters, {cost['weight_bytes']:,} bytes of packed weights, "
        f"file of {export['bytes']:,} bytes."
    )
    yield ""
    yield "| resolution | MACs | BitOps |"
    yield "|---|---|---|"
    for resolution, macs in cost["macs"].items():
        bitops = cost["bitops"][resolution]
        yield f"| {resolution} | {macs / 1e9:.3f} G | {bitops / 1e9:.3f} G |"
    yield ""
    yield (
        "BitOps = sum over all convolutions of MACs x weight bits x activation bits. Below 8 bits "
        "the gain is file size and BitOps; ONNX Runtime computes in 8 bits."
    )
    yield ""
    yield "![Architecture](plots/architecture.png)"
    yield ""
    yield from _layers(cost["layers"])


def verification(data: dict[str, Any]) -> Iterator[str]:
    """Yield sentences that compare the exported file with the network in PyTorch."""
    found, versions = data["export"]["verification"], data["environment"].get("versions", {})
    yield (
        f"{found['integer_convolutions']} of {found['convolutions']} convolutions run in integers "
        f"in ONNX Runtime {versions.get('onnxruntime', '')}. Against the network in torch, on "
        f"{found['images']} photographs: at most {found['max_steps']} of 255 steps, "
        f"{found['share_different']:.3%} of the values differ, {_db(found['psnr'])}."
    )
    if found.get("sensitivity") is not None:
        yield (
            "This deep network is sensitive to rounding, and the file was accepted because it "
            f"differs no more than that explains: file and torch by {_db(found['psnr'])}, the "
            f"network with its own arithmetic noise by {_db(found['sensitivity'])}."
        )


def _search(data: dict[str, Any]) -> Iterator[str]:
    """Yield the best network of the search and the pictures of the search."""
    best, kept = data["search"].get("best"), data["search"].get("kept")
    if best is not None:
        yield "## Search"
        yield ""
        yield (
            f"The best network decided on the way (epoch {best['epoch']}) had "
            f"{best['psnr']:.2f} dB on validation patches, rounded, with the weights of the "
            f"supernet, and {best['bitops'] / 1e9:.3f} GBitOps; used is '{kept}'."
        )
        yield ""
    for name in ("search", "alphas"):
        if f"{name}.png" in data["plots"]:
            yield f"![{name.capitalize()}](plots/{name}.png)"
            yield ""


def bits(data: dict[str, Any]) -> str:
    """Return the bit widths of a run in words."""
    result = data.get("quantize", {})
    if not isinstance(result.get("bits"), int):
        return "as searched"
    return f"{result['bits']} bits between first and last layer, activations {result['act_bits']}"


def _db(psnr: float | None) -> str:
    return "equal" if psnr is None else f"{psnr:.1f} dB"


def _scores(sets: dict[str, Any]) -> Iterator[str]:
    yield "| photograph | bicubic | float network | **file** | file over bicubic | to float |"
    yield "|---|---|---|---|---|---|"
    for name, scores in sets.items():
        rows = list(zip(scores["file"], scores["float"], strict=True))
        single = rows if name == "held-out" else []
        for row, float_row in [*single, (scores["mean"], scores["float_mean"])]:
            label = f"**{name}, mean of {len(scores['file'])}**"
            label = row["image"] if row is not scores["mean"] else label
            yield (
                f"| {label} | {row['bicubic_psnr']:.2f} / {row['bicubic_ssim']:.4f} "
                f"| {float_row['psnr']:.2f} / {float_row['ssim']:.4f} "
                f"| {row['psnr']:.2f} / {row['ssim']:.4f} "
                f"| {row['psnr'] - row['bicubic_psnr']:+.2f} dB | {_close(row)} |"
            )
    yield ""
    yield "PSNR-Y in dB / SSIM-Y. Last: PSNR-Y of the file against the float network."


def _close(row: dict[str, Any]) -> str:
    """PSNR of the file against the float network, which runs of earlier versions lack."""
    value = row.get("to_float")
    return "-" if value is None else f"{value:.2f} dB"


def _layers(layers: list[dict[str, Any]]) -> Iterator[str]:
    yield "| layer | operation | kernel | weight bits | activation bits | MACs at LR 32x32 |"
    yield "|---|---|---|---|---|---|"
    for row in layers:
        shape = "x".join(str(n) for n in row["shape"])
        yield (
            f"| {row['name']} | {row['op']} | {shape} | {row['weight_bits']} "
            f"| {row['act_bits']} | {row['macs']:,} |"
        )


def _steps(data: dict[str, Any]) -> Iterator[str]:
    yield "| step | seconds | what it left |"
    yield "|---|---|---|"
    for step in ("search", "train", "quantize"):
        result = data.get(step)
        if result is not None:
            yield f"| {step} | {result['seconds']:.0f} | {', '.join(facts(result))} |"


def _cut(data: dict[str, Any]) -> Iterator[str]:
    """Yield the table of the tensors of which the grids cut values."""
    rows = data.get("quantize", {}).get("cut")
    if rows:
        yield "## Values beyond the grids"
        yield ""
        yield "Share of the values of a tensor that its grid cuts, on held-out photographs."
        yield ""
        yield "| tensor | bits | share |"
        yield "|---|---|---|"
        for row in rows:
            yield f"| {row['tensor']} | {row['bits']} | {row['share']:.3%} |"
        yield ""


def facts(result: dict[str, Any]) -> Iterator[str]:
    """Yield the results of a step as text, without those that the report shows elsewhere."""
    skip = {
        "step",
        "sha256",
        "seconds",
        "bitops",
        "bitops_at",
        "best",
        "samples",
        "trial",
        "photographs",
    }
    if result.get("kept") in ("nothing to choose", "best of random"):
        skip.add("share_decided")
    for key, value in result.items():
        if key == "reached":
            yield from facts(value)
        elif key == "kept_bits" and value is not None:
            yield value
        elif key == "cut" and value:
            worst = ", ".join(f"{row['tensor']} {row['share']:.2%}" for row in value[:3])
            yield f"most values beyond the grid on held-out photographs: {worst}"
        elif key not in skip and value not in (None, []):
            yield f"{key.replace('_', ' ')} {_shown(value)}"
    counts = result.get("photographs")
    if counts is not None:
        yield (
            f"{counts['used']} photographs ({counts['too_small']} too small, "
            f"{len(counts['damaged'])} damaged)"
        )


def _shown(value: Any) -> str:
    """Return a value as short text; of a list, its length."""
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, list):
        return f"{len(value)} layers"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
