"""Which forms of file, of all that can be exported, run here? A small network is exported in each.

The files are written by `export` and `formats`, as those of a run are, and held to the same limits
by `verify`. The network has random weights.
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
from quantnas.config import genotype, search_space
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
"""The network, and the height and width of the low resolution."""
CONTRAST = 0.2
"""Standard deviation of what the last convolution adds, of a range of 1."""
WIDTHS = tuple(sorted(STORAGE, reverse=True))
"""Bits of the weights."""
REPORT = (
    "Install the versions of constraints.txt; if that does not help, report it with the output of "
    "`quantnas doctor --json`."
)


@dataclass(frozen=True)
class Case:
    """A form of file."""

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
    Case("8-bit --size", 8, ExportConfig(size=SIZE)),
    *(
        Case(f"--format {name}", 8, ExportConfig(format=name, size=SIZE))  # type: ignore[arg-type]
        for name in extra_formats.FORMATS
    ),
)
"""Everything that `quantnas export` can write."""


def tried(case: Case) -> Check:
    """Write a file of that form, run it, compare it with torch."""
    try:
        with tempfile.TemporaryDirectory(prefix="quantnas-") as folder, _apart():
            return Check(case.name, "ok", _compared(case, _run(Path(folder), case.bits)))
    except Exception as error:  # whatever onnx or ONNX Runtime raise
        return refused(case, error)


def refused(case: Case, error: Exception) -> Check:
    """Of a file that cannot be written, does not run, or gives something else."""
    if isinstance(error, UsageError):  # without its extra
        return Check(case.name, "note", error.cause, error.remedy)
    if not isinstance(error, QuantnasError):
        text = " ".join(str(error).split())[:300].rstrip(".")
        finding = f"It fails unexpectedly: {type(error).__name__}: {text}."
        return Check(case.name, "problem", finding, REPORT, case.main)
    remedy = error.remedy if "does not load" in error.cause else REPORT
    return Check(case.name, "problem", error.cause, remedy, case.main)


@contextmanager
def _apart() -> Iterator[None]:
    """While this is open, torch draws numbers of its own, and computes with one thread.

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


def _compared(case: Case, run: Run) -> str:
    """Write the file into the run; with what it was compared, and what came out."""
    if case.form.format in extra_formats.FORMATS:
        made = extra_formats.FORMATS[case.form.format](run, RunConfig(export=case.form), [_image()])
        return f"{made.compared}."
    where, net, totals = quantized(run)
    path = run.path("model.onnx")
    onnx_export.to_onnx(net, totals, where.scale, path, case.form)
    found = verification.verify(path, net, [_image()])
    steps = found.max_steps
    away = f"at most {steps} of 255 steps from torch" if steps else "equal to torch"
    counts = f"{found.integer_convolutions} of {found.convolutions}"
    return f"runs; {counts} convolutions in integers, {away}."


def _image() -> NDArray[np.uint8]:
    """Noise (H, W, 3), so that all integers occur."""
    height, width = ExportConfig(size=SIZE).sides or (0, 0)
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def _run(folder: Path, bits: int) -> Run:
    """A run that holds a network in float and on integers, as the steps before export leave it.

    Every slot has the last operation of its space; the weights are random.
    """
    run, low = Run(folder), to_tensor(_image()[None])
    space = dataclasses.replace(search_space.load(SPACE), channels=CHANNELS, cells=CELLS)
    slots = registry.slots(space)
    choices = {s.name: Choice(s.ops[-1], s.weight_bits[0], s.act_bits[0]) for s in slots}
    found, precision = Genotype(SPACE, choices), genotype.uniform_precision(slots, bits)
    run.path("space.yaml").write_text(search_space.to_yaml(space), encoding="utf-8")
    run.path("genotype.json").write_text(found.to_json(), encoding="utf-8")
    rows = {name: dataclasses.asdict(one) for name, one in precision.items()}
    run.path("precision.json").write_text(to_json(rows), encoding="utf-8")
    plain, net = network.build(space, found, None), network.build(space, found, precision)
    _loud(plain.eval(), low)
    network.inherit(net, plain)
    network.initialise(net, low)
    network.save(plain, run.weights("float"), space)
    network.save(post_training.freeze(net), run.weights("quantized"), space)
    return run


@torch.no_grad()
def _loud(net: torch.nn.Module, low: Tensor) -> None:
    """Let the last convolution make most of the picture, so that what differs inside is seen.

    low: (N, 3, H, W). New networks enlarge by repeating pixels, and add hardly anything.
    """
    *_, last = network.convolutions(net).values()
    assert last.bias is not None
    seen: list[Tensor] = []
    with network.hooked(net, lambda conv, args, out: seen.append(out)):
        net(low)
    last.weight.mul_(CONTRAST / seen[-1].std())
    last.bias.zero_()
    last.bias.add_(0.5 - net(low).mean())
