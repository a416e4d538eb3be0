"""`quantnas search`: an architecture and its bits."""

from typing import Any

from quantnas.runs.run_folder import Run

from .. import console, options


def search(
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
    seed: options.Seed = None,
    device: options.Device = None,
    config: options.Config = None,
    settings: options.Set = None,
    output: options.Output = options.ROOT,
    name: options.Name = None,
    resume: options.Resume = None,
    tensorboard: options.Tensorboard = False,
) -> None:
    """Search operations and bit widths for every edge of a space.

    Example: quantnas search rfdn_small --target-bitops 1.0G

    It leaves genotype.json, metrics.jsonl and pictures of the search (plots/).
    """
    from quantnas.api import run_verbs

    flags = {"space": space, "scale": scale, "data": data, "seed": seed, "device": device}
    flags |= options.searching(target_bitops, at, penalty, strategy, keep, epochs, processes)
    new = options.New(config, settings, flags, output, name)
    with console.Display("search", tensorboard=tensorboard) as watch, options.named(flags):
        if resume is not None:
            new.require_none("SPACE")
            target = run_verbs.resume(resume, verb="search", watch=watch)
        else:
            target = run_verbs.search(**new.arguments, watch=watch)
    result = target.result("search")
    assert result is not None
    console.say(found(target, result), target)
    pictures = sorted(str(path) for path in (target.folder / "plots").glob("*.png"))
    if pictures:
        console.say(f"pictures: {', '.join(pictures)}", target)
    console.next_commands(f"info {target.folder}", f"train {target.folder}")


def found(target: Run, result: dict[str, Any]) -> str:
    """What was found, in one line."""
    from quantnas.runs.run_settings import written

    config = written(target).search
    at, bitops = next(iter(result["bitops_at"].items()))
    wanted, sure = config.target_bitops, result["share_decided"]
    asked = "" if wanted is None else f" (target {wanted / 1e9:.3f})"
    decided = (
        f", {sure:.0%} of the edges decided (p > 0.9)" if config.strategy == "gradient" else ""
    )
    file = target.folder / "genotype.json"
    return f"found: {file}, {bitops / 1e9:.3f} GBitOps at LR {at}{asked}{decided}"
