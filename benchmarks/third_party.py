"""Quantizes third-party networks to w8a8, beside ONNX Runtime's own quantizer, and measures all.

    python benchmarks/third_party.py --data TRAIN --test SET5 --buildings B100 --retrain 200

The networks are those of `third_party_networks.py`, trained on TRAIN where --nets has no file of
them yet (`third_party_training.py`), and every --file: a float network in ONNX that enlarges RGB in
[0, 1]. Each is quantized by `quantnas quantize FILE --bits w8a8`, as it is and (--retrain) after
retraining, and by ONNX Runtime's static quantization (QuantizeLinear and DequantizeLinear,
uint8 activations, int8 weights per channel, smallest and largest values), calibrated on the same
photographs. All commands run on one thread. Times are processor time: the least of several rounds
by turns, one thread.

What --output has already is not made or measured again: give another folder after a change of the
code. Writes results.json and results.md there, and prints the latter.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import onnxruntime
from files import finished
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.shape_inference import quant_pre_process
from static import Reader, quantize
from third_party_networks import NETWORKS, SCALE
from third_party_training import ensure

from quantnas.config.files import replacing
from quantnas.data import photographs
from quantnas.data.photographs import Photograph
from quantnas.errors import DataError
from quantnas.evaluation import latency, processor, scoring
from quantnas.inference import upscaler

BUILDINGS = (
    *("102061", "119082", "126007", "148026", "148089"),
    *("223061", "385039", "78004", "86000", "97033"),
)
"""The photographs of B100 that show buildings, by name."""
SIZE = (128, 128)
"""(height, width) of the image for which files are timed, pixels."""
CROPS = 32
"""Crops of 64x64 on which ONNX Runtime's quantizer is calibrated."""
NARROW = ("fsrcnn", "edsr-16")
"""Networks of fewer than 32 channels."""
LIGHT = ("depthwise", "bsrn", "transformer")
"""Networks whose products are mostly depthwise, 1x1 or attention's."""
FORMS = {"none": "without retraining", "retrained": "retrained", "static": "ONNX Runtime, static"}
"""Name of a quantized file -> its name in the tables."""


@dataclass(frozen=True)
class Made:
    """How the making of one file ended."""

    code: int = 0
    """Exit code; 4: the verification rejected the file, 5: it loses more than was predicted."""
    seconds: float = 0.0
    """Processor time."""
    said: str = ""
    """The end of what the command printed."""


@dataclass(frozen=True)
class Measured:
    """The figures of one file."""

    bytes: int
    milliseconds: float
    """Processor time for an image of `SIZE`."""
    test: dict[str, float]
    """Photograph of the test set -> PSNR-Y, dB."""
    buildings: dict[str, float]
    """Photograph of `BUILDINGS` -> PSNR-Y, dB."""


@dataclass
class Record:
    """All that is known of one network."""

    made: dict[str, Made] = field(default_factory=dict)
    """Name of a form -> how its making ended."""
    measured: dict[str, Measured] = field(default_factory=dict)
    """`float` and the names of forms -> figures."""
    bicubic: float = 0.0
    """Mean PSNR-Y of bicubic on the test set, dB."""

    def loss(self, form: str) -> float:
        """Loss against float, mean over the test set, dB."""
        whole, rounded = self.measured["float"].test, self.measured[form].test
        return statistics.mean(whole[name] - rounded[name] for name in whole)

    def worst(self, form: str) -> float:
        """The largest loss against float among the buildings, dB."""
        whole, rounded = self.measured["float"].buildings, self.measured[form].buildings
        return max(whole[name] - rounded[name] for name in whole)

    def ratio(self, form: str) -> float:
        """Time of a form over that of float."""
        return self.measured[form].milliseconds / self.measured["float"].milliseconds

    def share(self, form: str) -> float:
        """Bytes of a form over those of float."""
        return self.measured[form].bytes / self.measured["float"].bytes


Records = dict[str, Record]


def load(path: Path) -> Records:
    """The records of an earlier call; none without its file."""
    if not path.exists():
        return {}
    return {
        name: Record(
            {form: Made(**row) for form, row in found["made"].items()},
            {form: Measured(**row) for form, row in found["measured"].items()},
            found["bicubic"],
        )
        for name, found in json.loads(path.read_text())["networks"].items()
    }


def save(path: Path, records: Records) -> None:
    """Write all records, with the machine and the command."""
    content = {
        "command": " ".join(["python", *sys.argv]),
        "processor": processor.here().processor,
        "onnxruntime": onnxruntime.__version__,
        "networks": {name: asdict(record) for name, record in records.items()},
    }
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=1))


def command(words: Iterable[object]) -> Made:
    """Run `quantnas` with these words, in a process of its own on one thread."""
    line = [sys.executable, "-m", "quantnas.cli", *map(str, words)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(line, stdout=said, stderr=subprocess.STDOUT, env=alone)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        end = said.read()[-2000:]
    return Made(process.returncode, used.ru_utime + used.ru_stime, end)


def ours(source: Path, target: Path, args: argparse.Namespace) -> Made:
    """Quantize a file by the project's command, with or without retraining."""
    steps = ["--steps", args.retrain] if target.stem == "retrained" else ["--train", "none"]
    name = f"{source.stem}-{target.stem}"
    shutil.rmtree(args.output / "quantize" / name, ignore_errors=True)  # an interrupted call's
    where = ["-o", target, "--force", "--output", args.output, "--name", name]
    settings = [word for setting in args.set for word in ("--set", setting)]
    how = ["--bits", "w8a8", *steps, "--calib", args.calib or args.data, *settings]
    return command(["quantize", source, *how, *where])


def static(source: Path, target: Path, args: argparse.Namespace) -> Made:
    """Quantize a file by ONNX Runtime's static quantization."""
    began = time.process_time()
    entry = upscaler.load_session(source).get_inputs()[0].name
    try:
        with tempfile.TemporaryDirectory() as folder:
            ready = Path(folder) / "ready.onnx"
            prepare(source, ready)
            reader = Reader(args.calib or args.data, scale_of(source), CROPS, entry)
            quantize(ready, target, reader, CalibrationMethod.MinMax)
    except Exception as error:  # it raises many kinds
        return Made(1, time.process_time() - began, str(error))
    return Made(0, time.process_time() - began)


def prepare(source: Path, ready: Path) -> None:
    """Fold and optimise a file as ONNX Runtime's quantizer wants it."""
    try:
        quant_pre_process(str(source), str(ready))
    except Exception:  # symbolic shapes are not understood in all files
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)


def usable(made: Made, target: Path) -> Made:
    """How a making ended, which has failed too when ONNX Runtime cannot run the file."""
    if made.code:
        return made
    try:
        latency.runner(latency.session(target, 1, target.name), SIZE, target.name)()
    except DataError as error:
        return replace(made, code=error.exit_code, said=str(error))
    return made


def scale_of(source: Path) -> int:
    """How many times a network enlarges an image."""
    (large,) = latency.runner(latency.session(source, 1, source.name), SIZE, source.name)()
    return large.shape[2] // SIZE[0]


def measure(
    files: Mapping[str, Path], args: argparse.Namespace
) -> tuple[dict[str, Measured], float]:
    """Form -> figures of its file; bicubic's mean PSNR-Y on the test set, dB."""
    scale = scale_of(files["float"])
    sessions = {name: latency.session(path, 1, name) for name, path in files.items()}
    runs = {name: latency.runner(run, SIZE, name) for name, run in sessions.items()}
    taken = finished(latency.by_turns(runs, 0, args.rounds))
    least = {name: 1000 * min(cpu for _, cpu in rounds) for name, rounds in taken.items()}
    enlarge = {name: upscaler.session_upscaler(run, name) for name, run in sessions.items()}
    tested = list(scoring.compare(enlarge, photographs.find(args.test, scale), scale))
    built = list(scoring.compare(enlarge, buildings(args.buildings, scale), scale))
    figures = {
        name: Measured(
            path.stat().st_size,
            least[name],
            {scores[name].image: scores[name].psnr for scores in tested},
            {scores[name].image: scores[name].psnr for scores in built},
        )
        for name, path in files.items()
    }
    return figures, statistics.mean(scores["float"].bicubic_psnr for scores in tested)


def buildings(folder: Path, scale: int) -> list[Photograph]:
    """The photographs of buildings in a folder of B100."""
    found = [photo for photo in photographs.find(folder, scale) if photo.high.stem in BUILDINGS]
    if len(found) != len(BUILDINGS):
        raise SystemExit(f"{folder} has {len(found)} of the {len(BUILDINGS)} buildings of B100")
    return found


def complete(source: Path, record: Record, args: argparse.Namespace) -> None:
    """Make and measure what the record of a network lacks."""
    folder = args.output / "files" / source.stem
    folder.mkdir(parents=True, exist_ok=True)
    for form in wanted(args):
        if form not in record.made:
            print(f"{source.stem}: {FORMS[form]}", file=sys.stderr)
            make = static if form == "static" else ours
            target = folder / f"{form}.onnx"
            record.made[form] = usable(make(source, target, args), target)
            record.measured = {}
    files = {form: folder / f"{form}.onnx" for form, made in record.made.items() if not made.code}
    if record.measured.keys() != {"float", *files}:
        print(f"{source.stem}: measuring", file=sys.stderr)
        record.measured, record.bicubic = measure({"float": source, **files}, args)


def wanted(args: argparse.Namespace) -> list[str]:
    """The forms that are asked for."""
    return [form for form in FORMS if form != "retrained" or args.retrain]


def table(records: Records, forms: Iterable[str]) -> list[str]:
    """A Markdown table with a line for every form of every network."""
    lines = [
        "| network | file | test set, dB (bicubic) | loss, dB | worst building, dB | time, of float"
        " | bytes, of float | making, s |",
        "|---" * 8 + "|",
    ]
    for name, record in records.items():
        whole = record.measured["float"]
        psnr = statistics.mean(whole.test.values())
        lines.append(
            f"| {name} | float | {psnr:.2f} ({record.bicubic:.2f}) | | | "
            f"{whole.milliseconds:.1f} ms | {whole.bytes:,} | |"
        )
        for form in forms:
            lines.append(f"| | {FORMS[form]} | {cells(record, form)} |")
    return lines


def cells(record: Record, form: str) -> str:
    """The cells of one form, from PSNR to seconds."""
    made = record.made[form]
    if made.code:
        return f"no file, exit code {made.code} | | | | | {made.seconds:.0f}"
    psnr = statistics.mean(record.measured[form].test.values())
    return (
        f"{psnr:.2f} | {record.loss(form):.3f} | {record.worst(form):.2f} | "
        f"{record.ratio(form):.2f} | {record.share(form):.2f} | {made.seconds:.0f}"
    )


def goals(records: Records, forms: Iterable[str]) -> list[str]:
    """A Markdown table of goals and of what was reached by each form that yields files."""
    lines = ["| measure | goal |", "|---|---|"]
    for form in forms:
        lines[0] += f" {FORMS[form]} |"
        lines[1] += "---|"
    wide = [name for name in records if name not in (*NARROW, *LIGHT)]
    light = [name for name in records if name in LIGHT]
    rows = {
        "time of float, 32 channels or more": ("at most 0.5", wide, Record.ratio, 2),
        "time of float, depthwise and transformer": ("at most 0.9", light, Record.ratio, 2),
        "loss on the test set, dB": ("at most 0.08, retrained 0.05", records, Record.loss, 3),
        "worst building, dB": ("at most 0.3", records, Record.worst, 2),
        "bytes of float, `bsrn`": ("at most 0.29", ["bsrn"], Record.share, 2),
    }
    for measure_name, (goal, names, figure, digits) in rows.items():
        line = f"| {measure_name} | {goal} |"
        for form in forms:
            known = [records[n] for n in names if n in records and form in records[n].measured]
            line += f" {spread([figure(record, form) for record in known], digits)} |"
        lines.append(line)
    rejected = [sum(r.made[form].code != 0 for r in records.values()) for form in forms]
    lines.append(f"| networks without a file | 0 | {' | '.join(map(str, rejected))} |")
    if "rfdn" in records:
        seconds = [f"{records['rfdn'].made[form].seconds:.0f}" for form in forms]
        lines.append(
            f"| making of `rfdn`, s | at most 40 without retraining | {' | '.join(seconds)} |"
        )
    return lines


def spread(values: list[float], digits: int) -> str:
    """The least and the largest value."""
    if not values:
        return ""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="photographs to train on")
    parser.add_argument("--calib", type=Path, help="photographs to calibrate on; default: --data")
    parser.add_argument("--test", type=Path, required=True, help="folder of Set5")
    parser.add_argument("--buildings", type=Path, required=True, help="folder of B100")
    parser.add_argument("--nets", type=Path, default=Path("runs/third_party/nets"))
    parser.add_argument("--output", type=Path, default=Path("runs/third_party"))
    parser.add_argument("--minutes", type=float, default=3, help="of training, per network")
    parser.add_argument("--network", action="append", choices=NETWORKS, help="repeatable")
    parser.add_argument("--file", action="append", type=Path, default=[], help="repeatable")
    parser.add_argument("--retrain", type=int, help="steps of retraining, for a third file")
    parser.add_argument("--rounds", type=int, default=25, help="of timing")
    parser.add_argument("--set", action="append", default=[], help="for our command, repeatable")
    args = parser.parse_args()
    buildings(args.buildings, SCALE)  # an error now, not after the training
    chosen = args.network or ([] if args.file else list(NETWORKS))
    ensure(chosen, args.nets, args.data, args.minutes)
    sources = [*(args.nets / f"{name}.onnx" for name in chosen), *args.file]
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "results.json"
    records = load(path)
    for source in sources:
        complete(source, records.setdefault(source.stem, Record()), args)
        save(path, records)
    shown, forms = {source.stem: records[source.stem] for source in sources}, wanted(args)
    text = "\n".join([*table(shown, forms), "", *goals(shown, forms)])
    with replacing(args.output / "results.md") as part:
        part.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
