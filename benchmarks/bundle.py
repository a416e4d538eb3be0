"""Puts the exported files of runs among the bundled models, each with its card.

    python benchmarks/bundle.py runs/run/plain-x2 runs/run/plain-x4 --test SET5 --test SET14

The name of a run folder becomes the name of the model. Only for networks trained on photographs
that are CC0 or in the public domain: the card says so.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from command import quantnas

from quantnas.runs import models

TEXTS = {
    "trained_on": "50 photographs: the 12 bundled ones that are not held out, 13 of the Budgie "
    "desktop (budgie-backgrounds 3.0, shrunk to 2048 pixels), 25 of the gb82 image set",
    "terms": "CC0, one photograph in the public domain",
}


def evaluation(run: Path, tests: list[str]) -> dict[str, Any]:
    """What `quantnas evaluate` says about the exported file of a run."""
    data = [word for folder in tests for word in ("--data", folder)]
    with tempfile.TemporaryDirectory() as folder:
        told = quantnas("evaluate", run / "model.onnx", *data, "--json", "--output", folder)
    found: dict[str, Any] = json.loads(told)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--test", action="append", required=True, help="folder, repeatable")
    args = parser.parse_args()
    for run in args.runs:
        trained = json.loads((run / "steps" / "train.json").read_text())
        recipe = (
            "architecture and bits found by `quantnas search` on those of docs/results.md "
            "(benchmarks/genotypes), no weights of which are used; weights from nothing, float and "
            f"rounded as in benchmarks/recipe.yaml, {trained['seconds'] / 60:.0f} minutes on one "
            "of two cores"
        )
        words = json.loads((run / "env.json").read_text())["command"]
        made_by = " ".join(Path(word).name if word.startswith("/") else word for word in words)
        texts = {**TEXTS, "recipe": recipe, "made_by": made_by}
        card = models.make_card(run, run.name, evaluation(run, args.test), texts)
        target = models.bundle(card, run / "model.onnx")
        print(f"{target.name}: {card.bytes:,} bytes", flush=True)


if __name__ == "__main__":
    main()
