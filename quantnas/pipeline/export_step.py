"""The step `export` writes the quantized network as a verified ONNX file."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from quantnas.architectures import cost, registry
from quantnas.architectures.imported_onnx import ImportedNetwork, read
from quantnas.config import files
from quantnas.config.run_config import ExportConfig, RunConfig
from quantnas.config.search_space import SearchSpace
from quantnas.data import bicubic, patches, photographs
from quantnas.errors import UsageError
from quantnas.evaluation import metrics
from quantnas.exporters import graph_surgery, onnx_export, verification
from quantnas.inference import tiling, upscaler
from quantnas.progress import Progress
from quantnas.runs.networks import need, quantized
from quantnas.runs.run_folder import Run
from quantnas.runs.run_photographs import photographs_of

from . import extra_formats

SAMPLE = 768
"""Side of the central crop of a photograph on which a file is compared with torch, pixels."""


def export_step(run: Run, config: RunConfig) -> Iterator[Progress]:
    """Export the quantized network; it is called model.onnx once it has been verified.

    A further format that `export.format` names is written next to it.
    """
    write_extra = extra_formats.FORMATS.get(config.export.format)
    parts = 2 if write_extra is None else 3
    yield Progress("export", 0, parts, {})
    space, net, totals = quantized(run)
    _require_sides(space, config.export)
    pairs = [sample_pair(photo, space.scale) for photo in photographs_of(run, config).held_out[:2]]
    samples = [p.low for p in pairs]
    samples.append(samples[0][: len(samples[0]) * 2 // 3 | 1])  # a second size, with odd sides
    target, candidate = run.path("model.onnx"), run.path("model.rejected.onnx")
    notes = _write(net, totals, space, candidate, config.export)
    yield Progress("export", 1, parts, {"bytes": str(candidate.stat().st_size)}, notes)
    verified = verification.verify(candidate, net, samples)
    candidate.replace(target)
    yield Progress("export", 2, parts, {"max difference": f"{verified.max_steps} steps"})
    result = {
        "file": target.name,
        "bytes": target.stat().st_size,
        "sha256": files.sha256(target),
        "verification": verified,
        "psnr": None
        if of_one_size(space)
        else _quality(exported_upscaler(run, config, space), pairs, space.scale),
        "cost": totals,
    }
    if write_extra is not None:
        extra = write_extra(run, config, samples)
        result["beside"] = extra
        yield Progress("export", 3, parts, {"bytes": str(extra.bytes)})
    run.finish("export", result)


def _write(
    net: nn.Module, totals: cost.Cost, space: SearchSpace, path: Path, form: ExportConfig
) -> tuple[str, ...]:
    """Write the ONNX file; the notes about it."""
    if not isinstance(net, ImportedNetwork):
        onnx_export.to_onnx(net, totals, space.scale, path, form)
        return ()
    surgery = graph_surgery.to_onnx(net, totals, space, path, form)
    return (f"note: {surgery.note}",) if surgery.note else ()


def _require_sides(space: SearchSpace, form: ExportConfig) -> None:
    least = registry.smallest(space)
    if form.sides and min(form.sides) < least:
        raise UsageError(
            f"`export.size` is {form.size}, but skeleton '{space.skeleton}' needs {least} pixels.",
            "Make it larger.",
        )


def of_one_size(space: SearchSpace) -> bool:
    """Whether the space is an imported network whose file only takes images of one size."""
    return bool(space.source) and read(space.source).entry.height is not None


def _quality(
    upscale: upscaler.Upscaler, pairs: Sequence[patches.Pair], scale: int
) -> dict[str, float]:
    """Mean PSNR-Y in dB of a file, and of bicubic, on central crops of photographs."""
    scores = [metrics.psnr_y(upscale(p.low), p.high, scale) for p in pairs]
    plain = [metrics.psnr_y(bicubic.upscale(p.low, scale), p.high, scale) for p in pairs]
    means = {"file": sum(scores) / len(scores), "bicubic": sum(plain) / len(plain)}
    return {**means, "photographs": len(pairs), "side": SAMPLE}


def _file_of_any_size(run: Run, config: RunConfig) -> Path:
    """The path of model.onnx or, if that only takes one size, of a copy that takes any size."""
    file = need(run.path("model.onnx"), "export")
    if config.export.sides is None:
        return file
    space, net, totals = quantized(run)
    copy = run.path("checkpoints/any_size.onnx")
    onnx_export.to_onnx(net, totals, space.scale, copy, replace(config.export, size="any"))
    return copy


def exported_upscaler(run: Run, config: RunConfig, space: SearchSpace) -> upscaler.Upscaler:
    """The exported file as an upscaler of images of any size."""
    pixels = space.pixels if space.source else None
    return tiling.whole_upscaler(_file_of_any_size(run, config), space.scale, pixels)


def sample_pair(photo: photographs.Photograph, scale: int) -> patches.Pair:
    """A photograph's central crop, `SAMPLE` pixels wide at most, in low and high resolution."""
    return photographs.middle(photographs.read(photo, scale), SAMPLE)
