"""Does the file compute what the network computes? Load it as users do, run it, compare."""

import copy
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .errors import VerificationError
from .evaluate import session
from .onnx_graph import CONVOLUTIONS
from .patches import to_tensor
from .quantizer import ActQuantizer

LEAST = 55.0
"""dB that the file of a stable network reaches at least."""
FLOOR = 30.0
"""dB below which no file is accepted, whatever its network's own noise does."""
BEYOND = 1e-4
"""Share of its values that may differ by more than 2 steps."""
NOISE = 1e-4
"""Of a step: what float32 leaves of a sum of some hundred products in front of a rounding."""

INTEGER = ("QLinearConv", "ConvInteger")
"""What ONNX Runtime runs a convolution as, if not in float."""


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
    """Convolutions that ONNX Runtime runs in integers at its default level."""
    sensitivity: float | None = None
    """PSNR of the network against itself with the noise of float arithmetic in front of every
    rounding, dB; measured when the file is not within the limits of a stable network."""


def verify(path: Path, network: nn.Module, samples: Sequence[NDArray[np.uint8]]) -> Verification:
    """Compare the file with the frozen network on low-resolution uint8 images (H, W, 3).

    Two right implementations round a value in a thousand or less differently, and where inner
    activations have 4 bits or fewer, one such step can become several in the output. So a few
    values beyond 2 steps are allowed. In deep networks one value rounded the other way may change
    all behind it, and no two programs agree. A file beyond the limits is compared with what the
    network's own arithmetic noise does, and may differ by twice as much, but have 30 dB at least.

    Raises VerificationError when the file does not load at the default optimisation level, when
    more than one value in ten thousand differs by more than 2 steps or the whole lies below 55 dB
    and this is more than the noise explains, or when a convolution stays in float.
    """
    try:
        run = session(path)
    except Exception as error:
        raise VerificationError(
            f"ONNX Runtime {ort.__version__} does not load {path.name}: {error}.",
            "Update ONNX Runtime; 2-bit files need 1.24, 3- and 4-bit files 1.23.",
        ) from error
    reference = copy.deepcopy(network).double()  # so that only the file's own rounding counts
    wanted = [_pixels(reference, image) for image in samples]
    theirs = [_file_pixels(run, image) for image in samples]
    flat = _differences(theirs, wanted)
    found = Verification(
        images=len(samples),
        max_steps=int(np.abs(flat).max()),
        psnr=_psnr(flat),
        share_different=float(np.mean(flat != 0)),
        share_beyond=_beyond(flat),
        convolutions=_count(onnx.load(path), CONVOLUTIONS),
        integer_convolutions=_count(optimised(path), INTEGER),
    )
    if found.share_beyond > BEYOND or found.psnr < LEAST:
        with _noisy(reference):
            noise = _differences([_pixels(reference, image) for image in samples], wanted)
        found = replace(found, sensitivity=_psnr(noise))
        _require_explained(found, _beyond(noise), path)
    _require_integers(found, path)
    return found


def _require_explained(found: Verification, noise_beyond: float, path: Path) -> None:
    assert found.sensitivity is not None
    if found.psnr < max(FLOOR, min(LEAST, found.sensitivity - 3)) or found.share_beyond > max(
        BEYOND, 2 * noise_beyond
    ):
        raise VerificationError(
            f"{path.name} differs from the network: {found.share_beyond:.3%} of the values by more "
            f"than 2 steps, {found.psnr:.1f} dB (allowed: 0.010 %, 55 dB; the network against "
            f"itself with noise: {noise_beyond:.3%}, {found.sensitivity:.1f} dB; never below "
            f"{FLOOR:.0f} dB).",
            "If the network has hardly been trained, train it longer; else please report it, with "
            "the run folder.",
        )


def _require_integers(found: Verification, path: Path) -> None:
    if found.integer_convolutions < found.convolutions:
        left = found.convolutions - found.integer_convolutions
        raise VerificationError(
            f"{left} of {found.convolutions} convolutions of {path.name} stay in float in ONNX "
            f"Runtime {ort.__version__}.",
            "Please report it, with the run folder.",
        )


@contextmanager
def _noisy(network: nn.Module) -> Iterator[None]:
    """While this is open, what enters a grid is off by up to `NOISE` of its step."""
    generator = torch.Generator().manual_seed(0)

    def shake(grid: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = args
        noise = torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 - 1
        step = grid.step if grid.factors is None else grid.step * grid.factors
        return (x + noise * NOISE * step,)

    grids = [m for m in network.modules() if isinstance(m, ActQuantizer)]
    hooks = [grid.register_forward_pre_hook(shake) for grid in grids]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _differences(
    some: Sequence[NDArray[np.float64]], others: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """All values, one after the other, in steps of 1/255."""
    return np.concatenate([(a - b).ravel() for a, b in zip(some, others, strict=True)])


def _psnr(differences: NDArray[np.float64]) -> float:
    mse = float(np.mean(differences**2))
    return float("inf") if mse == 0 else float(10 * np.log10(255**2 / mse))


def _beyond(differences: NDArray[np.float64]) -> float:
    return float(np.mean(np.abs(differences) > 2))


def _file_pixels(run: ort.InferenceSession, image: NDArray[np.uint8]) -> NDArray[np.float64]:
    (out,) = run.run(None, {"lr": to_tensor(image[None]).numpy()})
    return np.round(np.asarray(out) * 255.0)


@torch.no_grad()
def _pixels(network: nn.Module, image: NDArray[np.uint8]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = network(to_tensor(image[None]).double()).numpy()
    return np.round(found * 255)


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
