"""Writes a torch.nn.Module as an ONNX file for the importer, and checks that both compute the same.

The TorchScript exporter of torch is used: the newer one needs packages that are not required here,
takes seconds instead of a tenth, and prints.
"""

import copy
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantnas.errors import DataError

from . import file_reader

OPSET = 17
"""Version of the operators that are written."""
SIZES = ((24, 32), (40, 56), (48, 72))
"""Heights and widths: the first at which the module runs is traced, all that it takes compared."""
CLOSE = 1e-4
"""Largest difference between module and file, as a share of the range of the output."""
REMEDY = "Give an nn.Module from one image (N, 1 or 3, H, W) to a larger one, of any H and W."


@contextmanager
def exported(module: nn.Module) -> Iterator[Path]:
    """The module, in evaluation mode, as an ONNX file that takes any size; gone after the block.

    The module itself is not changed. Raises DataError when it takes neither 1 nor 3 channels, when
    torch cannot write it, and when the file computes something else, as one that was traced with
    the size of the image as a constant.
    """
    net = copy.deepcopy(module).eval().cpu().float()
    with tempfile.TemporaryDirectory(prefix="quantnas-") as folder:
        file = Path(folder) / f"{type(module).__name__}.onnx"
        _write(net, _image(net), file)
        _require_same(net, file)
        yield file


def _image(net: nn.Module) -> Tensor:
    """(1, C, H, W) that the module can take."""
    reasons = []
    for height, width in SIZES:
        for channels in (3, 1):
            image = _noise(channels, (height, width))
            try:
                out = _run(net, image)
            except Exception as error:  # of any module
                reasons.append(file_reader.line(error))
                continue
            if isinstance(out, Tensor) and out.dim() == 4:
                return image
            reasons.append("it does not give one tensor (N, C, H, W)")
    raise DataError(f"{_name(net)} cannot enlarge an image: {reasons[0]}.", REMEDY)


def _noise(channels: int, size: tuple[int, int]) -> Tensor:
    """(1, C, H, W) in [0, 1]; the caller's own random numbers stay as they are."""
    return torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _run(net: nn.Module, image: Tensor) -> Any:
    return net(image)


def _write(net: nn.Module, image: Tensor, file: Path) -> None:
    axes = {0: "images", 2: "height", 3: "width"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of the exporter's age, and of traces; see _require_same
            torch.onnx.export(
                net,
                (image,),
                str(file),
                input_names=["image"],
                output_names=["enlarged"],
                dynamic_axes={"image": axes, "enlarged": {n: f"{s}_out" for n, s in axes.items()}},
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:  # of many kinds
        raise DataError(
            f"torch cannot write {_name(net)} as ONNX: {file_reader.line(error)}.",
            "Export it to ONNX yourself, and give the file.",
        ) from error


def _require_same(net: nn.Module, file: Path) -> None:
    """Raise DataError unless ONNX Runtime gives what the module does at the sizes that it takes."""
    session = file_reader.session(file, file)
    channels = session.get_inputs()[0].shape[1]
    for size in SIZES:
        image = _noise(channels, size)
        try:
            wanted = _run(net, image).numpy()
        except Exception:  # of any module: it does not take this size
            continue
        try:
            found = np.asarray(session.run(None, {"image": image.numpy()})[0])
            same = found.shape == wanted.shape and _apart(found, wanted) <= CLOSE
        except Exception:  # ONNX Runtime has no class for what it cannot run
            same = False
        if not same:
            raise DataError(
                f"{_name(net)} computes something else as ONNX at {size[1]}x{size[0]} pixels.",
                "Let its forward() not depend on numbers taken from the size or content of images.",
            )


def _apart(found: Any, wanted: Any) -> float:
    return float(np.abs(found - wanted).max() / max(1e-6, float(np.ptp(wanted))))


def _name(net: nn.Module) -> str:
    return f"The module {type(net).__name__}"
