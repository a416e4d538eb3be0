"""Exports a small network in every form of file, to find out which of them run on this machine.

The files are written by `onnx_export` and `extra_formats`, as those of a run are, and held to the
same limits by `verification`. The network has random weights.
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantnas.architectures import network, registry
from quantnas.config import genotype as genotypes
from quantnas.config import search_space
from quantnas.config.files import to_json
from quantnas.config.genotype import Choice, Genotype
from quantnas.config.run_config import ExportConfig, RunConfig
from quantnas.data.patches import to_tensor
from quantnas.errors import QuantnasError, UsageError
from quantnas.exporters import onnx_export, verification
from quantnas.exporters.packed_weights import STORAGE
from quantnas.pipeline import extra_formats
from quantnas.quantization import post_training
from quantnas.runs.networks import quantized
from quantnas.runs.run_folder import Run

from .findings import Check

SPACE, CHANNELS, CELLS, SIZE = "rfdn_small", 8, 1, "20x24"
"""The search space of the network, its size, and HEIGHTxWIDTH of the low-resolution image."""
CONTRAST = 0.2
"""Standard deviation of the last convolution's output, for pixels in [0, 1]."""
WIDTHS = tuple(sorted(STORAGE, reverse=True))
"""Weight bits that can be stored, descending."""
REPORT = (
    "Install the versions of constraints.txt; if that does not help, report it with the output of "
    "`quantnas doctor --json`."
)


@dataclass(frozen=True)
class Case:
    """A form of file at a bit width."""

    name: str
    bits: int
    form: ExportConfig = onnx_export.USUAL

    @property
    def main(self) -> bool:
        """Whether a run with its usual settings writes such a file."""
        return self.form == onnx_export.USUAL and self.bits in (8, 4)


CASES = (
    *(Case(f"{bits}-bit file", bits) for bits in WIDTHS),
    *(Case(f"{bits}-bit --compat", bits, ExportConfig(compat=True)) for bits in WIDTHS[1:]),
    Case("8-bit --uint8-io", 8, ExportConfig(uint8_io=True)),
    Case("8-bit --plain", 8, ExportConfig(plain=True)),
    Case("8-bit --size", 8, ExportConfig(size=SIZE)),
    *(
        Case(f"--format {name}", 8, ExportConfig(format=name, size=SIZE))  # type: ignore[arg-type]
        for name in extra_formats.FORMATS
    ),
)
"""All forms of file that `quantnas export` can write."""


def tried(case: Case) -> Check:
    """The check of a form: write such a file, run it, and compare it with torch."""
    try:
        with tempfile.TemporaryDirectory(prefix="quantnas-") as folder, _isolated():
            return Check(case.name, "ok", _compare(case, _run(Path(folder), case.bits)))
    except Exception as error:  # whatever onnx or ONNX Runtime raise
        return refused(case, error)


def refused(case: Case, error: Exception) -> Check:
    """The check of a file that cannot be written, cannot be run, or differs from torch."""
    if isinstance(error, UsageError):  # an optional package is missing
        return Check(case.name, "note", error.cause, error.remedy)
    if not isinstance(error, QuantnasError):
        text = " ".join(str(error).split())[:300].rstrip(".")
        finding = f"It fails unexpectedly: {type(error).__name__}: {text}."
        return Check(case.name, "problem", finding, REPORT, case.main)
    remedy = error.remedy if "does not load" in error.cause else REPORT
    return Check(case.name, "problem", error.cause, remedy, case.main)


@contextmanager
def _isolated() -> Iterator[None]:
    """Within this context, torch has random numbers of its own, and computes with one thread.

    For networks this small, a second thread on a busy core costs ten times as long.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _compare(case: Case, run: Run) -> str:
    """Write the file into the run and compare it with torch; the result, in words."""
    if case.form.format in extra_formats.FORMATS:
        extra = extra_formats.FORMATS[case.form.format](
            run, RunConfig(export=case.form), [_image()]
        )
        return f"{extra.compared}."
    space, net, totals = quantized(run)
    path = run.path("model.onnx")
    onnx_export.to_onnx(net, totals, space.scale, path, case.form)
    verified = verification.verify(path, net, [_image()])
    steps = verified.max_steps
    away = f"at most {steps} of 255 steps from torch" if steps else "equal to torch"
    counts = f"{verified.integer_convolutions} of {verified.convolutions}"
    return f"runs; {counts} convolutions in integers, {away}."


def _image() -> NDArray[np.uint8]:
    """An image of noise (H, W, 3), in which all uint8 values occur."""
    height, width = ExportConfig(size=SIZE).sides or (0, 0)
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def _run(folder: Path, bits: int) -> Run:
    """A run with a float and a quantized network, as the steps before `export` leave it.

    Every slot has the last operation of its space; the weights are random.
    """
    run, low = Run(folder), to_tensor(_image()[None])
    space = dataclasses.replace(search_space.load(SPACE), channels=CHANNELS, cells=CELLS)
    slots = registry.slots(space)
    choices = {s.name: Choice(s.ops[-1], s.weight_bits[0], s.act_bits[0]) for s in slots}
    genotype, precision = Genotype(SPACE, choices), genotypes.uniform_precision(slots, bits)
    run.path("space.yaml").write_text(search_space.to_yaml(space), encoding="utf-8")
    run.path("genotype.json").write_text(genotype.to_json(), encoding="utf-8")
    rows = {name: dataclasses.asdict(one) for name, one in precision.items()}
    run.path("precision.json").write_text(to_json(rows), encoding="utf-8")
    plain, net = network.build(space, genotype, None), network.build(space, genotype, precision)
    _amplify(plain.eval(), low)
    network.inherit(net, plain)
    network.initialise(net, low)
    network.save(plain, run.weights("float"), space)
    network.save(post_training.freeze(net), run.weights("quantized"), space)
    return run


@torch.no_grad()
def _amplify(net: torch.nn.Module, low: Tensor) -> None:
    """Scale the last convolution up, so that errors inside the network are visible in the output.

    low: (N, 3, H, W). New networks upscale by repeating pixels, and add hardly anything to that.
    """
    *_, last = network.convolutions(net).values()
    assert last.bias is not None
    seen: list[Tensor] = []
    with network.hooked(net, lambda conv, args, out: seen.append(out)):
        net(low)
    last.weight.mul_(CONTRAST / seen[-1].std())
    last.bias.zero_()
    last.bias.add_(0.5 - net(low).mean())
