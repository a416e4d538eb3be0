"""The step `report` writes the tables, pictures and HTML page of a run."""

from collections.abc import Iterator

from quantnas.config.files import to_json, write_text
from quantnas.config.run_config import RunConfig
from quantnas.data import bicubic
from quantnas.evaluation import layer_damage
from quantnas.inference import tiling
from quantnas.progress import Progress
from quantnas.reporting import html_page, photo_slider, run_report
from quantnas.reporting.plots import architecture_diagram, crop_strip
from quantnas.runs.networks import architecture, quantized, teacher_of
from quantnas.runs.run_folder import Run, require
from quantnas.runs.run_photographs import photographs_of

from . import export_step


def report_step(run: Run, config: RunConfig) -> Iterator[Progress]:
    """Write report.json, report.md, report.html and the pictures."""
    require(run, until="report")
    yield Progress("report", 0, 5, {})
    space = architecture(run)[0]
    net, totals = quantized(run)[1:]
    architecture_diagram.architecture(net, space, totals.layers, run.path("plots/architecture.png"))
    yield Progress("report", 1, 5, {})
    teacher = teacher_of(run)
    photos = photographs_of(run, config).held_out
    p = export_step.sample_pair(photos[-1], space.scale)
    plain, file = (
        tiling.whole_upscaler(teacher, space.scale),
        export_step.exported_upscaler(run, config, space),
    )
    versions = {
        "bicubic": bicubic.upscale(p.low, space.scale),
        "float": plain(p.low),
        "quantized file": file(p.low),
        "original": p.high,
    }
    crop_strip.crops(versions, space.scale, p.name, run.path("plots/crop.png"))
    yield Progress("report", 2, 5, {})
    upscalers = {"float": plain, "quantized": file}
    photo_slider.make(run, photos, upscalers, space.scale, whole=export_step.of_one_size(space))
    yield Progress("report", 3, 5, {})
    if not export_step.of_one_size(space):
        layer_damage.measure(run, photos, teacher, net, config.quantize.patch)
    yield Progress("report", 4, 5, {})
    data = run_report.collect(run)
    write_text(run.path("report.json"), to_json(data))
    write_text(run.path("report.md"), run_report.markdown(data))
    html_page.write(html_page.of_run(run), run.path(html_page.FILE))
    written = ["report.json", "report.md", html_page.FILE, "plots", photo_slider.FOLDER]
    run.finish("report", {"files": written})
    yield Progress("report", 5, 5, {})
