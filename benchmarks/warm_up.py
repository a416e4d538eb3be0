"""What a shared warm-up saves: searches for several targets, with it and each by itself, by turns.

    python benchmarks/warm_up.py --space rfdn_small --target 0.6e9 --target 0.9e9 --target 1.4e9

Bundled photographs, one process. Prints seconds per target, and as the last line
`saved=A`, the share of the time of all searches that is saved. What they find is the same, and
the program fails where it is not.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from quantnas.config import genotype
from quantnas.config.genotype import Genotype
from quantnas.config.run_config import RunConfig, SearchConfig
from quantnas.pipeline import new_run, search_step
from quantnas.runs import run_folder
from quantnas.runs.run_settings import load_config


def searched(
    folder: Path, name: str, config: RunConfig, warm: Path | None
) -> tuple[float, Genotype]:
    """Seconds of a search, and what it found."""
    run = new_run.prepare("search", config).write(run_folder.create(folder, "search", name, name))
    began = time.monotonic()
    for _ in search_step.search_step(run, load_config(run), warm):
        pass
    return time.monotonic() - began, genotype.load(run.folder / "genotype.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--space", default="rfdn_small")
    parser.add_argument("--target", type=float, action="append", required=True, help="BitOps")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sums = [0.0, 0.0]
    print("| target, GBitOps | by itself, s | with the shared warm-up, s |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for i, target in enumerate(args.target):
            search = replace(SearchConfig(), target_bitops=target)
            config = RunConfig(space=args.space, seed=args.seed, search=search)
            alone, first = searched(root, f"alone{i}", config, None)
            shared, second = searched(root, f"shared{i}", config, root / "warm" / "state.pt")
            if first != second:
                raise SystemExit(f"For {target:g} BitOps they find different networks.")
            sums = [sums[0] + alone, sums[1] + shared]
            print(f"| {target / 1e9:g} | {alone:.0f} | {shared:.0f} |", flush=True)
    print(f"saved={1 - sums[1] / sums[0]:.2f}")


if __name__ == "__main__":
    main()
