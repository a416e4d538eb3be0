"""Checks the installed packages against the requirements that quantnas declares.

Everything is read from the metadata of installed packages, so that a new dependency or extra
appears here by itself. No heavy package is imported at the top, so that missing packages can be
reported even where torch is one of them.
"""

import importlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement

from quantnas import __version__

from .findings import Check, fatal

NAME = "quantnas"
FOR_DEVELOPERS = "dev"
"""The extra that is not checked."""
PURPOSES = {
    "several": "`--processes`",
    "tensorboard": "`--tensorboard`",
    "litert": "`export --format tflite`",
    "ray": "`sweep --ray`",
}
"""Extra -> the option or command that needs it."""
LOADED = ("numpy", "torch", "onnx", "onnxruntime")
"""Packages that are imported as a check, since they may be installed and broken."""
NOT_INSTALLED = Check(
    "quantnas",
    "note",
    f"quantnas {__version__} is not installed, so what it needs is not known here.",
    "Install it with: pip install -c constraints.txt .",
)
REST = Check(
    "all else",
    "note",
    "Nothing else can be checked without it.",
    "Install what is missing, then run `quantnas doctor` again.",
)


@dataclass(frozen=True)
class Package:
    """A package that quantnas needs, always or for an extra."""

    name: str
    wanted: str
    """Suitable versions, such as >=2.6."""
    version: str | None
    """The installed version; None = not installed."""
    fits: bool
    """Whether the installed version is suitable."""
    extra: str | None = None
    """The extra that needs it; None = it is always needed."""


def installed(name: str) -> str | None:
    """The version of a package, under its own name or another that brings the same module.

    `onnxruntime-gpu` brings the module `onnxruntime`, for example. None = not installed.
    """
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        names = importlib.metadata.packages_distributions().get(name.replace("-", "_"), [])
    return importlib.metadata.version(names[0]) if names else None


def packages(
    requires: Iterable[str],
    extras: Sequence[str],
    version: Callable[[str], str | None] = installed,
) -> list[Package]:
    """Everything that quantnas and its extras need on this machine.

    requires, extras: as the metadata of quantnas declare them. version: the installed version of
    a package by its name.
    """
    required = []
    for line in map(Requirement, requires):
        names = [extra for extra in ("", *extras) if extra != FOR_DEVELOPERS]
        extra = next(
            (e for e in names if not line.marker or line.marker.evaluate({"extra": e})), None
        )
        if extra is not None:
            there = version(line.name)
            fits = there is not None and line.specifier.contains(there, prereleases=True)
            required.append(Package(line.name, str(line.specifier), there, fits, extra or None))
    return required


def judged(required: Sequence[Package]) -> Iterator[Check]:
    """All versions in one check, and a check for every package that is missing or unfit."""
    versions = [f"{NAME} {__version__}", f"Python {platform.python_version()}"]
    versions += [f"{package.name} {package.version}" for package in required if package.fits]
    yield Check("versions", "ok", f"{', '.join(versions)}.")
    yield from (_unfit(package) for package in required if not package.fits)


def _unfit(package: Package) -> Check:
    """The check of a package that is missing or has an unsuitable version."""
    name, wanted, extra = package.name, package.wanted, package.extra
    remedy = f"Install it with: pip install '{name}{wanted}'"
    if extra is not None:
        remedy = f"Install it with: pip install '{NAME}[{extra}]'"
    if package.version is not None:
        finding = f"{name} {package.version} is installed, but {NAME} needs {wanted}."
        return Check(name, "problem", finding, remedy)
    if extra is not None:
        use = PURPOSES.get(extra, f"the extra {extra}")
        return Check(name, "note", f"{name} is not installed; {use} needs it.", remedy)
    finding = f"{name} is not installed, and {NAME} does not work without it."
    return Check(name, "problem", finding, remedy, fatal=True)


def broken(required: Iterable[Package]) -> Iterator[Check]:
    """A check for every package of `LOADED` that is installed and cannot be imported."""
    for package in required:
        if package.name not in LOADED or package.version is None:
            continue
        try:
            importlib.import_module(package.name)
        except Exception as error:  # whatever a package raises that does not fit the others
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(".: ")
            yield Check(
                package.name,
                "problem",
                f"{package.name} cannot be imported: {reason}.",
                f"Try: pip install --force-reinstall '{package.name}{package.wanted}'",
                fatal=True,
            )


def examine() -> tuple[list[Package], list[Check]]:
    """The packages that quantnas needs, and the checks of them."""
    try:
        distribution = importlib.metadata.distribution(NAME)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        required = [
            Package(name, "", installed(name), installed(name) is not None) for name in LOADED
        ]
        checks = [NOT_INSTALLED]
    else:
        extras = distribution.metadata.get_all("Provides-Extra") or []
        required, checks = packages(distribution.requires or (), extras), []
    checks += [*judged(required), *broken(required)]
    return required, checks + ([REST] if fatal(checks) else [])
