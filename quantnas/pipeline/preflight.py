"""Checks before any work begins, which refuse impossible settings, photographs and sizes."""

from collections.abc import Sequence

from quantnas.architectures import cost, registry
from quantnas.config import genotype, search_space
from quantnas.config.run_config import QuantizeConfig, RunConfig, SearchConfig
from quantnas.data import image_files, photo_cache, photo_sets, photographs
from quantnas.data.holdout import Photographs
from quantnas.data.photographs import Photograph
from quantnas.errors import DataError, UsageError
from quantnas.nas import bitops_budget, random_search
from quantnas.quantization import bit_widths
from quantnas.training import processes


def check(config: RunConfig, chosen: Photographs, verb: str = "run") -> None:
    """Raise DataError or UsageError for settings with which `verb` cannot succeed.

    Photographs for the evaluation are decoded now, so that a damaged one is not found at the end.
    """
    processes.device(config)
    space = search_space.load(config.space, config.scale)
    if verb in ("run", "quantize") and config.quantize.budget is None:
        bit_widths.require_bits(space, config.bits)
    slots = registry.slots(space)
    if config.genotype is not None:
        genotype.check(genotype.load(config.genotype), slots, space.name)
    _check_sizes(space, config)
    if config.search.target_bitops is not None:
        _check_target(slots, space.scale, config.search)
    if config.search.strategy == "random":
        random_search.draw(slots, space, config.search, 1, config.seed)
    measured = list(chosen.held_out)
    for folder in config.benchmarks:
        measured += photographs.find(folder, space.scale)
    photographs.require_fitting([*chosen.train, *measured], space.scale)
    if verb in ("run", "quantize") and config.quantize.calib is not None:
        _check_calibration(space, config.quantize, measured)
    _check_patches(space, config, chosen, verb)
    split = config.data is not None and config.eval_data is None
    for photo in measured:
        _require_whole(photo, space.scale, split and photo in chosen.held_out)


def _require_whole(photo: Photograph, scale: int, split: bool) -> None:
    """Raise DataError for a photograph that cannot be measured on.

    split: whether it was held out automatically, not named by the user.
    """
    try:
        photo_sets.require_size(image_files.read(photo.high), photo.high, scale)
        if photo.low is not None:
            image_files.read(photo.low)
    except DataError as error:
        remedy = "Replace or remove the file, or give --eval-data a folder of other photographs."
        raise DataError(error.cause, remedy if split else error.remedy) from error


def _check_calibration(
    space: search_space.SearchSpace, config: QuantizeConfig, measured: Sequence[Photograph]
) -> None:
    """Raise DataError for a calibration set without a crop, or with evaluation photographs."""
    scale = space.scale if config.reduce else 1
    photos = photographs.find(str(config.calib), scale)
    if not photo_cache.any_holds(photos, scale, config.patch):
        side, remedy = photographs.patch_of(photos, scale), "Give larger photographs."
        if side >= registry.smallest(space):
            remedy = f"Give larger ones, or smaller crops: --set quantize.patch={side}"
        raise DataError(
            f"No photograph in {config.calib} holds a crop of {config.patch * scale} pixels.",
            remedy,
        )
    learned = {photo.high.resolve() for photo in photos}
    photographs.require_apart(measured, learned, f"in {config.calib} too", "--calib")


def _check_patches(
    space: search_space.SearchSpace, config: RunConfig, chosen: Photographs, verb: str
) -> None:
    """Raise DataError unless a photograph can hold the largest patch that a step will cut."""
    sides = {
        "search": config.search.patch,
        "train": config.train.patch,
        "quantize": config.quantize.patch,
    }
    sizes = [side for step, side in sides.items() if verb in (step, "run")]
    if sizes and not photo_cache.any_holds(chosen.train, space.scale, max(sizes)):
        raise DataError(
            f"No photograph is as large as a patch of {max(sizes)} low-resolution pixels at "
            f"x{space.scale}.",
            "Add larger photographs, or make the patches smaller.",
        )


def _check_sizes(space: search_space.SearchSpace, config: RunConfig) -> None:
    least = registry.smallest(space)
    sides = {
        "search.patch": config.search.patch,
        "search.at": min(config.search.resolution),
        "train.patch": config.train.patch,
        "quantize.patch": config.quantize.patch,
    }
    for name, side in sides.items():
        if side < least:
            raise UsageError(
                f"`{name}` is {side} pixels, but skeleton '{space.skeleton}' needs {least}.",
                "Make it larger.",
            )


def _check_target(slots: Sequence[search_space.Slot], scale: int, config: SearchConfig) -> None:
    assert config.target_bitops is not None
    tables = cost.choice_bitops(slots, scale, config.resolution)
    costs = {name: table.numpy() for name, table in tables.items()}
    bitops_budget.check(costs, config.target_bitops, config.at)
