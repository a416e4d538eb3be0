"""`quantnas quantize`: a trained network quantized to few bits."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantnas.config import quantities
from quantnas.config.run_config import QuantizeConfig
from quantnas.errors import PredictionError, QualityError, UsageError

from .. import console, options, quantize_summary

if TYPE_CHECKING:
    from quantnas.api import Run

Network = Annotated[
    Path | None,
    typer.Argument(
        help="Folder of a trained run, a safetensors file with the weights of a float network, or "
        "an ONNX file with a third-party float network.",
        metavar="RUN|FILE",
    ),
]
TargetBitops = Annotated[
    str | None,
    typer.Option(
        help="Choose bit widths for every layer, 2, 3, 4 or 8 for weights and 4 or 8 for "
        "activations, so that the damage is least within so many BitOps at --at: 4.0G, 500M.",
        metavar="NUMBER",
    ),
]
TargetSize = Annotated[
    str | None,
    typer.Option(
        help="Choose weight bits for every layer, 2, 3, 4 or 8, so that the damage is least within "
        "so many bytes of packed weights: 150K. The graph of the file is not counted.",
        metavar="NUMBER",
    ),
]
AverageBits = Annotated[
    float | None,
    typer.Option(
        help="Choose weight bits for every layer, 2, 3, 4 or 8, so that the damage is least within "
        "so many bits per weight on average, first and last convolution not counted: 2.5."
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        help="Low-resolution size at which the BitOps of --target-bitops are counted.",
        show_default=f"that of RUN, else {QuantizeConfig.at}",
        metavar="HEIGHTxWIDTH",
    ),
]
Ends = Annotated[
    int | None,
    typer.Option(
        help="Bit width of the first and the last convolution, for weights and activations: "
        "2, 3, 4 or 8. Fewer than 8 bits cost much quality. In an ONNX file they are those that "
        "read the image or make the pixels.",
        show_default=f"those of RUN, else {QuantizeConfig.ends}",
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        help="Method: saliency, or a baseline to compare with, which is not retrained: rtn, "
        "minmax, adaround, gptq, gpfq or qronos.",
        show_default=f"that of RUN, else {QuantizeConfig.method}",
    ),
]
Train = Annotated[
    str | None,
    typer.Option(
        help="Parameters that are retrained after rounding: weights (with the grids), lowrank:8 "
        "(an update of that rank, or of another one), clip (the grids alone) or none.",
        show_default=f"that of RUN, else {QuantizeConfig.train}",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        help=f"Steps of retraining, {QuantizeConfig.batch} crops each; 0 = none.",
        show_default=f"those of RUN, else {QuantizeConfig.steps}",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        help="Minutes that the whole command may take, without the measuring at its end; "
        "retraining gets what reading and least squares leave of them. Replaces --steps."
    ),
]
Calib = Annotated[
    str | None,
    typer.Option(
        help="Folder of any photographs, on which grids and bit widths are calibrated and the "
        "network is retrained. High resolution is not needed: with --set quantize.reduce=false "
        "they are taken as low resolution.",
        show_default="those of the run, or the bundled ones",
    ),
]
Carry = Annotated[
    str | None,
    typer.Option(
        metavar="FORM",
        help="How the tensors of a third-party network are carried between its convolutions: "
        "integer (8 bits everywhere: fastest), float (least loss, and slower than the float file) "
        "or auto: 8 bits, but float where the rounding costs much for the time that it saves.",
        show_default=f"that of RUN, else {QuantizeConfig.carry}",
    ),
]
CarryDrop = Annotated[
    float | None,
    typer.Option(
        help="Loss against --carry float, dB, that --carry auto accepts, before least squares; 1.5 "
        "times that where a retraining follows.",
        show_default=f"that of RUN, else {QuantizeConfig.carry_drop:g}",
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        help="Loss against the float network, dB, that is accepted on every measured set of "
        "photographs: the difference of their PSNR. Where bicubic beats the float network, as with "
        "networks that sharpen, it is what an error as large as that against the float network "
        "would take from bicubic's PSNR. Beyond it, the exit code is 5; the files are kept."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        help="Export too, and write the verified ONNX file here. For an ONNX file as input, it is "
        "that file with other convolutions, and is used in the same way; half precision and a "
        "stated number of images become float32 and one image.",
        metavar="FILE",
    ),
]
Space = Annotated[
    str | None,
    typer.Option(
        help="Search space of the weights in FILE: a built-in one or a YAML file.",
        show_default="the one that the file names",
    ),
]
Genotype = Annotated[
    Path | None,
    typer.Option(
        help="JSON file with the genotype of the weights in FILE, for a search space that leaves "
        "choices open."
    ),
]


def quantize(
    network: Network = None,
    bits: options.Bits = None,
    target_bitops: TargetBitops = None,
    target_size: TargetSize = None,
    average_bits: AverageBits = None,
    at: At = None,
    ends: Ends = None,
    method: Method = None,
    train: Train = None,
    steps: Steps = None,
    minutes: Minutes = None,
    calib: Calib = None,
    carry: Carry = None,
    carry_drop: CarryDrop = None,
    max_drop: MaxDrop = None,
    out: Out = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of -o.")] = False,
    space: Space = None,
    scale: options.Scale = None,
    genotype: Genotype = None,
    eval_data: options.EvalData = None,
    benchmark: options.Benchmark = None,
    seed: options.Seed = None,
    device: options.Device = None,
    config: options.Config = None,
    settings: options.Set = None,
    output: options.Output = options.ROOT,
    name: options.Name = None,
    resume: options.Resume = None,
) -> None:
    """Quantize a trained network to 2, 3, 4 or 8 bits, to a mixture of them, or as searched.

    Example: quantnas quantize runs/run/rfdn_small --bits 2

    Example: quantnas quantize runs/run/rfdn_small --average-bits 3 --minutes 5 --max-drop 0.5

    Example: quantnas quantize weights.safetensors --space rfdn50 --bits w4a4

    Example: quantnas quantize theirs.onnx --bits 4 -o small.onnx

    Saliency predicts the damage of each layer. Least squares sets grids and weights, layer by
    layer; then a short retraining follows the float network. No high resolution is needed.

    Ctrl-C saves the state of the retraining and prints the command that continues.
    """
    from quantnas.api import run_verbs

    flags = {
        **options.bit_widths(bits),
        "quantize.target_bitops": _number(target_bitops, "--target-bitops"),
        "quantize.target_size": _number(target_size, "--target-size"),
        "quantize.average_bits": average_bits,
        "quantize.at": at,
        "quantize.ends": ends,
        "quantize.method": method,
        "quantize.train": train,
        "quantize.steps": steps,
        "quantize.minutes": minutes,
        "quantize.calib": calib,
        "quantize.carry": carry,
        "quantize.carry_drop": carry_drop,
        "quantize.max_drop": max_drop,
        "space": space,
        "scale": scale,
        "genotype": None if genotype is None else str(genotype),
        "eval_data": eval_data,
        "benchmarks": benchmark,
        "seed": seed,
        "device": device,
    }
    _require_used(flags)
    if out is not None:
        _require_file(out, force)
    new, worse = options.New(config, settings, flags, output, name), None
    with _Display(None if resume else network, flags, out) as watch, options.named(flags):
        try:
            if resume is not None:
                new.require_none("RUN", RUN=network)
                target = run_verbs.resume(resume, verb="quantize", watch=watch)
            else:
                target = run_verbs.quantize(_required(network), **new.arguments, watch=watch)
        except QualityError as error:  # raised again when everything is written and printed
            assert error.folder is not None
            target, worse = run_verbs.Run(error.folder), error
    quantize_summary.tell(target)
    if out is not None and not isinstance(worse, PredictionError):
        with console.Display("export") as watch:
            run_verbs.export(target, out, watch=watch)
        for line in console.export_lines(target.result("export") or {}):
            console.say(line, target)
    if worse is not None:
        raise worse
    console.next_commands(["export", target.folder] if out is None else ["evaluate", out])


class _Display(console.Display):
    """Prints remarks on the settings before the run begins."""

    def __init__(self, network: Path | None, flags: dict[str, Any], out: Path | None) -> None:
        super().__init__("quantize")
        self.network, self.flags, self.out = network, flags, out

    def begin(self, run: "Run") -> None:
        if self.network is not None:
            for line in _remarks(self.network, run, self.flags):
                console.say(line, run)
        super().begin(run)
        if self.out is not None:  # a run does not remember it
            self.again = f"{self.again} -o {shlex.quote(str(self.out))}"


def _required(network: Path | None) -> Path:
    """The network to quantize. Raises UsageError where none is given."""
    if network is None:
        raise UsageError(
            "`quantnas quantize` needs a run to go on from.",
            "Give its folder, as in: quantnas quantize runs/run/rfdn_small",
        )
    return network


def _require_file(out: Path, force: bool) -> None:
    """Raise UsageError or DataError for a file that cannot be written."""
    from quantnas.config import files

    if out.suffix == ".tflite":
        raise UsageError(
            f"The file is called {out}, but an ONNX file is written.",
            "Let it end in .onnx; `quantnas export RUN --format tflite` writes the other one.",
        )
    console.refuse_existing(out, force)
    files.require_writable(out)


def _number(text: str | None, option: str) -> float | None:
    return None if text is None else quantities.number(text, option)


def _require_used(flags: dict[str, Any]) -> None:
    """Raise UsageError when one option makes another one meaningless."""
    given = {name.rpartition(".")[2] for name, value in flags.items() if value is not None}
    names = [f"--{name}" for name in ("train", "steps", "minutes") if name in given]
    if flags["quantize.method"] not in (None, QuantizeConfig.method) and names:
        raise UsageError(
            f"{names[0]} is given, but --method {flags['quantize.method']} is not retrained.",
            "Leave one of them out.",
        )
    if flags["quantize.train"] == "none" and {"steps", "minutes"} & given:
        raise UsageError(
            f"{names[1]} is given, but with --train none nothing is retrained.",
            "Leave one of them out.",
        )
    if "carry_drop" in given and flags["quantize.carry"] not in (None, "auto"):
        raise UsageError(
            f"--carry-drop is given, but --carry {flags['quantize.carry']} leaves no choice.",
            "Leave one of them out.",
        )
    if "at" in given and "target_bitops" not in given:
        raise UsageError("--at is given without --target-bitops.", "Give both, or neither.")


def _remarks(network: Path, run: "Run", flags: dict[str, Any]) -> Iterator[str]:
    """Remarks on settings that cost quality, or that differ from those of the source run."""
    from quantnas.api import run_verbs

    now = run.config.quantize
    if now.ends < 8:
        yield "warning: few bits in the first and last convolution cost much"
    if network.is_file():
        return
    source = run_verbs.Run.open(network)
    begun = source.resumable or (source.folder / "precision.json").exists()
    if begun and source.result("quantize") is None:
        yield f"note: {network} is not quantized to its end; its float network is taken"
    before = source.config.quantize
    if flags["quantize.calib"] is None and before.calib and before.calib == now.calib:
        yield f"note: --calib {before.calib} is that of {network}"
    changed = "train" if before.method == now.method else "method"
    old, new = getattr(before, changed), getattr(now, changed)
    if begun and flags[f"quantize.{changed}"] is None and old != new:
        yield f"note: --{changed} is {new} here; for {network} it was {old}"
