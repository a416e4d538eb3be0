"""`quantnas train`: the network that a search decided on."""

from . import console, options, start


def train(
    source: options.Source = None,
    data: options.Data = None,
    seed: options.Seed = None,
    device: options.Device = None,
    config: options.Config = None,
    settings: options.Set = None,
    output: options.Output = options.ROOT,
    name: options.Name = None,
    resume: options.Resume = None,
) -> None:
    """Train a decided network: first in float, then with its bits.

    Example: quantnas train runs/search/rfdn_small --set train.float_steps=5000

    It starts from the weights of the supernet.
    """
    target, chosen = start.continued(
        "train", source, resume, output, name, config, settings,
        data=data, seed=seed, device=device,
    )  # fmt: skip
    console.perform(target, chosen, ["train"], "train")
    result = target.result("train")
    assert result is not None
    console.say(
        f"validation patches: float {result['psnr_patches_float']:.2f} dB, "
        f"with its bits {result['psnr_patches_rounded']:.2f} dB",
        target,
    )
    console.next_commands(f"quantize {target.folder} --bits 4", f"quantize {target.folder}")
