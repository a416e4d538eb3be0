"""`quantnas quantize`: a trained network on few bits."""

from . import console, options, start


def quantize(
    source: options.Source = None,
    bits: options.Bits = None,
    data: options.Data = None,
    seed: options.Seed = None,
    device: options.Device = None,
    config: options.Config = None,
    settings: options.Set = None,
    output: options.Output = options.ROOT,
    name: options.Name = None,
    resume: options.Resume = None,
) -> None:
    """Put a trained network on 2, 3, 4 or 8 bits, or on those that the search found.

    Example: quantnas quantize runs/run/rfdn_small --bits 2

    Example: quantnas quantize runs/run/rfdn_small --bits w4a4

    Grids of least error, bias correction, then a short training against the float network.
    """
    target, chosen = start.continued(
        "quantize", source, resume, output, name, config, settings,
        **options.widths(bits), data=data, seed=seed, device=device,
    )  # fmt: skip
    console.perform(target, chosen, ["quantize"], "quantize")
    result = target.result("quantize")
    assert result is not None
    plain = result["psnr_to_float_plain_rounding"]
    first = "" if plain is None else f"plain rounding {plain:.2f} dB, "
    console.say(
        f"closeness to the float network on validation patches: {first}"
        f"before training {result['psnr_to_float_before_training']:.2f} dB, "
        f"now {result['psnr_to_float']:.2f} dB",
        target,
    )
    console.next_commands(f"export {target.folder}")
