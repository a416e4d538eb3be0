"""Which forms of file, of all that can be exported, run here? One small network each, tried.

The files are written by `export` and `formats`, as those of a run are, and held to the same limits
by `verify`. The networks have random weights.
"""

import dataclasses
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import cost, export, formats, genotype, network, quantize, skeleton, space, verify
from .checks import Check
from .config import ExportConfig, RunConfig
from .errors import QuantnasError, UsageError, VerificationError
from .genotype import Choice, Genotype
from .onnx_weights import STORAGE
from .patches import to_tensor
from .runs import Run, to_json
from .space import Precision, SearchSpace
from .verify import Verification

CARRIED, FREE = "rfdn_small", "edsr_baseline"
"""Spaces of the networks: tensors stay in integers between convolutions, or in float."""
CHANNELS, CELLS, SIZE = 8, 1, "20x24"
CONTRAST = 0.2
"""Standard deviation of what the last convolution adds, of a range of 1."""
WIDTHS = tuple(sorted(STORAGE, reverse=True))
"""Bits of the weights."""
MAIN = (8, 4)
"""Those that a run chooses from where nothing else is asked for."""
OPTIONS: dict[str, tuple[ExportConfig, tuple[int, ...]]] = {
    "--compat": (ExportConfig(compat=True), WIDTHS[1:]),
    "--uint8-io": (ExportConfig(uint8_io=True), WIDTHS[:1]),
    "--size": (ExportConfig(size=SIZE), WIDTHS[:1]),
}
"""Option of `quantnas export` -> what it sets, and the bits at which it is tried."""

ELSEWHERE = "for other toolchains, since ONNX Runtime cannot run it"
PLACE = re.compile(r":/onnxruntime_src/\S+ [\w:]+\([^)]*\) ")
"""A line of ONNX Runtime's source and its function, inside a message."""
REPORT = (
    "Install the versions of constraints.txt; if that does not help, report it with the output of "
    "`quantnas doctor --json`."
)


@dataclass(frozen=True)
class Case:
    """A form of file."""

    name: str
    bits: int
    form: ExportConfig = export.USUAL

    @property
    def main(self) -> bool:
        """Whether a run with its usual settings writes such a file."""
        return self.form == export.USUAL and self.bits in MAIN


def cases() -> tuple[Case, ...]:
    """All that `quantnas export` can write."""
    usual = [Case(f"{bits}-bit file", bits) for bits in WIDTHS]
    chosen = [
        Case(f"{bits}-bit {option}", bits, form)
        for option, (form, widths) in OPTIONS.items()
        for bits in widths
    ]
    beside = [
        Case(f"--format {name}", MAIN[0], ExportConfig(format=name, size=SIZE))  # type: ignore[arg-type]
        for name in formats.FORMATS
    ]
    return (*usual, *chosen, *beside)


def tried(case: Case) -> Check:
    """Write files of that form, run them, compare them with torch."""
    try:
        with (
            tempfile.TemporaryDirectory(prefix="quantnas-") as name,
            _apart(),
        ):
            if case.form.format != export.USUAL.format:
                return _beside(case, Path(name))
            paths = {CARRIED: Path(name) / "model.onnx", FREE: Path(name) / "free.onnx"}
            found = [_verified(case, where, path) for where, path in paths.items()]
        return told(case, found)
    except Exception as error:  # whatever onnx or ONNX Runtime raise
        return refused(case, error)


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


def told(case: Case, found: list[Verification]) -> Check:
    """Of files that run."""
    all_, integers = (
        sum(getattr(one, what) for one in found)
        for what in ("convolutions", "integer_convolutions")
    )
    steps = max(one.max_steps for one in found)
    finding = f"runs; {integers} of {all_} convolutions in integers, {_away(steps)}."
    return Check(case.name, "ok", finding)


def _away(steps: int) -> str:
    return "equal to torch" if steps == 0 else f"at most {steps} of 255 steps from torch"


def refused(case: Case, error: Exception) -> Check:
    """Of a file that cannot be written, does not run, or gives something else."""
    topic = case.name
    if isinstance(error, UsageError):  # without its extra
        return Check(topic, "note", error.cause, error.remedy)
    if isinstance(error, OSError) and error.strerror:
        finding = f"Files for a trial cannot be written: {error.strerror}."
        remedy = "Make room for temporary files, or set TMPDIR to another folder."
        return Check(topic, "problem", finding, remedy, case.main)
    if not isinstance(error, QuantnasError):
        text = " ".join(str(error).split())[:300].rstrip(".")
        finding = f"It fails unexpectedly: {type(error).__name__}: {text}."
        return Check(topic, "problem", finding, REPORT, case.main)
    cause = PLACE.sub(": ", error.cause)
    if "does not load" in cause:
        packed = case.bits < 8 and not case.form.compat
        other = ", or export with --compat" if packed else ""
        return Check(topic, "problem", cause, f"{error.remedy[:-1]}{other}.", case.main)
    return Check(topic, "problem", cause, REPORT, case.main)


def _verified(case: Case, name: str, path: Path) -> Verification:
    """The file of a network of that space, compared."""
    where, found, bits = _architecture(name, case.bits)
    net = _networks(where, found, bits)[1]
    export.to_onnx(net, cost.network_cost(where, found, bits), where.scale, path, case.form)
    return verify.verify(path, net, [_image()])


def _beside(case: Case, folder: Path) -> Check:
    """A file that is written beside model.onnx, by what writes it into a run."""
    run = _run(folder, case.bits)
    made = formats.FORMATS[case.form.format](run, RunConfig(export=case.form), [_image()])
    path = run.folder / made.file
    runs = "runs" if path.suffix != ".onnx" or _loads(path) else ELSEWHERE
    return Check(case.name, "ok", f"{runs}; {made.compared}.")


def _loads(path: Path) -> bool:
    """Whether ONNX Runtime takes the file."""
    try:
        verify.optimised(path)
    except VerificationError:
        return False
    return True


def _image() -> NDArray[np.uint8]:
    """Noise (H, W, 3), so that all integers occur."""
    height, width = ExportConfig(size=SIZE).sides or (0, 0)
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def _architecture(name: str, bits: int) -> tuple[SearchSpace, Genotype, Mapping[str, Precision]]:
    """A small one of that space, with the last operation of every slot."""
    where = dataclasses.replace(space.load(name), channels=CHANNELS, cells=CELLS)
    slots = skeleton.slots(where)
    choices = {s.name: Choice(s.ops[-1], s.weight_bits[0], s.act_bits[0]) for s in slots}
    return where, Genotype(name, choices), genotype.uniform_precision(slots, bits)


def _networks(
    where: SearchSpace, found: Genotype, bits: Mapping[str, Precision]
) -> tuple[nn.Module, nn.Module]:
    """(in float, frozen on integers), with the same random weights."""
    plain, net = network.build(where, found, None), network.build(where, found, bits)
    _loud(plain.eval(), to_tensor(_image()[None]))
    network.inherit(net, plain)
    quantize.initialise(net, to_tensor(_image()[None]))
    return plain, quantize.freeze(net)


@torch.no_grad()
def _loud(net: nn.Module, low: Tensor) -> None:
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


def _run(folder: Path, bits: int) -> Run:
    """A run that holds a network in float and on integers, as the steps before export leave it."""
    run, (where, found, precision) = Run(folder), _architecture(CARRIED, bits)
    run.path("space.yaml").write_text(space.to_yaml(where), encoding="utf-8")
    run.path("genotype.json").write_text(found.to_json(), encoding="utf-8")
    rows = {name: dataclasses.asdict(one) for name, one in precision.items()}
    run.path("precision.json").write_text(to_json(rows), encoding="utf-8")
    for name, net in zip(("float", "quantized"), _networks(where, found, precision), strict=True):
        network.save(net, run.weights(name), where)
    return run
