"""Which packages are installed, beside what the installed quantnas declares that it needs.

Everything is read from the metadata of installed packages, so that a new extra appears here by
itself. Nothing heavy is needed: what is missing can be told even where torch is. `packaging`,
which knows versions, comes with onnxruntime and matplotlib.
"""

import importlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from . import __version__
from .checks import Check, fatal

NAME = "quantnas"
FOR_DEVELOPERS = ("dev",)
"""Extras that are left out."""
PURPOSES = {
    "several": "`--processes`",
    "tensorboard": "`--tensorboard`",
    "litert": "`export --format tflite`",
    "ray": "`sweep --ray`",
    "baselines": "`quantize --method` gptq, gpfq and qronos",
}
"""Extra -> what needs it, where that is worth a word."""
LOADED = ("numpy", "torch", "onnx", "onnxruntime")
"""Packages that are imported, since they may be installed and broken."""
REST = Check(
    "all else",
    "note",
    "Nothing else can be checked without it.",
    "Install what is missing, then run `quantnas doctor` again.",
)
Versions = Callable[[str], str | None]
"""Name of a package -> its version; none where it is not installed."""


@dataclass(frozen=True)
class Declared:
    """What an installed package says of itself."""

    version: str
    python: str
    """The versions of Python that it takes, as >=3.11."""
    requires: tuple[str, ...]
    extras: tuple[str, ...]


@dataclass(frozen=True)
class Package:
    """A package that is needed."""

    name: str
    wanted: str
    """Versions, as >=2.6."""
    version: str | None
    """The installed one."""
    fits: bool
    extra: str | None = None
    """The extra that needs it; none = it is always needed."""


def declared(name: str = NAME) -> Declared | None:
    """What is installed under that name; none where nothing is."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    extras = found.metadata.get_all("Provides-Extra") or []
    (python,) = found.metadata.get_all("Requires-Python") or [""]
    return Declared(found.version, str(python), tuple(found.requires or ()), tuple(extras))


def installed(name: str) -> str | None:
    """The version of a package, under its own name or another that brings the same module.

    `onnxruntime-gpu` brings the module `onnxruntime`, for example.
    """
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        names = importlib.metadata.packages_distributions().get(name.replace("-", "_"), [])
    return importlib.metadata.version(names[0]) if names else None


def packages(told: Declared, version: Versions = installed) -> list[Package]:
    """All that is needed here, and all that the extras need, developers' ones left out."""
    from packaging.requirements import Requirement
    from packaging.version import InvalidVersion, Version

    def package(one: Requirement, extra: str | None) -> Package:
        found = version(one.name)
        try:
            fits = found is not None and one.specifier.contains(Version(found), prereleases=True)
        except InvalidVersion:  # of a build by hand: nobody can say
            fits = True
        return Package(one.name, str(one.specifier), found, fits, extra)

    lines = [Requirement(line) for line in told.requires]
    always = [r for r in lines if r.marker is None or r.marker.evaluate({"extra": ""})]
    rest = [r for r in lines if r not in always and r.marker is not None]
    found = [package(r, None) for r in always]
    for extra in told.extras:
        if extra not in FOR_DEVELOPERS:
            needed = [r for r in rest if r.marker and r.marker.evaluate({"extra": extra})]
            found += [package(r, extra) for r in needed]
    return found


def judged(told: Declared | None, found: Sequence[Package]) -> list[Check]:
    """Versions of everything, and the extras."""
    always = [p for p in found if p.extra is None]
    fine = [f"{p.name} {p.version}" for p in always if p.fits]
    checks = [*_own(told)]
    if fine:
        checks.append(Check("packages", "ok", f"{', '.join(fine)}."))
    checks += [_needed(p) for p in always if not p.fits]
    for extra in dict.fromkeys(p.extra for p in found if p.extra is not None):
        checks.append(_extra(extra, [p for p in found if p.extra == extra]))
    return checks


def _own(told: Declared | None) -> Iterator[Check]:
    """quantnas itself, and Python."""
    if told is None:
        yield Check(
            "quantnas",
            "note",
            f"quantnas {__version__} is not installed, so what it needs is not known here.",
            "Install it with: pip install -c constraints.txt .",
        )
    elif told.version != __version__:
        yield Check(
            "quantnas",
            "note",
            f"quantnas {__version__} runs, but {told.version} is installed: what it needs is read "
            "from there.",
            "Install it again with: pip install -c constraints.txt .",
        )
    else:
        yield Check("quantnas", "ok", f"quantnas {__version__}.")
    yield python(told.python if told else "", platform.python_version())


def python(wanted: str, version: str) -> Check:
    """The interpreter, beside the versions that are wanted."""
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Check("Python", "ok", f"Python {version}.")
    return Check(
        "Python",
        "problem",
        f"Python {version} runs, but quantnas needs {wanted}.",
        "Make a new environment with such a Python, and install quantnas into it.",
    )


def _needed(package: Package) -> Check:
    """One that is always needed, and missing or not as wanted."""
    name, wanted = package.name, package.wanted
    if package.version is None:
        cause = f"{name} is not installed, and nothing works without it."
    else:
        cause = f"{name} {package.version} is installed, but quantnas needs {wanted}."
    remedy = f"Install it with: pip install '{name}{wanted}'"
    return Check(name, "problem", cause, remedy, fatal=package.version is None)


def _extra(name: str, found: Sequence[Package]) -> Check:
    """The packages of one extra."""
    topic, remedy = f"extra {name}", f"Install it with: pip install '{NAME}[{name}]'"
    wrong = [p for p in found if p.version is not None and not p.fits]
    missing = [p.name for p in found if p.version is None]
    if wrong:
        told = ", ".join(f"{p.name} {p.version} is installed, but {p.wanted} needed" for p in wrong)
        return Check(topic, "problem", f"{told}.", remedy)
    if missing:
        use = f", which {PURPOSES[name]} needs" if name in PURPOSES else ""
        are = "is" if len(missing) == 1 else "are"
        cause = f"{', '.join(missing)} {are} not installed{use}."
        return Check(topic, "note", cause, remedy)
    return Check(topic, "ok", f"{', '.join(f'{p.name} {p.version}' for p in found)}.")


def broken(found: Iterable[Package]) -> Iterator[Check]:
    """Packages of `LOADED` that are there and cannot be imported."""
    there = {p.name: p.wanted for p in found if p.name in LOADED and p.version is not None}
    for name, wanted in there.items():
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a package raises that does not fit the others
            told = " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(".: ")
            yield Check(
                name,
                "problem",
                f"{name} cannot be imported: {told}.",
                f"Try: pip install --force-reinstall '{name}{wanted}'",
                fatal=True,
            )


def unknown(name: str) -> Package:
    """One of which nothing is declared, taken as there."""
    return Package(name, "", "", True)


def examine() -> tuple[list[Package], list[Check]]:
    """What is installed here, and what is wrong with it."""
    try:
        importlib.import_module("packaging")
    except ImportError:
        cause = "packaging is not installed, which onnxruntime and matplotlib need."
        remedy = "Install quantnas again with: pip install -c constraints.txt ."
        return [], [Check("packages", "problem", cause, remedy, fatal=True)]
    told = declared()
    found = packages(told) if told else []
    checks = [*judged(told, found), *broken(found or map(unknown, LOADED))]
    return found, checks + ([REST] if fatal(checks) else [])
