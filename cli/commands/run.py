"""`quantnas run`: all steps, from photographs to a verified file and a report."""

from typing import TYPE_CHECKING

from .. import console, options

if TYPE_CHECKING:
    from quantnas.api import Run


def run(
    space: options.Space = None,
    target_bitops: options.TargetBitops = None,
    at: options.At = None,
    penalty: options.Penalty = None,
    strategy: options.Strategy = None,
    keep: options.Keep = None,
    epochs: options.Epochs = None,
    processes: options.Processes = None,
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
    tensorboard: options.Tensorboard = False,
) -> None:
    """Search, train, quantize, export, evaluate and report, in one go.

    Example: quantnas run rfdn_small --data my_photographs --target-bitops 1.0G

    Without --data, it learns from the bundled photographs.

    Ctrl-C saves the state and prints the command that continues.
    """
    from quantnas.api import run_verbs

    flags = {
        "space": space,
        "scale": scale,
        "data": data,
        "eval_data": eval_data,
        "benchmarks": benchmark or None,
        **options.bit_widths(bits),
        "seed": seed,
        "device": device,
    }
    flags |= options.searching(target_bitops, at, penalty, strategy, keep, epochs, processes)
    flags["train.processes"] = processes
    new = options.New(config, settings, flags, output, name)
    with console.Display("run", tensorboard=tensorboard) as watch, options.named(flags):
        if resume is not None:
            new.require_none("SPACE")
            target = run_verbs.resume(resume, verb="run", watch=watch)
        else:
            target = run_verbs.run(**new.arguments, watch=watch)
    summary(target)


def summary(target: "Run") -> None:
    """Print the results of a whole run, and what to do with them."""
    evaluated, exported = target.result("evaluate"), target.result("export")
    assert evaluated is not None and exported is not None
    for line in [*console.scores(evaluated), *console.export_lines(exported)]:
        console.say(line, target)
    console.say(f"report: {target.folder / 'report.md'}, {target.folder / 'report.html'}", target)
    console.next_commands(
        ["upscale", "PHOTO", "-m", target.folder / "model.onnx", "-o", "LARGER.png"],
        ["quantize", target.folder, "--bits", 2],
    )
