"""Text and tables about one run for the template of a page."""

import base64
import io
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantnas.evaluation import layer_damage

from . import run_report
from .html_data import Shown


def of(one: Shown) -> dict[str, Any]:
    """Return the text and tables of a run, by the names that the template uses."""
    data, config = one.data, one.data["config"]
    cost, found = data["export"]["cost"], data["export"]["verification"]
    picture = one.folder / "plots" / "architecture.png"
    return {
        "name": one.name,
        "space": config["space"],
        "scale": one.scale,
        "seed": config["seed"],
        "bits": run_report.bits(data),
        "scores": one.scores,
        "bitops": one.bitops / 1e9,
        "kilobytes": one.bytes / 1000,
        "parameters": cost["parameters"],
        "integers": f"{found['integer_convolutions']} of {found['convolutions']}",
        "weight_bytes": cost["weight_bytes"],
        "costs": [(at, macs / 1e9, cost["bitops"][at] / 1e9) for at, macs in cost["macs"].items()],
        "layers": list(_layers(one)),
        "steps": list(steps(data)),
        "verification": list(run_report.verification(data)),
        "protocol": data["evaluate"]["protocol"],
        "environment": _environment(data["environment"]),
        "commands": list(commands(one.folder, data)),
        "sha256": data["export"].get("sha256"),
        "architecture": _webp(picture) if picture.exists() else None,
        "damages": one.damages and layer_damage.sentence(one.damages),
        "crops": one.damages,
        "views": bool(one.views and one.views.views),
        "best": data.get("search", {}).get("best"),
        "kept": data.get("search", {}).get("kept"),
    }


def _webp(picture: Path) -> dict[str, Any]:
    """Return a picture as lossless WebP in a data URI, with its width and height."""
    from PIL import Image

    content = io.BytesIO()
    with Image.open(picture) as image:
        image.save(content, "WEBP", lossless=True)
        return {"uri": uri(content.getvalue()), "width": image.width, "height": image.height}


def _layers(one: Shown) -> Iterator[dict[str, Any]]:
    """Yield rows of the table of layers; the damage of a slot stands at its first layer."""
    rows = one.data["export"]["cost"]["layers"]
    bitops = [row["macs"] * row["weight_bits"] * row["act_bits"] for row in rows]
    damages = {row.slot: row for row in one.damages.slots} if one.damages else {}
    for row, each in zip(rows, bitops, strict=True):
        name = row["name"]
        slot = name if name in damages else name.removesuffix(".0")
        damage = damages.get(slot)
        yield {
            **row,
            "kernel": "x".join(map(str, row["shape"])),
            "share": each / max(1, sum(bitops)),
            "predicted": damage and damage.predicted,
            "measured": damage and damage.measured,
        }


def steps(data: Mapping[str, Any]) -> Iterator[tuple[str, float, list[str]]]:
    """Yield every recorded step with its seconds and its facts."""
    for step in ("search", "train", "quantize"):
        result = data.get(step)
        if result is not None and "seconds" in result:
            yield step, result["seconds"], list(run_report.facts(result))


def _environment(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("Python", found.get("python")), ("machine", found.get("platform"))]
    rows += [("processor cores", found.get("cpu_count")), *found.get("versions", {}).items()]
    return [(name, str(value)) for name, value in rows if value is not None]


def commands(folder: Path, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (description, command line) of commands that repeat the run, and that made it.

    The settings alone cannot repeat a run whose initial weights came from another run or file.
    """
    start = data["config"].get("train", {}).get("start")
    if "adopted" not in data.get("train", {}) and start != "float":
        config = shlex.quote((folder / "config.yaml").as_posix())
        yield "all steps, with the settings that it has", f"quantnas run --config {config}"
    typed = [str(part) for part in data["environment"].get("command", [])]
    if typed:
        yield "as it was typed", shlex.join(typed)


def bits(data: Mapping[str, Any]) -> str:
    """Return the bit widths of a run in a few letters, such as `w4a8`."""
    result = data.get("quantize", {})
    weight_bits, limit = result.get("bits"), result.get("limit")
    if isinstance(weight_bits, int):
        return f"w{weight_bits}a{result['act_bits']}"
    return "as searched" if limit is None else f"{str(weight_bits).replace('_', ' ')} {limit:g}"


def uri(content: bytes) -> str:
    """Return a picture in WebP as a data URI."""
    return "data:image/webp;base64," + base64.b64encode(content).decode("ascii")
