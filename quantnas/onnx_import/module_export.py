"""Export of a torch.nn.Module to an ONNX file for the importer, with a check that both agree.

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

from quantnas.errors import DataError, QuantnasError

from . import file_reader

OPSET = 17
"""Opset of the written file."""
SIZES = ((24, 32), (40, 56), (48, 72))
"""(height, width) to try: the first size at which the module runs is traced, and module and file
are compared at all sizes that the module takes."""
CLOSE = 1e-4
"""Largest difference between module and file, as a share of the range of the output."""
REMEDY = "Give an nn.Module from one image (N, 1 or 3, H, W) to a larger one, of any H and W."


@contextmanager
def exported(module: nn.Module) -> Iterator[Path]:
    """Write a module, in evaluation mode, to a temporary ONNX file that takes images of any size.

    The file is deleted when the `with` block ends; the module itself is not changed. Raises
    DataError when the module takes neither 1 nor 3 channels, when torch cannot write it, and when
    the file computes something else, for example because the image's size was traced as a constant.
    """
    net = copy.deepcopy(module).eval().cpu().float()
    with tempfile.TemporaryDirectory(prefix="quantnas-") as folder:
        file = Path(folder) / f"{type(module).__name__}.onnx"
        _write(net, _image(net), file)
        _require_same(net, file)
        try:
            yield file
        except QuantnasError as error:  # the caller knows the module, not the temporary file
            cause = error.cause.replace(str(file), _name(net))
            raise type(error)(cause, error.remedy) from error


def _image(net: nn.Module) -> Tensor:
    """An image (1, C, H, W) that the module can enlarge. Raises DataError when there is none."""
    reasons = []
    for height, width in SIZES:
        for channels in (3, 1):
            image = _noise(channels, (height, width))
            try:
                out = _run(net, image)
            except Exception as error:  # a module may raise anything
                reasons.append(file_reader.line(error))
                continue
            if isinstance(out, Tensor) and out.dim() == 4:
                return image
            reasons.append("it does not give one tensor (N, C, H, W)")
    raise DataError(f"{_name(net)} cannot enlarge an image: {reasons[0]}.", REMEDY)


def _noise(channels: int, size: tuple[int, int]) -> Tensor:
    """Noise (1, C, H, W) in [0, 1], which leaves the global random numbers as they are."""
    return torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _run(net: nn.Module, image: Tensor) -> Any:
    return net(image)


def _write(net: nn.Module, image: Tensor, file: Path) -> None:
    """Write the module, traced on an image, to an ONNX file. Raises DataError when that fails."""
    axes = {0: "images", 2: "height", 3: "width"}
    try:
        with warnings.catch_warnings():
            # It warns that it is deprecated, and of constants in traces: see _require_same.
            warnings.simplefilter("ignore")
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
    except Exception as error:  # torch raises many kinds
        raise DataError(
            f"torch cannot write {_name(net)} as ONNX: {file_reader.line(error)}.",
            "Export it to ONNX yourself, and give the file.",
        ) from error


def _require_same(net: nn.Module, file: Path) -> None:
    """Raise DataError unless module and file agree at all sizes that the module takes."""
    session = file_reader.session(file, file)
    channels = session.get_inputs()[0].shape[1]
    for size in SIZES:
        image = _noise(channels, size)
        try:
            expected = _run(net, image).numpy()
        except Exception:  # the module does not take this size; it may raise anything
            continue
        try:
            actual = np.asarray(session.run(None, {"image": image.numpy()})[0])
            same = actual.shape == expected.shape and _difference(actual, expected) <= CLOSE
        except Exception:  # ONNX Runtime has no common class of errors
            same = False
        if not same:
            raise DataError(
                f"{_name(net)} computes something else as ONNX at {size[1]}x{size[0]} pixels.",
                "Let its forward() not depend on numbers taken from the size or content of images.",
            )


def _difference(actual: Any, expected: Any) -> float:
    """Largest difference of two arrays, as a share of the range of the second."""
    return float(np.abs(actual - expected).max() / max(1e-6, float(np.ptp(expected))))


def _name(net: nn.Module) -> str:
    """The beginning of a message about a module."""
    return f"The module {type(net).__name__}"
