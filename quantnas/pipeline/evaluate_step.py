"""The step `evaluate` measures the exported file on held-out photographs and benchmarks."""

from collections.abc import Iterator

from quantnas.architectures import network
from quantnas.config.run_config import RunConfig
from quantnas.evaluation import model_comparison, scoring
from quantnas.inference import tiling
from quantnas.progress import Progress
from quantnas.runs.networks import architecture, need
from quantnas.runs.run_folder import Run

from . import export_step


def evaluate_step(run: Run, config: RunConfig) -> Iterator[Progress]:
    """Measure the exported file, the float network and bicubic on photographs never trained on."""
    space, genotype = architecture(run)
    file = export_step.exported_upscaler(run, config, space)
    teacher = network.build(space, genotype, None)
    network.load(teacher, need(run.weights("float"), "train"), space)
    plain = tiling.whole_upscaler(teacher, space.scale)
    sets = model_comparison.sets_of(run, config, space.scale)
    upscalers = {"file": file, "float": plain}
    table = yield from model_comparison.measure(upscalers, sets, space.scale, {"file": plain})
    results = {
        name: {
            "file": scores["file"],
            "mean": scoring.mean(scores["file"]),
            "float": scores["float"],
            "float_mean": scoring.mean(scores["float"]),
        }
        for name, scores in table.items()
    }
    run.finish(
        "evaluate",
        {
            "protocol": scoring.protocol(photo for group in sets for photo in group.photos),
            "scale": space.scale,
            "sets": results,
        },
    )
