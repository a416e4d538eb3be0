"""Export to QONNX (arXiv 2206.07527): float ONNX with `Quant` nodes, for FPGA toolchains.

Every weight, bias and activation passes a Quant node that states its true bit width. Everything
else is ordinary ONNX in float, for one image size, with the shape of every tensor in the file.
Operations are written by `onnx_operators.TRANSLATE` as in the integer file, but in float, because
no value has a grid here.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, shape_inference
from torch import fx, nn

from quantnas import __version__
from quantnas.architectures.cost import Cost
from quantnas.architectures.rfdn import resize_like
from quantnas.config import files
from quantnas.nn import tracing
from quantnas.nn.convolutions import QuantConv2d
from quantnas.nn.quantizers import ActQuantizer

from .onnx_graph import OnnxGraph, tidied
from .onnx_layers import OnnxValue
from .onnx_metadata import METADATA_KEY, full_metadata
from .onnx_operators import translation

DOMAIN = "qonnx.custom_op.general"
OPSET, IR_VERSION = 13, 7
BIAS_BITS = 32


@torch.no_grad()
def translate(network: nn.Module, size: tuple[int, int]) -> OnnxGraph:
    """Translate a frozen network to a graph for images of that (height, width).

    Its input is "lr" and its output "sr". A grid in front of a pixel shuffle is repeated behind it:
    programs that read QONNX do not follow bit widths through that operator.
    """
    traced = tracing.Tracer().trace(network)
    modules = tracing.modules(network, traced)
    shapes = tracing.shapes(network, traced, size)
    graph = OnnxGraph()

    def of_module(node: fx.Node, module: nn.Module, x: OnnxValue) -> OnnxValue:
        return OnnxValue(_module(graph, node.name, x.name, module), None)

    def of_function(node: fx.Node, *args: Any, **kwargs: Any) -> OnnxValue:
        if node.target is resize_like:
            return OnnxValue(_resized(graph, node.name, args[0].name, shapes[node]), None)
        name = translation(node)(graph, node.name, *args, **kwargs).name
        first: Any = node.args[0]
        grid = modules.get(first)
        if node.target is F.pixel_shuffle and isinstance(grid, ActQuantizer):
            name = _activation(graph, name, f"{node.name}.again", grid)
        return OnnxValue(name, None)

    out = tracing.translate(traced, modules, OnnxValue("lr", None), of_module, of_function)
    graph.add("Identity", [out.name], "sr")
    return tidied(graph)


def _module(graph: OnnxGraph, name: str, x: str, module: nn.Module) -> str:
    if isinstance(module, QuantConv2d):
        return _convolution(graph, x, module)
    assert isinstance(module, ActQuantizer)
    return _activation(graph, x, name, module)


def _convolution(graph: OnnxGraph, x: str, conv: QuantConv2d) -> str:
    name, bits = conv.name, conv.precision.weights
    if conv.input_quantizer is not None:
        x = _activation(graph, x, f"{name}.in", conv.input_quantizer)
    q, zero = conv.integers()
    step = conv.repeated(conv.weight_quantizer.step.flatten())[:, None, None, None]
    kernel = conv.dense((q - zero).float()) * step
    zeros = conv.repeated(zero.flatten())[:, None, None, None] - (0 if bits == 8 else middle(bits))
    weight = graph.constant(f"{name}.weight", kernel.numpy(), np.float32)
    weight = _quant(graph, weight, f"{name}.w", (step.numpy(), zeros.numpy(), bits), bits == 8)
    bias_step = conv.repeated(conv.bias_step())
    assert conv.bias is not None
    units = (conv.repeated(conv.bias) / bias_step).round()
    bias = graph.constant(f"{name}.bias", (units * bias_step).numpy(), np.float32)
    bias = _quant(graph, bias, f"{name}.b", (bias_step.numpy(), 0, BIAS_BITS))
    sides = conv.pads(kernel)
    return graph.add(
        "Conv",
        [x, weight, bias],
        f"{name}.out",
        kernel_shape=kernel.shape[-2:],
        pads=[*sides, *sides],
        strides=conv.stride,
        dilations=conv.dilation,
        group=conv.groups,
    )


def _activation(graph: OnnxGraph, x: str, name: str, grid: ActQuantizer) -> str:
    """Round x to a grid, after division by the factors of its channels if the grid has any.

    The next kernel is multiplied by these factors, so every step is one number for the whole
    tensor.
    """
    if grid.factors is not None and (grid.factors != 1).any():
        gains = graph.constant(f"{name}.gains", 1 / grid.factors.numpy()[None], np.float32)
        x = graph.add("Mul", [x, gains], f"{name}.even")
    zero, signed = grid.zero_point, grid.zero_point > 0
    settings = (grid.step.numpy(), zero - middle(grid.bits) if signed else 0, grid.bits)
    return _quant(graph, x, f"{name}.q", settings, signed=signed)


def middle(bits: int) -> int:
    """The middle stored level: an unsigned grid with this zero point is a signed one with 0."""
    return 1 << (bits - 1)


def _quant(
    graph: OnnxGraph,
    x: str,
    output: str,
    grid: tuple[Any, Any, int],
    narrow: bool = False,
    signed: bool = True,
) -> str:
    """Add a Quant node; grid: (step, zero point, bits); narrow: leave out the lowest level."""
    names = [
        graph.constant(f"{output}.{what}", value, np.float32)
        for what, value in zip(("step", "zero", "bits"), grid, strict=True)
    ]
    form = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": "ROUND"}
    return graph.add("Quant", [x, *names], output, domain=DOMAIN, **form)


def _resized(graph: OnnxGraph, name: str, x: str, shape: tuple[int, ...]) -> str:
    """Add a bilinear resizing to the shape (N, C, H, W)."""
    sizes = graph.constant(f"{name}.sizes", shape, np.int64)
    attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    return graph.add("Resize", [x, "", "", sizes], name, **attributes)


def to_qonnx(network: nn.Module, cost: Cost, scale: int, size: tuple[int, int], path: Path) -> None:
    """Write a frozen network (`post_training.freeze`) to a QONNX file for one (height, width).

    Input "lr" (1, 3, H, W), output "sr" (1, 3, scale*H, scale*W), float32 in [0, 1]. The file's
    metadata hold layers, bits and BitOps as JSON.
    """
    graph, (height, width) = translate(network, size), size
    low = helper.make_tensor_value_info("lr", TensorProto.FLOAT, [1, 3, height, width])
    high = helper.make_tensor_value_info(
        "sr", TensorProto.FLOAT, [1, 3, scale * height, scale * width]
    )
    model = helper.make_model(
        helper.make_graph(graph.nodes, "quantnas", [low], [high], list(graph.tensors.values())),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        ir_version=IR_VERSION,
        producer_name="quantnas",
        producer_version=__version__,
    )
    model.graph.value_info.extend(_shapes(model))
    helper.set_model_props(model, {METADATA_KEY: full_metadata(cost, scale)})
    onnx.checker.check_model(model)
    files.write_bytes(path, model.SerializeToString())


def _shapes(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Shapes of all inner tensors; ONNX's own inference does not know Quant, which keeps shapes."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if node.op_type == "Quant":
            node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output))
    return list(shape_inference.infer_shapes(plain, strict_mode=True).graph.value_info)
