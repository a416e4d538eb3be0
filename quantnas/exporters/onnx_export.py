"""Export of a network to ONNX: in integers (QuantizeLinear/DequantizeLinear form) or in float.

The network is traced with torch.fx; convolutions and grids are leaves of the trace. Every rounded
convolution reads uint8; between convolutions, tensors are carried in uint8 or in float as in the
network. Which forms ONNX Runtime fuses was found by experiment: docs/decisions/0003.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import fx, nn

from quantnas import __version__
from quantnas.architectures.cost import Cost
from quantnas.config.run_config import ExportConfig
from quantnas.nn import tracing
from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.nn.quantizers import ActQuantizer, FloatTensor

from . import convolution_forms, onnx_metadata, packed_weights
from .onnx_graph import OnnxGraph, tidied
from .onnx_layers import OnnxValue, Readers, convolution, dequantized, float_convolution, quantized
from .onnx_operators import translation

USUAL = ExportConfig()


@torch.no_grad()
def translate(network: nn.Module, form: ExportConfig = USUAL) -> OnnxGraph:
    """Translate a network to an ONNX graph with input "lr" and output "sr"."""
    traced = tracing.Tracer().trace(network)
    modules = tracing.modules(network, traced)
    graph, readers = OnnxGraph(), _readers(modules)

    def of_module(node: fx.Node, module: nn.Module, x: OnnxValue) -> OnnxValue:
        if isinstance(module, QuantConv2d):
            return convolution(graph, x, module, readers, form.compat)
        if isinstance(module, Conv2d):
            return float_convolution(graph, x, module)
        assert isinstance(module, ActQuantizer)
        is_float = isinstance(module, FloatTensor)
        return x if is_float else _quantized(graph, x, node.name, module)

    def of_function(node: fx.Node, *args: Any, **kwargs: Any) -> OnnxValue:
        return translation(node)(graph, node.name, *args, **kwargs)

    image = _add_input(graph, form)
    _add_output(graph, tracing.translate(traced, modules, image, of_module, of_function), form)
    return tidied(graph)


PIXELS = "lr.pixels"
"""Name of the tensor in [0, 1] that is computed from the input of a file that reads uint8."""


def _add_input(graph: OnnxGraph, form: ExportConfig) -> OnnxValue:
    """Add the conversion of the input to [0, 1], if it is uint8; the input in [0, 1]."""
    if not form.uint8_io:
        return OnnxValue("lr", None)
    wide = graph.add("Cast", ["lr"], "lr.wide", to=TensorProto.FLOAT)
    white = graph.constant("white", 255, np.float32)
    return OnnxValue(graph.add("Div", [wide, white], PIXELS), None)


def _add_output(graph: OnnxGraph, x: OnnxValue, form: ExportConfig) -> None:
    """Add the output: as it is, or rounded to uint8."""
    if not form.uint8_io:
        graph.add("Identity", [x.name], "sr")
    elif x.grid is not None and _holds_pixels(x.grid):
        graph.add("Identity", [f"{x.name}.q"], "sr")
    else:
        white = graph.constant("white", 255, np.float32)
        steps = graph.add("Mul", [x.name, white], "sr.steps")
        one = graph.constant("one", 1, np.float32)
        lowest = graph.constant("clip.low", 0, np.uint8)
        graph.add("QuantizeLinear", [steps, one, lowest], "sr")


def _quantized(graph: OnnxGraph, x: OnnxValue, name: str, grid: ActQuantizer) -> OnnxValue:
    """Round x to a grid; uint8 pixels lie on a grid of step 1/255 already."""
    if x.name == PIXELS and _holds_pixels(grid):
        return OnnxValue(
            dequantized(graph, graph.add("Identity", ["lr"], f"{name}.q"), name, grid), grid
        )
    return quantized(graph, x.name, name, grid)


def _holds_pixels(grid: ActQuantizer) -> bool:
    """Return whether the levels of 0, 1/255, ..., 1 on this grid are 0, 1, ..., 255."""
    steps = torch.arange(256.0)
    if grid.bits != 8 or grid.factors is not None:
        return False
    return torch.equal((grid(steps / 255) / grid.step).round(), steps)


def _readers(modules: Mapping[fx.Node, nn.Module]) -> Readers:
    """Name of each convolution -> the grid that reads its output, directly or behind a ReLU.

    A grid behind a ReLU counts only when 0 is its lowest level.
    """
    readers: dict[str, ActQuantizer] = {}
    convs = {node: m for node, m in modules.items() if isinstance(m, QuantConv2d)}
    for node, conv in convs.items():
        grid, relu = tracing.grid_ahead(node, modules)
        if grid is not None and not (relu and grid.zero_point):
            readers[conv.name] = grid
    return readers


def to_onnx(
    network: nn.Module, cost: Cost, scale: int, path: Path, form: ExportConfig = USUAL
) -> None:
    """Write a frozen (`post_training.freeze`) or float network to an ONNX file.

    Input "lr" (N, 3, H, W), output "sr" (N, 3, scale*H, scale*W): float32 in [0, 1] or, if `form`
    says so, uint8. The file takes any size or, if `form` says so, one size; then N = 1 and all
    shapes are stated. The metadata hold layers and bits. The file is checked by ONNX's own checker
    and written completely or not at all.
    """
    graph = translate(network, form)
    stores = [STORED[8 if form.compat else row.weight_bits] for row in cost.layers]
    low, high = _inputs_outputs(scale, form)
    model = helper.make_model(
        helper.make_graph(graph.nodes, "quantnas", [low], [high], list(graph.tensors.values())),
        opset_imports=[helper.make_opsetid("", max(s.opset for s in stores))],
        ir_version=max(s.ir_version for s in stores),
        producer_name="quantnas",
        producer_version=__version__,
    )
    if not form.plain:
        model = convolution_forms.fast(model)
    if form.sides:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx_metadata.write(model, cost, scale, path)


STORED = {**packed_weights.STORAGE, 32: packed_weights.STORAGE[8]}
"""Weight bits -> the ONNX versions that they need; float weights need those of 8 bits."""


def _inputs_outputs(scale: int, form: ExportConfig) -> list[onnx.ValueInfoProto]:
    """Name, type and shape of the file's input and output."""
    kind = TensorProto.UINT8 if form.uint8_io else TensorProto.FLOAT
    low: list[Any] = ["n", 3, "height", "width"]
    high: list[Any] = ["n", 3, f"{scale}*height", f"{scale}*width"]
    if form.sides:
        low, high = [1, 3, *form.sides], [1, 3, *(scale * side for side in form.sides)]
    return [helper.make_tensor_value_info(n, kind, s) for n, s in (("lr", low), ("sr", high))]
