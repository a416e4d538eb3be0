"""Does the file compute what the network computes? Load it as users do, run it, compare."""

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from .errors import VerificationError
from .evaluate import session
from .patches import to_tensor


@dataclass(frozen=True)
class Verification:
    """What was found."""

    images: int
    max_steps: int
    """Largest difference to torch, in 1/255."""
    psnr: float
    """Of the file's pixels against torch's, dB; infinite = equal."""
    share_different: float
    share_beyond: float
    """Share of the values that differ by more than 2 steps."""
    convolutions: int
    integer_convolutions: int
    """Convolutions that ONNX Runtime turned into integer ones at its default level."""


def verify(path: Path, network: nn.Module, samples: Sequence[NDArray[np.uint8]]) -> Verification:
    """Compare the file with the frozen network on low-resolution uint8 images (H, W, 3).

    Two right implementations round a value in a thousand or less differently, and where inner
    activations have 4 bits or fewer, one such step can become several in the output. So a few
    values beyond 2 steps are allowed. Raises VerificationError when the file does not load at
    the default optimisation level, when more than one value in ten thousand differs by more than
    2 steps, when the whole lies below 55 dB, or when a convolution stays in float.
    """
    try:
        run = session(path)
    except Exception as error:
        raise VerificationError(
            f"ONNX Runtime {ort.__version__} does not load {path.name}: {error}.",
            "Update ONNX Runtime; 2-bit files need 1.24, 3- and 4-bit files 1.23.",
        ) from error
    reference = copy.deepcopy(network).double()  # so that only the file's own rounding counts
    differences = [_difference(run, reference, image) for image in samples]
    flat = np.concatenate([d.ravel() for d in differences])
    mse = float(np.mean(flat**2))
    found = Verification(
        images=len(samples),
        max_steps=int(np.abs(flat).max()),
        psnr=float("inf") if mse == 0 else float(10 * np.log10(255**2 / mse)),
        share_different=float(np.mean(flat != 0)),
        share_beyond=float(np.mean(np.abs(flat) > 2)),
        convolutions=_count(onnx.load(path), ("Conv",)),
        integer_convolutions=_count(optimised(path), ("QLinearConv",)),
    )
    _require(found, path)
    return found


def _require(found: Verification, path: Path) -> None:
    if found.share_beyond > 1e-4 or found.psnr < 55:
        raise VerificationError(
            f"{path.name} differs from the network: {found.share_beyond:.3%} of the values by more "
            f"than 2 steps, {found.psnr:.1f} dB (allowed: 0.010 %, 55 dB).",
            "If the network has hardly been trained, train it longer; else please report it, with "
            "the run folder.",
        )
    if found.integer_convolutions < found.convolutions:
        left = found.convolutions - found.integer_convolutions
        raise VerificationError(
            f"{left} of {found.convolutions} convolutions of {path.name} stay in float in ONNX "
            f"Runtime {ort.__version__}.",
            "Please report it, with the run folder.",
        )


def _difference(
    run: ort.InferenceSession, network: nn.Module, image: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """File minus torch, in steps of 1/255."""
    low = to_tensor(image[None])
    (out,) = run.run(None, {"lr": low.numpy()})
    with torch.no_grad():
        wanted = network(low.double()).numpy()
    return np.round(np.asarray(out) * 255.0) - np.round(wanted * 255)


def optimised(path: Path) -> onnx.ModelProto:
    """The graph that ONNX Runtime runs at its default level."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(target)
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(target)


def _count(model: onnx.ModelProto, kinds: tuple[str, ...]) -> int:
    return sum(node.op_type in kinds for node in model.graph.node)
