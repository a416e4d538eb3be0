"""What the choice of the number of threads is worth: the default against fixed numbers.

    python benchmarks/threads.py --steps 300

Each job runs in a process of its own with OMP_NUM_THREADS=1, with the default (the variable is
unset, so that loops choose), and with OMP_NUM_THREADS=2, by turns, beside other busy programs. The
network is one of rfdn_small, x2, on the bundled photographs. Jobs: `retrain`, a quantization to 2
bits with --steps steps of retraining; `short`, the same with a fifth of them; `train`, --steps
steps in float and a third as many with rounding. Seconds are those of the whole verb, without the
imports. A process that takes --limit times the shortest time of its row is stopped, and its time
printed with a `>`. Prints a Markdown table with the ratio of the default to the best fixed number,
and as its last line `worst=A`, the largest ratio. With --processes, a training that two processes
share against one process with two threads instead; there is no last line then.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import quantnas
from quantnas.training import threads

LOOP = "while True: pass"
TORCH = (
    "import torch; torch.set_num_threads(2); a = torch.ones(8, 24, 32, 32); "
    "net = torch.nn.Conv2d(24, 24, 3, padding=1)\nwhile True: net(a)"
)
BESIDE: dict[str, list[str]] = {"0": [], "1": [LOOP], "2": [LOOP, LOOP], "torch": [TORCH]}
"""Name of a situation -> programs that keep cores busy meanwhile; torch: one of two threads."""
NUMBERS = {"one": 1, "default": None, "two": 2}
"""Setting -> OMP_NUM_THREADS of the process."""


@dataclass(frozen=True)
class Taken:
    """Time of one process, seconds."""

    seconds: float
    complete: bool = True
    """False where the process was stopped before its end."""

    def __str__(self) -> str:
        return f"{'' if self.complete else '>'}{self.seconds:.1f}"


def work(job: str, steps: int, processes: int, source: Path, output: Path) -> float:
    """Seconds of a job; `source` is a trained run, whose genotype is taken to train again."""
    settings = {"train.processes": processes, "train.start": "scratch"}
    began = time.monotonic()
    if job == "train":
        quantnas.train(source, float_steps=steps, qat_steps=steps // 3,
                       settings=settings, output=output)  # fmt: skip
    else:
        count = steps if job == "retrain" else steps // 5
        quantnas.quantize(source, bits=2, steps=count, output=output)
    return time.monotonic() - began


def measured(
    args: argparse.Namespace, job: str, number: int | None, limit: float | None, processes: int = 1
) -> Taken:
    """The time of a job in a process of its own, with so many threads; none = the default."""
    env = {name: value for name, value in os.environ.items() if name not in threads.VARIABLES}
    env |= {} if number is None else {"OMP_NUM_THREADS": str(number)}
    command = [sys.executable, __file__, "--steps", str(args.steps), "--source", str(args.source)]
    began = time.monotonic()
    child = subprocess.Popen(
        [*command, "--jobs", job, "--share", str(processes)],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        text, _ = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return Taken(time.monotonic() - began, complete=False)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    if child.returncode:
        raise SystemExit(f"The job {job} has ended with {child.returncode}.")
    return Taken(float(json.loads(text)))


@contextmanager
def busy(programs: list[str]) -> Iterator[None]:
    """The programs run while this is open."""
    running = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    try:
        time.sleep(2 if running else 0)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def shortest(taken: dict[str, list[Taken]], args: argparse.Namespace) -> float | None:
    """When a process of this row is stopped, seconds; none while none has ended."""
    ended = [t.seconds for times in taken.values() for t in times if t.complete]
    return args.limit * min(ended) + 10 if ended else None


def row(args: argparse.Namespace, job: str, beside: str) -> float:
    """Measure and print one situation; the median ratio of the default to the best number."""
    taken: dict[str, list[Taken]] = {name: [] for name in NUMBERS}
    load = os.getloadavg()[0]
    with busy(BESIDE[beside]):
        for _ in range(args.rounds):
            for name, number in NUMBERS.items():
                taken[name].append(measured(args, job, number, shortest(taken, args)))
    one, default, two = (statistics.median(t.seconds for t in taken[name]) for name in NUMBERS)
    cells = [", ".join(map(str, times)) for times in taken.values()]
    ratio = default / min(one, two)
    line = [job, beside, f"{load:.1f}", *cells, f"{ratio:.2f}"]
    print(f"| {' | '.join(line)} |", flush=True)
    return ratio


def shared(args: argparse.Namespace, beside: str) -> None:
    """Print a training by one process with two threads, and by two with one each."""
    alone, together = [], []
    load = os.getloadavg()[0]
    with busy(BESIDE[beside]):
        for _ in range(args.rounds):
            together.append(measured(args, "train", 1, None, processes=2))
            limit = args.limit * together[-1].seconds + 10
            alone.append(measured(args, "train", 2, limit))
    cells = [", ".join(map(str, times)) for times in (alone, together)]
    print(f"| {beside} | {load:.1f} | {' | '.join(cells)} |", flush=True)


def prepare(folder: Path) -> Path:
    """A trained run of a network of rfdn_small that a short search has found."""
    search = {"epochs": 4, "steps_per_epoch": 3, "warmup_epochs": 1, "batch": 2, "refresh": 6}
    found = quantnas.search("rfdn_small", settings={"search": search}, output=folder)
    return quantnas.train(found, float_steps=60, qat_steps=10, output=folder).folder


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=1, help="processes of each kind, by turns")
    parser.add_argument("--limit", type=float, default=2.5)
    parser.add_argument("--jobs", nargs="+", default=["retrain", "short", "train"])
    parser.add_argument("--beside", nargs="+", choices=BESIDE, default=["0", "1", "2", "torch"])
    parser.add_argument("--processes", action="store_true", help="two processes that share one")
    parser.add_argument("--source", type=Path, help="trained run, instead of a new one")
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def table(args: argparse.Namespace) -> None:
    if args.processes:
        print("| busy programs | load before | one process, two threads, s | two processes, s |")
        print("|---|---|---|---|")
        for beside in args.beside:
            shared(args, beside)
        return
    head = "| job | busy programs | load before | one thread, s | default, s | two threads, s |"
    print(f"{head} default / best |\n|---|---|---|---|---|---|---|")
    ratios = [row(args, job, beside) for job in args.jobs for beside in args.beside]
    print(f"worst={max(ratios):.2f}")


def main() -> None:
    args = options()
    with tempfile.TemporaryDirectory() as folder:
        if args.share:
            print(work(args.jobs[0], args.steps, args.share, args.source, Path(folder)))
            return
        args.source = args.source or prepare(Path(folder))
        table(args)


if __name__ == "__main__":
    main()
