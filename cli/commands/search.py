"""`quantnas search`: the search for an architecture and its bit widths."""

from typing import TYPE_CHECKING, Any

from .. import console, options

if TYPE_CHECKING:
    from quantnas.api import Run


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

    The run folder holds genotype.json, metrics.jsonl and pictures of the search (plots/).
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
    console.next_commands(["info", target.folder], ["train", target.folder])


def found(target: "Run", result: dict[str, Any]) -> str:
    """The found architecture in one line: its file, its cost, how clearly it was decided."""
    config = target.config.search
    at, bitops = next(iter(result["bitops_at"].items()))
    budget, sure = config.target_bitops, result["share_decided"]
    target_note = "" if budget is None else f" (target {budget / 1e9:.3f})"
    decided = (
        f", {sure:.0%} of the edges decided (p > 0.9)" if config.strategy == "gradient" else ""
    )
    file = target.folder / "genotype.json"
    return f"found: {file}, {bitops / 1e9:.3f} GBitOps at LR {at}{target_note}{decided}"
