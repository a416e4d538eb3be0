"""Verification that an exported ONNX file computes what its network computes.

The file is checked, loaded and run in ONNX Runtime, with optimisation and without. Without it,
everything between two roundings is computed in float: that is another correct implementation, with
the same limits.
"""

import copy
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantnas.architectures import cost
from quantnas.architectures.imported_onnx import ImportedNetwork
from quantnas.config.search_space import Pixels
from quantnas.data.patches import to_tensor
from quantnas.errors import DataError, VerificationError
from quantnas.inference import upscaler
from quantnas.nn.convolutions import QuantConv2d
from quantnas.nn.quantizers import ActQuantizer
from quantnas.onnx_import.onnx_session import open_session

from . import integer_fusion, onnx_metadata, weight_verification
from .graph_index import wired

LEAST = 55.0
"""Least PSNR of a stable network's file against the network, dB."""
FLOOR = 30.0
"""PSNR below which no file is accepted, whatever noise does to its network, dB."""
BEYOND = 1e-4
"""Share of the values of a stable network's file that may differ by more than 2 steps."""
NOISE = 1e-4
"""Rounding error of a float32 sum of some hundred products, in steps of the next grid."""
NAMED = 5
"""Number of layers that an error names at most."""

DEFAULT = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
"""Optimisation level that ONNX Runtime has by default."""
OFF = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
"""Optimisation level at which the graph runs as it is written."""


@dataclass(frozen=True)
class Difference:
    """Difference between the pixels of a file and those of its network in torch."""

    max_steps: int
    """Largest difference, in steps of 1/255."""
    psnr: float
    """PSNR of the file against the network, dB; infinite = equal."""
    share_different: float
    """Share of the values that differ."""
    share_beyond: float
    """Share of the values that differ by more than 2 steps."""

    @property
    def small(self) -> bool:
        """Whether the difference is within the limits of a stable network."""
        return self.share_beyond <= BEYOND and self.psnr >= LEAST


@dataclass(frozen=True)
class Verification:
    """Results of a verification; differences are those at ONNX Runtime's default level."""

    images: int
    """Number of images compared."""
    max_steps: int
    psnr: float
    share_different: float
    share_beyond: float
    convolutions: int
    """Number of convolutions in the file."""
    integer_convolutions: int
    """Convolutions that ONNX Runtime runs in integers at its default level."""
    slower: dict[str, str] = field(default_factory=dict)
    """Name of each integer convolution that is no QLinearConv, which is faster -> the reason."""
    sensitivity: float | None = None
    """PSNR of the network against itself with the noise of float arithmetic in front of every
    rounding, dB; measured when the file is not within the limits of a stable network."""
    unoptimised: Difference | None = None
    """Difference with optimisation off."""


def verify(path: Path, network: nn.Module, samples: Sequence[NDArray[np.uint8]]) -> Verification:
    """Compare a file with its frozen network on low-resolution uint8 images (H, W, 3).

    Two correct implementations round at most about one value in a thousand differently; when inner
    activations have 4 bits or fewer, one such step can become several in the output. So a few
    values beyond 2 steps are allowed. In deep networks, one value that is rounded the other way may
    change all values behind it, and no two programs agree. A file beyond the limits is therefore
    compared with the effect of arithmetic noise on the network itself; it may differ by twice as
    much, but must reach 30 dB.

    Raises VerificationError when ONNX's checker refuses the file; when it does not load with
    optimisation or without; when a layer is not stored as the metadata state, or with other
    integers than the network's; when a rounded layer runs in float; and when, with optimisation or
    without, more than one value in ten thousand differs by more than 2 steps or the PSNR is below
    55 dB, and the noise does not explain it.
    """
    _require_valid(path)
    model, runs = onnx.load(path), {level: _session(path, level) for level in (DEFAULT, OFF)}
    rows = _require_stored(model, network, path)
    fast = optimised(path)
    integers = _require_integers(model, fast, rows, path)
    pixels = network.pixels if isinstance(network, ImportedNetwork) else None
    reference = copy.deepcopy(network).double()  # so that only the file's own rounding counts
    size = upscaler.fixed_size(runs[DEFAULT], pixels)
    images = [_resized(size, image) for image in samples]
    expected = [_network_pixels(reference, image) for image in images]
    differences = {
        level: _difference([_file_pixels(run, image, pixels) for image in images], expected)
        for level, run in runs.items()
    }
    noise = None
    if not all(difference.small for difference in differences.values()):
        with _noisy(reference):
            noise = _difference([_network_pixels(reference, image) for image in images], expected)
        _require_explained(differences[DEFAULT], noise, path.name)
        _require_explained(differences[OFF], noise, f"{path.name}, run with optimisation off,")
    return Verification(
        images=len(samples),
        **asdict(differences[DEFAULT]),
        convolutions=len(wired(model).convolutions),
        integer_convolutions=integers,
        slower=integer_fusion.unfused(model, fast),
        sensitivity=None if noise is None else noise.psnr,
        unoptimised=differences[OFF],
    )


def _require_valid(path: Path) -> None:
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:  # several libraries raise their own classes here
        raise VerificationError(
            f"ONNX's own checker refuses {path.name}: {_line(error)}.",
            "Export it again; if that does not help, please report it, with the run folder.",
        ) from error


def _session(path: Path, level: Any, **options: Any) -> ort.InferenceSession:
    try:
        return open_session(path, optimise=level == DEFAULT, **options)
    except Exception as error:
        off = " with optimisation off" if level == OFF else ""
        raise VerificationError(
            f"ONNX Runtime {ort.__version__} does not load {path.name}{off}: {_line(error)}.",
            "Update ONNX Runtime; 2-bit files need 1.24, 3- and 4-bit files 1.23.",
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _require_stored(
    model: onnx.ModelProto, network: nn.Module, path: Path
) -> tuple[cost.Layer, ...]:
    """Require that the file stores its layers as its metadata state, with the network's weights.

    Returns the layers of the metadata.
    """
    try:
        stated = onnx_metadata.read_metadata(path)
    except DataError as error:
        raise VerificationError(
            f"{path.name} does not state its layers: {_line(error)}.", "Export it again."
        ) from error
    if stated.cost is None:
        raise VerificationError(f"{path.name} does not state its layers.", "Export it again.")
    rows = stated.cost.layers
    kernels = {m.name: _dense_kernel(m) for m in network.modules() if isinstance(m, QuantConv2d)}
    problems = list(weight_verification.problems(model, rows, stated.scale, kernels))
    if problems:
        raise VerificationError(
            f"{path.name} is not stored as it should be: {_listed(problems)}.",
            "Please report it, with the run folder.",
        )
    return rows


def _dense_kernel(conv: QuantConv2d) -> NDArray[Any]:
    """The integers of a dense kernel, 0 for a weight of 0."""
    q, zero = conv.integers()
    return conv.dense((q - zero).float()).int().numpy()


def _require_integers(
    model: onnx.ModelProto, fast: onnx.ModelProto, rows: Sequence[cost.Layer], path: Path
) -> int:
    """Require that all convolutions below 32 bits run in integers; the number of those that do.

    fast: the graph that ONNX Runtime runs for the file.
    """
    reasons = integer_fusion.in_float(model, fast)
    rounded = {row.name for row in rows if row.weight_bits < 32}
    left = [f"'{name}' ({reasons[name]})" for name in reasons if name in rounded]
    if left:
        raise VerificationError(
            f"{len(left)} of {len(rounded)} convolutions of {path.name} stay in float "
            f"in ONNX Runtime {ort.__version__}: {_listed(left)}.",
            "Please report it, with the run folder.",
        )
    return len(wired(model).convolutions) - len(reasons)


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more


def _require_explained(file: Difference, noise: Difference, name: str) -> None:
    least = max(FLOOR, min(LEAST, noise.psnr - 3))
    if file.psnr < least or file.share_beyond > max(BEYOND, 2 * noise.share_beyond):
        raise VerificationError(
            f"{name} differs from the network: {file.share_beyond:.3%} of the values by more "
            f"than 2 steps, {file.psnr:.1f} dB (allowed: 0.010 %, 55 dB; the network against "
            f"itself with noise: {noise.share_beyond:.3%}, {noise.psnr:.1f} dB; never below "
            f"{FLOOR:.0f} dB).",
            "If the network has hardly been trained, train it longer; else please report it, with "
            "the run folder.",
        )


@contextmanager
def _noisy(network: nn.Module) -> Iterator[None]:
    """While open, add noise of up to `NOISE` of a grid's step to the input of every grid."""
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


def _difference(
    some: Sequence[NDArray[np.float64]], others: Sequence[NDArray[np.float64]]
) -> Difference:
    """Difference over all values of several images, in steps of 1/255."""
    steps = np.concatenate([(a - b).ravel() for a, b in zip(some, others, strict=True)])
    mse, size = float(np.mean(steps**2)), np.abs(steps)
    psnr = float("inf") if mse == 0 else float(10 * np.log10(255**2 / mse))
    return Difference(int(size.max()), psnr, float(np.mean(size > 0)), float(np.mean(size > 2)))


def _resized(size: tuple[int | None, int | None], image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut or repeat an image to the height and width that the file is fixed to, if it is."""
    for axis, side in enumerate(size):
        if side is not None:
            image = image.take(range(side), axis, mode="wrap")
    return image


def _file_pixels(
    run: ort.InferenceSession, image: NDArray[np.uint8], pixels: Pixels | None
) -> NDArray[np.float64]:
    """Pixels that a file computes, (1, 3, H, W) in steps of 1/255; it may use uint8 or float."""
    (entry,) = run.get_inputs()
    low = to_tensor(image[None]).numpy()
    if entry.type == "tensor(uint8)":
        low = np.ascontiguousarray(image[None].transpose(0, 3, 1, 2))
    try:
        if pixels is not None:
            return _stepped(upscaler.run_imported(run, image, pixels))
        (out,) = run.run(None, {entry.name: low})
    except Exception as error:  # ONNX Runtime has no exception class for files that it cannot run
        raise VerificationError(
            f"ONNX Runtime {ort.__version__} cannot run the file: {_line(error)}.",
            "Please report it, with the run folder.",
        ) from error
    high: NDArray[Any] = np.asarray(out)
    return high.astype(np.float64) if high.dtype == np.uint8 else _stepped(high)


@torch.no_grad()
def _network_pixels(network: nn.Module, image: NDArray[np.uint8]) -> NDArray[np.float64]:
    return _stepped(network(to_tensor(image[None]).double()).numpy())


def _stepped(values: NDArray[Any]) -> NDArray[np.float64]:
    """Round values in [0, 1] to steps of 1/255 -> whole numbers from 0 to 255."""
    steps: NDArray[np.float64] = np.clip(np.round(values.astype(np.float64) * 255), 0, 255)
    return steps


def optimised(path: Path) -> onnx.ModelProto:
    """The graph that ONNX Runtime runs at its default level."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimised.onnx"
        _session(path, DEFAULT, optimized_model_filepath=str(target))
        return onnx.load(target)
