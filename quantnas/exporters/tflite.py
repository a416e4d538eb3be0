"""Export of a frozen network to int8 TFLite, for LiteRT on phones and small computers.

The network is traced with torch.fx. LiteRT multiplies by fixed-point numbers where the network
divides, so a few values are rounded differently. TFLite has no int8 convolution with a float
output: networks that have one are refused.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import fx, nn

from quantnas.architectures.cost import Cost
from quantnas.config import files
from quantnas.errors import DataError, UsageError
from quantnas.inference.upscaler import Upscaler
from quantnas.nn import tracing
from quantnas.nn.convolutions import QuantConv2d
from quantnas.nn.quantizers import ActQuantizer

from .onnx_metadata import METADATA_KEY, full_metadata
from .tflite_graph import IDENTIFIER, Levels, TFLiteGraph, runtime, schema
from .tflite_layers import Ahead, TFLiteValue, convolution, in_float, quantized
from .tflite_operators import OPERATORS, TRANSLATE


@torch.no_grad()
def translate(network: nn.Module, size: tuple[int, int]) -> tuple[TFLiteGraph, int, TFLiteValue]:
    """Translate a network for images of that (height, width) -> (graph, float input, output).

    Raises UsageError for a network with a convolution whose output stays in float, and without
    LiteRT.
    """
    traced = tracing.Tracer().trace(network)
    modules = tracing.modules(network, traced)
    shapes = tracing.shapes(network, traced, size)
    graph = TFLiteGraph()

    def of_module(node: fx.Node, module: nn.Module, x: TFLiteValue) -> TFLiteValue:
        if isinstance(module, QuantConv2d):
            return convolution(graph, x, module, _ahead(node, modules, shapes[node]))
        assert isinstance(module, ActQuantizer)
        return quantized(graph, x, module)

    def of_function(node: fx.Node, *args: Any, **kwargs: Any) -> TFLiteValue:
        return _function(node)(graph, _ahead(node, modules, shapes[node]), *args, **kwargs)

    low = graph.tensor((1, *size, 3), "FLOAT32")
    out = tracing.translate(traced, modules, TFLiteValue(low), of_module, of_function)
    return graph, low, out


def _function(node: fx.Node) -> Callable[..., TFLiteValue]:
    target: Any = node.target
    writer = TRANSLATE.get(target) or OPERATORS.get(target.__name__)
    if writer is None:
        raise UsageError(
            f"Networks with '{target.__name__}' cannot be written as TFLite.",
            "Write ONNX, or use a space such as plain, basic, rfdn or rfdn_deploy.",
        )
    return writer


def _ahead(node: fx.Node, modules: dict[fx.Node, nn.Module], shape: tuple[int, ...]) -> Ahead:
    grid, relu = tracing.grid_ahead(node, modules)
    if grid is None:
        return Ahead(shape, block=_block(node, modules))
    return Ahead(shape, grid, relu, _block(node, modules))


def _block(node: fx.Node, modules: dict[fx.Node, nn.Module]) -> int:
    """Factor of the pixel shuffle that is the only reader of a node, also through sums and grids.

    0 when there is none.
    """
    if len(node.users) != 1:
        return 0
    (user,) = node.users
    if user.target is F.pixel_shuffle:
        factor: Any = user.args[1]
        return int(factor)
    name = getattr(user.target, "__name__", "")
    through = isinstance(modules.get(user), ActQuantizer) or name in ("add", "relu")
    return _block(user, modules) if through else 0


def to_tflite(
    network: nn.Module,
    cost: Cost,
    scale: int,
    size: tuple[int, int],
    path: Path,
    pixels: bool = False,
) -> None:
    """Write a frozen network (`post_training.freeze`) to a TFLite file for one (height, width).

    Input "lr" (1, H, W, 3), output "sr" (1, scale*H, scale*W, 3): float32 in [0, 1] or, with
    `pixels`, uint8. Other sizes can be set before the file is run, unless the network has
    attention. The file holds layers, bits and BitOps as JSON.

    Raises UsageError for a network with a convolution whose output stays in float, and without
    LiteRT.
    """
    graph, low, out = translate(network, size)
    if pixels:
        low, high = _with_uint8_ends(graph, low, out)
    else:
        high = in_float(graph, out)
    metadata = full_metadata(cost, scale).encode()
    files.write_bytes(path, graph.serialised(low, high, (METADATA_KEY, metadata)))


def _with_uint8_ends(graph: TFLiteGraph, low: int, out: TFLiteValue) -> tuple[int, int]:
    """Replace the graph's float input and add a uint8 output -> (uint8 input, uint8 output)."""
    step = Levels([1 / 255])
    source = graph.tensor(graph.shapes[low], "UINT8", step)
    (first,) = (operator for operator in graph.operators if low in operator.inputs)
    first.inputs = [source]  # the first operator is a QUANTIZE to the grid of pixels
    high = graph.tensor(graph.shapes[out.tensor], "UINT8", step)
    return source, graph.add("QUANTIZE", [out.tensor], high)


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata that `to_tflite` wrote: `version`, `scale` and `cost`.

    Raises DataError when the file is not a complete TFLite file that quantnas exported, and
    UsageError without LiteRT.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.", "Check the path.") from error
    text = None
    if data[4:8] == IDENTIFIER:
        text = _metadata(data)
    if text is None:
        raise DataError(
            f"{path} is not a TFLite file that quantnas exported, or not a complete one.",
            "Give a file that `quantnas export` wrote.",
        )
    facts: dict[str, Any] = json.loads(text)
    return facts


def _metadata(data: bytes) -> bytes | None:
    try:
        model = schema().Model.GetRootAs(data, 0)
        for i in range(model.MetadataLength()):
            entry = model.Metadata(i)
            if entry.Name() == METADATA_KEY.encode():
                return bytes(model.Buffers(entry.Buffer()).DataAsNumpy())
    except Exception:  # flatbuffers has no exception class for a truncated file
        return None
    return None


def interpreter(path: Path, threads: int = 1, delegate: bool = True) -> Any:
    """Load a file in LiteRT; `delegate`: with XNNPACK, LiteRT's default.

    Raises the exceptions of LiteRT, and UsageError where LiteRT is not installed.
    """
    module = runtime("interpreter")
    kinds = module.OpResolverType
    kind = kinds.AUTO if delegate else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return module.Interpreter(str(path), num_threads=threads, experimental_op_resolver_type=kind)


def upscaler(path: Path, threads: int = 1) -> Upscaler:
    """Return a function that enlarges images with a file of `to_tflite`.

    Raises DataError when the file cannot be loaded. The function raises DataError for an image that
    the file cannot enlarge.
    """
    read_metadata(path)
    try:
        run = interpreter(path, threads)
    except (ValueError, RuntimeError) as error:
        raise DataError(f"LiteRT cannot load {path}: {error}.", "Export it again.") from error
    (source,), (target,) = run.get_input_details(), run.get_output_details()

    def upscale(low: NDArray[np.uint8]) -> NDArray[np.uint8]:
        pixels = low[None] if source["dtype"] is np.uint8 else low[None].astype(np.float32) / 255
        try:
            run.resize_tensor_input(source["index"], pixels.shape)
            run.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            height, width = low.shape[:2]
            raise DataError(
                f"{path.name} cannot enlarge {width}x{height} pixels: {error}.",
                "Export the network for that size.",
            ) from error
        run.set_tensor(source["index"], pixels)
        run.invoke()
        (high,) = run.get_tensor(target["index"])
        if target["dtype"] is np.uint8:
            return np.asarray(high)
        return (high * 255).round().clip(0, 255).astype(np.uint8)

    return upscale
