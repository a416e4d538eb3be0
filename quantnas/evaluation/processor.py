"""What of this machine decides how fast ONNX Runtime is: processor, cores, instructions."""

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
"""Feature -> the capabilities by torch's names, of which one is enough."""
DOT = {"vnni": "VNNI", "dotprod": "dot product instructions"}
"""The feature that multiplies and adds 8-bit integers in one instruction -> in words."""


@dataclass(frozen=True)
class Machine:
    """Where something was measured."""

    processor: str
    cores: int
    """Processor cores that this program may use."""
    features: dict[str, bool] | None
    """Instruction sets that matter on this kind of processor; None where torch knows none."""
    onnxruntime: str

    @property
    def lacks(self) -> str | None:
        """The missing feature without which 8-bit integers are slow, in words."""
        missing = [DOT[k] for k, there in (self.features or {}).items() if k in DOT and not there]
        return missing[0] if missing else None


def here() -> Machine:
    """This machine."""
    read = getattr(torch.cpu, "get_capabilities", dict)  # older versions of torch lack it
    name, features = processor(read())
    return Machine(name or platform.processor() or "unknown", cores(), features, ort.__version__)


def processor(capabilities: Mapping[str, Any]) -> tuple[str, dict[str, bool] | None]:
    """The processor's (name, features) among the capabilities that torch lists."""
    name = str(capabilities.get("cpu_name", ""))
    for table in (X86, ARM):
        if any(key in capabilities for keys in table.values() for key in keys):
            return name, {
                feature: any(capabilities.get(key, False) for key in keys)
                for feature, keys in table.items()
            }
    return name, None
