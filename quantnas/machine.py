"""What of this machine decides how fast ONNX Runtime is: processor, cores, instructions."""

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from .runs import cores

CPUINFO = Path("/proc/cpuinfo")
X86: dict[str, tuple[str, ...]] = {
    "avx2": ("avx2",),
    "avx512": ("avx512f",),
    "vnni": ("avx512_vnni", "avx_vnni"),
    "bf16": ("avx512_bf16",),
    "amx": ("amx_int8",),
}
ARM: dict[str, tuple[str, ...]] = {"asimd": ("asimd",), "dotprod": ("asimddp",), "i8mm": ("i8mm",)}
"""Feature -> the flags of the system, of which one is enough."""
DOT = {"vnni": "VNNI", "dotprod": "dot product instructions"}
"""The feature that multiplies and adds 8-bit integers in one instruction -> in words."""


@dataclass(frozen=True)
class Machine:
    """Where something was measured."""

    processor: str
    cores: int
    """That this program may use."""
    features: dict[str, bool] | None
    """Those that matter on this kind of processor; none where the system does not tell."""
    onnxruntime: str

    @property
    def lacks(self) -> str | None:
        """The missing feature without which 8-bit integers are slow, in words."""
        missing = [DOT[k] for k, there in (self.features or {}).items() if k in DOT and not there]
        return missing[0] if missing else None


def here() -> Machine:
    """This machine."""
    try:
        text = CPUINFO.read_text(encoding="utf-8")
    except OSError:
        text = ""
    name, features = processor(text)
    return Machine(name or platform.processor() or "unknown", cores(), features, ort.__version__)


def processor(text: str) -> tuple[str, dict[str, bool] | None]:
    """(name, features) as /proc/cpuinfo states them for the first core."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    name = found.get("model name", "")
    for key, table in (("flags", X86), ("Features", ARM)):
        if key in found:
            return name, _present(found[key].split(), table)
    return name, None


def _present(flags: Iterable[str], table: dict[str, tuple[str, ...]]) -> dict[str, bool]:
    there = {*flags}
    return {name: not there.isdisjoint(names) for name, names in table.items()}
