"""`quantnas search`: an architecture and its bits."""

from . import console, options, start


def search(
    space: options.Space = None,
    scale: options.Scale = None,
    data: options.Data = None,
    seed: options.Seed = None,
    device: options.Device = None,
    config: options.Config = None,
    settings: options.Set = None,
    output: options.Output = options.ROOT,
    name: options.Name = None,
    resume: options.Resume = None,
) -> None:
    """Search operations and bit widths for every edge of a space.

    Example: quantnas search --space rfdn_small --set search.penalty=3e-4

    A larger search.penalty finds fewer BitOps.
    """
    flags = {"space": space, "scale": scale, "data": data, "seed": seed, "device": device}
    if resume is not None:
        options.only_resume(name=name, config=config, set=settings, **flags)
        target, chosen = start.resumed(resume)
    else:
        chosen = options.configuration({}, config, settings, **flags)
        target = start.fresh("search", output, name, chosen)
    console.perform(target, chosen, ["search"], "search")
    result = target.result("search")
    assert result is not None
    where, bitops = next(iter(result["bitops"].items()))
    console.say(
        f"found: {target.folder / 'genotype.json'}, {bitops / 1e9:.2f} GBitOps at {where}, "
        f"{result['share_decided']:.0%} of the edges decided",
        target,
    )
    console.next_commands(f"info {target.folder}", f"train {target.folder}")
