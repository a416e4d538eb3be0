"""The properties of this machine that decide the speed of ONNX Runtime."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort
import torch

from quantnas.training.processes import cores

X86: dict[str, tuple[str, ...]] = {
    "avx2": ("avx2",),
    "avx512": ("avx512_f",),
    "vnni": ("avx512_vnni", "avx_vnni"),
    "bf16": ("avx512_bf16",),
    "amx": ("amx_int8",),
}
ARM: dict[str, tuple[str, ...]] = {"asimd": ("neon",), "dotprod": ("dot",), "i8mm": ("i8mm",)}
"""Feature -> names of capabilities in torch, of which one is enough."""
DOT = {"vnni": "VNNI", "dotprod": "dot product instructions"}
"""Feature that multiplies and adds 8-bit integers in one instruction -> its name in sentences."""


@dataclass(frozen=True)
class Machine:
    """The machine on which something was measured."""

    processor: str
    cores: int
    """Processor cores that this program may use."""
    features: dict[str, bool] | None
    """Relevant instruction sets -> whether the processor has them; None where torch knows none."""
    onnxruntime: str

    @property
    def lacks(self) -> str | None:
        """The missing feature without which 8-bit integers are slow, in words, or None."""
        missing = [DOT[k] for k, there in (self.features or {}).items() if k in DOT and not there]
        return missing[0] if missing else None


def here() -> Machine:
    """The machine on which this process runs."""
    read = getattr(torch.cpu, "get_capabilities", dict)  # older versions of torch lack it
    name, features = processor(read())
    return Machine(name or platform.processor() or "unknown", cores(), features, ort.__version__)


def processor(capabilities: Mapping[str, Any]) -> tuple[str, dict[str, bool] | None]:
    """The (name, features) of the processor, from the capabilities that torch lists."""
    name = str(capabilities.get("cpu_name", ""))
    for table in (X86, ARM):
        if any(key in capabilities for keys in table.values() for key in keys):
            return name, {
                feature: any(capabilities.get(key, False) for key in keys)
                for feature, keys in table.items()
            }
    return name, None
