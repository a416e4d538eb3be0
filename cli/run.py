"""`quantnas run`: all steps, from photographs to a verified file and a report."""

from quantnas.runs import Run

from . import console, options, start


def run(
    space: options.Space = None,
    scale: options.Scale = None,
    data: options.Data = None,
    eval_data: options.EvalData = None,
    benchmark: options.Benchmark = None,
    bits: options.Bits = None,
    seed: options.Seed = None,
    device: options.Device = None,
    config: options.Config = None,
    settings: options.Set = None,
    output: options.Output = options.ROOT,
    name: options.Name = None,
    resume: options.Resume = None,
) -> None:
    """Search, train, quantize, export, evaluate and report, in one go.

    Example: quantnas run --data my_photographs --scale 2

    Without --data it learns from bundled photographs.

    Ctrl-C saves the state, and the command that continues is printed.
    """
    from quantnas import runs

    flags = {
        "space": space,
        "scale": scale,
        "data": data,
        "eval_data": eval_data,
        "benchmarks": benchmark or None,
        "bits": bits,
        "seed": seed,
        "device": device,
    }
    if resume is not None:
        options.only_resume(name=name, config=config, set=settings, **flags)
        target, chosen = start.resumed(resume)
    else:
        chosen = options.configuration({}, config, settings, **flags)
        target = start.fresh("run", output, name, chosen)
    console.perform(target, chosen, list(runs.STEPS), "run")
    summary(target)


def summary(target: Run) -> None:
    """The results of a whole run, and what to do with them."""
    evaluated, exported = target.result("evaluate"), target.result("export")
    assert evaluated is not None and exported is not None
    for line in [*console.scores(evaluated), console.export_line(exported)]:
        console.say(line, target)
    console.say(f"report: {target.folder / 'report.md'}", target)
    console.next_commands(
        f"upscale PHOTO -m {target.folder / 'model.onnx'} -o LARGER.png",
        f"quantize {target.folder} --bits 2",
    )
