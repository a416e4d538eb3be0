"""The study: each claim of the method, tested; and quality over cost beside fixed networks.

    python benchmarks/study.py entropy --output runs/study --test SET5 --test SET14
    python benchmarks/study.py all --data TRAIN --test SET5 --test SET14 --write docs/study.md

Every part is a sweep (`quantnas sweep`) that goes on where it was, so a part that is finished is
only printed again. Claims learn from the bundled photographs; the fronts x2 and x4 from --data.
Prints Markdown; `--write` puts all parts that are finished into a page.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from command import quantnas
from sweeps import Row, Settings, mean, measured, middle, table, verdict

from quantnas.architectures import cost, registry
from quantnas.config import genotype, search_space
from quantnas.config.genotype import Genotype
from quantnas.config.search_space import SearchSpace
from quantnas.evaluation import scoring
from quantnas.reporting.plots import pareto_front

CLAIM: dict[str, Any] = {
    "space": "rfdn_small",
    "search": {"target_bitops": 1.0e9, "steps_per_epoch": 24},
    "train": {"float_steps": 1500, "qat_steps": 300},
    "quantize": {"train": "none"},
}
"""Settings of all claims: 480 steps of search, 1.0 GBitOps, the network as it was trained."""
RECIPE = Path(__file__).parent / "recipe.yaml"
"""Of the training of all networks on a front, which gets --hours for each."""
TARGETS = {0.3e9: "plain", 0.6e9: "plain", 1.2e9: "plain", 2.4e9: "plain", 4.8e9: "plain_wide",
           9.6e9: "plain_wide"}  # fmt: skip
"""BitOps wanted -> the space that is searched for them."""
FIXED = ("fsrcnn", "espcn", "quicksrnet_small", "quicksrnet_medium")
"""What fronts are compared with."""
WIDTHS = (8, 4, 2)

# Claims


def arms(ways: dict[str, Settings], args: argparse.Namespace) -> list[Row]:
    return [
        Row(name, tuple({**settings, "seed": seed} for seed in range(args.seeds)))
        for name, settings in ways.items()
    ]


WAYS: dict[str, Settings] = {
    "noise": {},
    "direct": {"search.relaxation": "direct"},
    "no entropy": {"search.entropy": 0.0},
    "batch norm": {"search.deviation": "batchnorm"},
    "no normalisation": {"search.deviation": "none"},
}
"""Arms whose search differs; the first is the default."""


def searches(args: argparse.Namespace) -> list[Row]:
    return measured("searches", CLAIM, arms(WAYS, args), args)


def names(rows: Sequence[Row], args: argparse.Namespace) -> list[str]:
    """The sets that verdicts are about: those of --test, or what was held out."""
    sets = list(rows[0].found[0]["psnr"])
    return sets[1:] or sets


def noise(args: argparse.Namespace) -> list[str]:
    """Noise in place of rounding while searching is as good as rounding, and faster."""
    rows = searches(args)[:2]
    return [
        *table(rows, ["decided"]), "",
        verdict("Noise finds better networks than direct quantization", *rows, names(rows, args)),
        "Time, which a sweep beside other work does not tell: `benchmarks/search_speed.py`, in "
        "[results](results.md#speed).",
    ]  # fmt: skip


def entropy(args: argparse.Namespace) -> list[str]:
    """Entropy regularisation drives every edge to one operation."""
    found = searches(args)
    rows = [replace(found[0], name="entropy"), found[2]]
    decided = [mean(row.values("decided")) for row in rows]
    gap = [mean(row.values("gap")) for row in rows]
    word = (
        "confirmed"
        if min(rows[0].values("decided")) > max(rows[1].values("decided"))
        else "not confirmed"
    )
    return [
        *table(rows, ["decided", "gap"]), "",
        f"**Entropy decides the edges: {word}.** {decided[0]} of them against {decided[1]} "
        f"without; the supernet is {gap[0]} dB above the decided network on patches, against "
        f"{gap[1]}.",
        verdict("Entropy gives better networks", *rows, names(rows, args)),
    ]  # fmt: skip


def adq(args: argparse.Namespace) -> list[str]:
    """ADQ against plain batch norm and against none."""
    found = searches(args)
    rows = [found[0], *found[3:]]
    rows[0] = replace(rows[0], name="ADQ")
    return [
        *table(rows), "",
        verdict("ADQ is better than plain batch norm", rows[0], rows[1], names(rows, args)),
        verdict("ADQ is better than no normalisation", rows[0], rows[2], names(rows, args)),
    ]  # fmt: skip


def with_bits(
    name: str, bits: int, args: argparse.Namespace, act: int | None = None
) -> SearchSpace:
    """A built-in space with one width between the ends (32: everywhere), and its file."""
    where = search_space.load(name)
    width = {"bits": (bits,)} if act is None else {"weight_bits": (bits,), "act_bits": (act,)}
    none = {"bits": (), "weight_bits": (), "act_bits": ()}
    edges = {
        edge: given if edge in ENDS and bits < 32 else replace(given, **{**none, **width})
        for edge, given in where.edges.items()
    }
    label = f"{name}_{bits}" + ("" if act is None else f"a{act}")
    made = replace(where, name=label, edges=edges)
    path = file_of(made, args)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(search_space.to_yaml(made))
    return made


ENDS = ("head", "upsample")
"""Edges that stay at 8 bits."""


def file_of(where: SearchSpace, args: argparse.Namespace) -> Path:
    path: Path = args.output / "spaces" / f"{where.name}.yaml"
    return path


def mixed(args: argparse.Namespace) -> list[str]:
    """Bits searched edge by edge against one width for all, at the same BitOps."""
    ways = {
        f"{bits} bits everywhere": {
            "space": str(file_of(with_bits("rfdn_small", bits, args), args))
        }
        for bits in (8, 4)
    }
    found = measured("uniform", CLAIM, arms(ways, args), args)
    rows = [replace(searches(args)[0], name="mixed 4 and 8"), *found]
    return [
        *table(rows), "",
        verdict("Mixed bits are better than 8 everywhere", *rows[:2], names(rows, args)),
        verdict("Mixed bits are better than 4 everywhere", *rows[::2], names(rows, args)),
    ]  # fmt: skip


def aware(args: argparse.Namespace) -> list[str]:
    """Search with quantization against a search in float whose network is rounded afterwards."""
    rows = []
    for bits in (8, 4):
        where, made = with_bits("rfdn_small", bits, args), []
        for seed in range(args.seeds):
            found = _float_search(where, bits, seed, args)
            made.append({"space": str(file_of(where, args)), "genotype": found, "seed": seed})
        rows.append(Row(f"search in float, then {bits} bits", tuple(made)))
    base = {**CLAIM, "search": {"steps_per_epoch": 24}}
    found = measured("afterwards", base, rows, args)
    rows = [replace(searches(args)[0], name="search with quantization"), *found]
    best = max(found, key=lambda row: sum(row.values(names(rows, args)[0])))
    claim = "Search with quantization beats search, then quantize"
    costs = [mean(row.values("gbitops")) for row in (rows[0], best)]
    return [
        *table(rows), "",
        verdict(claim, rows[0], best, names(rows, args)),
        f"That is at {costs[0]} against {costs[1]} GBitOps, which favours the search in float: its "
        "target assumed the smallest last convolution, which stays at 8 bits; the searches took a "
        "larger one.",
    ]  # fmt: skip


def _float_search(where: SearchSpace, bits: int, seed: int, args: argparse.Namespace) -> str:
    """A genotype with the bits of `where`, and 1.0 GBitOps with them, found in float; its file."""
    slots = registry.slots(where)
    tables = cost.choice_bitops(slots, where.scale, (32, 32))
    fixed = sum(float(t.min()) for name, t in tables.items() if not _inner(name))
    goal = CLAIM["search"]["target_bitops"]
    target = (goal - fixed) * (32 / bits) ** 2 + fixed * 16
    folder = args.output / "search" / f"float-for-{bits}-{seed}"
    if not (folder / "steps" / "search.json").exists():
        wide = file_of(with_bits("rfdn_small", 32, args), args)
        if args.finished:
            raise SystemExit(f"The search {folder.name} is not finished.")
        begin = [wide, "--output", args.output, "--name", folder.name, "--seed", seed]
        begin += ["--target-bitops", f"{target:.0f}", "--set", "search.steps_per_epoch=24"]
        quantnas("search", *(["--resume", folder] if folder.exists() else begin))
    found = genotype.load(folder / "genotype.json")
    choices = {
        name: replace(choice, weights=width, activations=width)
        for name, choice in found.choices.items()
        for width in [bits if _inner(name) else 8]
    }
    path: Path = args.output / "genotypes" / f"{folder.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Genotype(where.name, choices).to_json())
    return str(path)


def _inner(slot: str) -> bool:
    return "body" in slot or "distill" in slot


def qat(args: argparse.Namespace) -> list[str]:
    """Post-training quantization against training with rounding, from the same float networks."""
    net, widths = "quicksrnet_medium", ("w8a8", "w4a8", "w4a4", "w3a8", "w2a8", "w2a4")
    after = {f"PTQ, {w}": {"space": net, "bits": w, "quantize.train": "weights"} for w in widths}
    base = {**CLAIM, "search": {}, "train": {"float_steps": 3000, "qat_steps": 0}}
    base["quantize"] = {"train": "none", "steps": 400}
    ptq = measured("ptq", base, arms(after, args), args)
    rows, pairs = [], []
    for row in ptq:
        bits, act = int(row.name[-3]), int(row.name[-1])
        if (bits, act) not in ((4, 8), (3, 8), (2, 8)):
            continue
        where, made = with_bits(net, bits, args, act), []
        file = file_of(where, args)
        file.write_text(search_space.to_yaml(replace(where, name=net)))  # that of the weights
        for one in row.found:
            seed = one["varied"]["seed"]
            run = args.output / "sweep" / "ptq" / "points" / one["name"]
            start = str((run / "checkpoints" / "float.safetensors").resolve())
            made.append({"space": str(file), "seed": seed, "train.start": start})
        rows.append(Row(f"QAT, w{bits}a{act}", tuple(made)))
        pairs.append(row)
    base = {**base, "train": {"float_steps": 0, "qat_steps": 1500}}
    found = measured("qat", base, rows, args)
    sets, lines = names(ptq, args), table([*ptq, *found], ["train minutes", "quantize minutes"])
    told = []
    for one, other in zip(pairs, found, strict=True):
        claim = f"PTQ is better than QAT at {one.name[-4:]}"
        mine, theirs = middle(one, "quantize minutes"), middle(other, "train minutes")
        took = f"It took {mine} instead of {theirs} minutes, beside other work."
        told.append(f"{verdict(claim, one, other, sets)} {took}")
    note = (
        "All begin with the same float network, whose training took the minutes beside PTQ. QAT: "
        f"{base['train']['qat_steps']:,} steps on high resolution; PTQ: "
        f"{base['quantize']['steps']} of retraining on low resolution alone. Minutes are medians."
    )
    return [*lines, "", note, *told]


# Fronts


def x4(args: argparse.Namespace) -> list[str]:
    """Quality over cost at x4, beside fixed networks and published points."""
    return compared(4, args)


def x2(args: argparse.Namespace) -> list[str]:
    """Quality over cost at x2, beside fixed networks."""
    return compared(2, args)


def compared(scale: int, args: argparse.Namespace) -> list[str]:
    """Found networks of every size against fixed ones, with the same recipe."""
    recipe = yaml.safe_load(RECIPE.read_text())["train"]
    recipe |= {"max_hours": args.hours, "start": "scratch"}  # docs/experiments.md
    search = {"steps_per_epoch": 24}
    base = {"train": recipe, "search": search, "scale": scale, "data": args.data}
    ours = [
        Row(
            f"{name}, found for {target / 1e9:g}",
            ({"space": name, "search.target_bitops": target},),
        )
        for target, name in TARGETS.items()
    ]
    fixed = [
        Row(f"{name}, {bits} bits", ({"space": name, **({} if bits == 8 else {"bits": bits})},))
        for name in FIXED
        for bits in WIDTHS
    ]
    rows = measured(f"x{scale}", base, [*ours, *fixed], args)
    ours, fixed = rows[: len(ours)], rows[len(ours) :]
    sets = list(rows[0].found[0]["psnr"])
    beaten = [_beaten(each, ours, sets[-1]) for each in fixed if each.found]
    lines = [*table(ours), *table(fixed)[3:], ""]
    share = f"{sum(beaten)} of {len(beaten)} fixed ones are beaten"
    lines.append(f"{share} on {sets[-1]} by a found one of no more BitOps.")
    if args.write is not None:
        drawn = Path("images") / f"study-x{scale}.png"
        shown = [_panel(rows, sets[-1], scale)]
        pareto_front.draw(shown, scoring.PROTOCOL, args.write.parent / drawn)
        lines[:0] = [f"![PSNR over BitOps on {sets[-1]}, x{scale}]({drawn})", ""]
    beside = [name for name in sets if pareto_front.beside_published(name, scale)]
    if beside:
        points = [point for each in pareto_front.PUBLISHED.values() for point in each]
        lower = [_above(point, ours, beside[0]) for point in points]
        told = "; ".join(
            f"{name}: " + ", ".join(f"{psnr} at {cost}" for cost, psnr in each)
            for name, each in pareto_front.PUBLISHED.items()
        )
        share = f"{sum(lower)} of {len(points)} published points are beaten"
        lines.append(f"{share} ({told}). {pareto_front.SOURCE}")
    return lines


def _panel(rows: Sequence[Row], on: str, scale: int) -> pareto_front.Panel:
    points = tuple(
        pareto_front.ParetoPoint(
            row.name.replace(", found for ", " "),
            row.values("gbitops")[0] * 1e9, row.values(on)[0], False,
        )
        for row in rows if row.found
    )  # fmt: skip
    bicubic = rows[0].found[0]["psnr"][on]["bicubic"]
    beside = pareto_front.beside_published(on, scale)
    return pareto_front.Panel(f"{on}, x{scale}", bicubic, points, beside)


def _beaten(one: Row, ours: Sequence[Row], on: str) -> bool:
    return _above((one.values("gbitops")[0], one.values(on)[0]), ours, on)


def _above(point: tuple[float, float], ours: Sequence[Row], on: str) -> bool:
    near = [row for row in ours if row.found and row.values("gbitops")[0] <= point[0]]
    return any(row.values(on)[0] > point[1] for row in near)


PARTS: dict[str, Callable[[argparse.Namespace], list[str]]] = {
    "x4": x4,
    "x2": x2,
    "aware": aware,
    "noise": noise,
    "entropy": entropy,
    "adq": adq,
    "mixed": mixed,
    "qat": qat,
}


def finished(name: str, args: argparse.Namespace) -> list[str] | None:
    """What a part has found, where all of it is there."""
    try:
        return PARTS[name](args)
    except (OSError, SystemExit, ValueError, IndexError):
        return None


def page(found: Mapping[str, list[str] | None], hours: float) -> str:
    """All parts as a page; found: what each has found, none where it is not finished."""
    lines, missing = ["# Study", "", *INTRODUCTION], []
    for name, part in PARTS.items():
        told = found[name]
        if told is None:
            missing.append(f"`{name}`")
            continue
        lines += ["", f"## {(part.__doc__ or name).splitlines()[0].rstrip('.')}", ""]
        how = f" --hours {hours:g}" if part in (x4, x2) else ""
        lines += [f"`python benchmarks/study.py {name}{how}`", ""]
        for line in told:
            lines += ["", line] if line.startswith("**") and lines[-1] else [line]
    if missing:
        lines += ["", "## Not measured yet", "", f"{', '.join(missing)}: see `--help`."]
    return "\n".join(lines) + "\n"


INTRODUCTION = [
    "What each claim of the method is worth in this project's own numbers. Made by",
    "`python benchmarks/study.py all --write docs/study.md`; each part by the command below its",
    "heading, with `--data`, `--test` and `--output` as described there (`--help`). PSNR-Y of the",
    "exported file in dB by the protocol of [results](results.md); GBitOps at LR 32x32. A claim is",
    "confirmed, or reversed, when the mean difference is more than twice its standard error over",
    "the seeds, else not confirmed. The arm with all defaults is the same three runs in every",
    "table about searches, so those verdicts depend on each other. Networks on the fronts have one",
    "run each: differences of a few hundredths of a dB may be chance.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "all"])
    parser.add_argument("--output", type=Path, default=Path("runs/study"))
    parser.add_argument("--data", help="folder of photographs to learn from, for the fronts")
    parser.add_argument("--test", action="append", default=[], help="folder, repeatable")
    parser.add_argument("--hours", type=float, default=0.1, help="of training, on the fronts")
    parser.add_argument("--seeds", type=int, default=3, help="of the claims")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", type=Path, help="page to put the finished parts into")
    parser.add_argument("--finished", action="store_true", help="print, and compute nothing")
    args = parser.parse_args()
    args.output = args.output.resolve()
    found: dict[str, list[str] | None] = {}
    for name in PARTS if "all" in args.parts else args.parts:
        found[name] = told = finished(name, args) if args.finished else PARTS[name](args)
        if told is not None:
            print("\n".join(["", f"## {name}", "", *told]))
    if args.write is not None:
        args.finished = True
        found |= {name: finished(name, args) for name in PARTS if name not in found}
        args.write.write_text(page(found, args.hours))


if __name__ == "__main__":
    main()
