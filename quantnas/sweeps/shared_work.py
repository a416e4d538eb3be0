"""Work that runs share, so that it is computed once: a warm-up, a search, a training.

Two runs with equal settings, as far as a step depends on them, would get the same result, since
everything random is a function of the seed. So one run copies the results of the other. The warm-up
of a supernet does not even depend on the budget, since only weights are trained in it.
"""

import hashlib
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from quantnas.config.files import to_json
from quantnas.config.run_config import RunConfig, SearchConfig
from quantnas.data import holdout
from quantnas.runs import run_folder, run_settings
from quantnas.runs.run_folder import Run
from quantnas.runs.run_settings import load_config

AFTER_WARMUP = ("target_bitops", "penalty", "entropy", "keep", "trial_steps", "samples")
"""Search settings without effect before the alphas are trained, and absent from saved states."""
PHASES = {"search": ("search", "trial"), "train": ("float", "rounded")}
"""Step -> its phases that leave records in metrics.jsonl."""
BESIDE = {
    "search": (
        "genotype_last.json", "genotype_best.json", "plots/search.png", "plots/alphas.png",
        "plots/architecture.png",
    ),
    "train": ("checkpoints/float_last.safetensors", "checkpoints/rounded_last.safetensors"),
}  # fmt: skip
"""Step -> files that it leaves for people, not for later steps."""
DATA = ("source.onnx", "checkpoints/given.safetensors")
"""Inputs of a run that enter its digest byte by byte."""


def keys(run: Run) -> dict[str, str | None]:
    """Step -> digest of all that it depends on; steps with equal digests give equal results.

    `warmup` is None where the search has no warm-up or is not by gradient.
    """
    config = load_config(run)
    c = config.search
    searched = _digest(run, config, asdict(c))
    fresh = {name: getattr(SearchConfig, name) for name in AFTER_WARMUP}
    warm = c.strategy == "gradient" and c.warmup_epochs > 0 and config.genotype is None
    trained = [searched, asdict(config.train), config.quantize.crops]
    return {
        "warmup": _digest(run, config, asdict(replace(c, **fresh))) if warm else None,
        "search": searched,
        "train": hashlib.sha256(to_json(trained).encode()).hexdigest()[:16],
    }


def _digest(run: Run, config: RunConfig, section: object) -> str:
    files = [run.folder / name for name in ("space.yaml", run_settings.GIVEN, holdout.FILE)]
    texts = [file.read_text(encoding="utf-8") if file.exists() else None for file in files]
    data = [_content(run.folder / name) for name in DATA]
    inputs = [texts, data, config.seed, config.device, section]
    return hashlib.sha256(to_json(inputs).encode()).hexdigest()[:16]


def _content(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None


def take(source: Run, target: Run, until: str) -> None:
    """Copy the results of the steps before `until`, with records and pictures.

    Nothing is copied if `target` has already begun.
    """
    if target.result("search") is not None or target.resumable:
        return
    before = run_folder.STEPS[: run_folder.STEPS.index(until)]
    for name in (name for step in before for name in BESIDE.get(step, ())):
        if (source.folder / name).exists():
            shutil.copy2(source.folder / name, target.path(name))
    phases = {phase for step in before for phase in PHASES.get(step, ())}
    target.replace_records(row for row in source.records() if row["phase"] in phases)
    target.log(f"taken from {source.folder}: all before the step '{until}'")
    run_folder.carry(source, target, until)
