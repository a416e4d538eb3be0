"""Measures the convolutions of ONNX Runtime in integers, shape by shape.

    python benchmarks/convolution_times.py

Each time is the smallest of several runs of the node (QLinearConv) on an image of 64x64 pixels, one
thread, as the profile of ONNX Runtime states it. Prints the tables of
`quantnas/exporters/convolution_times.py`, and first the machine.
"""

import json
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from quantnas.evaluation import processor
from quantnas.exporters.onnx_graph import OnnxGraph

SIDE = 64
"""Height and width of the image."""
RUNS = 30
SIDES = (1, 3, 5)
INPUTS = (1, 3, 4, 8, 16, 24, 32, 48, 50, 64, 128)
OUTPUTS = (3, 8, 12, 16, 24, 27, 32, 48, 50, 64, 128)
CHANNELS = (4, 8, 16, 32, 64, 128)
GROUPS = (2, 4, 8, 16, 32)
Shape = tuple[int, int]
"""(output channels, groups)"""
PADS = np.array([0, 0, 0, 0, 0, 1, 0, 0])
"""Pads of a Pad that adds one channel."""


def main() -> None:
    here = processor.here()
    print(f"# {here.processor}, ONNX Runtime {here.onnxruntime}, microseconds at {SIDE}x{SIDE}")
    print(f"INPUTS = {INPUTS}\nOUTPUTS = {OUTPUTS}\nDENSE = {{")
    for side in SIDES:
        for c_in in INPUTS:
            times = measured(c_in, side, [(c_out, 1) for c_out in OUTPUTS])
            print(f"    ({side}, {c_in}): {tuple(times.values())},", flush=True)
    print("}\nGROUPED = {")
    for side in SIDES:
        for channels in CHANNELS:
            counts = [n for n in (*GROUPS, channels) if n <= channels and channels % n == 0]
            shapes = [(channels, n) for n in dict.fromkeys(counts)]
            times = measured(channels, side, shapes)
            by_groups = {groups: time for (_, groups), time in times.items()}
            print(f"    ({side}, {channels}): {by_groups},", flush=True)
    print("}")
    times = smallest(moves(), 3, ["move_cut_", "move_image_", "move_fill_"])
    print(f"CUT, FILL_IMAGE, FILL = {tuple(times.values())}")


def measured(c_in: int, side: int, shapes: Sequence[Shape]) -> dict[Shape, int]:
    """(c_out, groups) -> microseconds of one run of that convolution."""
    names = {f"conv_{c_out}_{groups}_": (c_out, groups) for c_out, groups in shapes}
    times = smallest(convolutions(c_in, side, shapes), c_in, names)
    return {shape: times[name] for name, shape in names.items()}


def smallest(model: onnx.ModelProto, c_in: int, names: Collection[str]) -> dict[str, int]:
    """Prefix of a node's name -> microseconds of its quickest run."""
    x = np.random.default_rng(0).integers(0, 256, (1, c_in, SIDE, SIDE), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        serialized = model.SerializeToString()
        session = ort.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
        for _ in range(RUNS):
            session.run(None, {"x": x})
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event for event in events if event["name"].endswith("_kernel_time")]
    return {
        name: min(event["dur"] for event in kernels if event["name"].startswith(name))
        for name in names
    }


def convolutions(c_in: int, side: int, shapes: Sequence[Shape]) -> onnx.ModelProto:
    """A model of several convolutions that read the same uint8 tensor."""
    graph = OnnxGraph()
    outputs = [convolution(graph, "x", c_in, side, shape, f"{k}") for k, shape in enumerate(shapes)]
    return model_of(graph, c_in, outputs)


def moves() -> onnx.ModelProto:
    """A model that adds channels to an image, cuts some off and adds some between convolutions."""
    graph = OnnxGraph()
    x = moved(graph, "image", "Pad", ["x", graph.constant("1", PADS * 1, np.int64)])
    x = convolution(graph, x, 4, 1, (16, 1), "a")
    ends = [graph.constant(f"end{n}", [n], np.int64) for n in (0, 12, 1)]
    x = moved(graph, "cut", "Slice", [x, *ends])
    x = convolution(graph, x, 12, 1, (12, 1), "b")
    x = moved(graph, "fill", "Pad", [x, graph.constant("4", PADS * 4, np.int64)])
    return model_of(graph, 3, [convolution(graph, x, 16, 1, (16, 1), "c")])


def moved(graph: OnnxGraph, name: str, kind: str, inputs: list[str]) -> str:
    graph.add(kind, inputs, f"{name}.out")
    graph.nodes[-1].name = f"move_{name}_"
    return f"{name}.out"


def convolution(graph: OnnxGraph, x: str, c_in: int, side: int, shape: Shape, name: str) -> str:
    """Add a convolution of uint8 levels -> the levels of its output."""
    (c_out, groups), generator = shape, np.random.default_rng(0)
    at = [graph.constant("s", 0.02, np.float32), graph.constant("z", 0, np.uint8)]
    source = graph.add("DequantizeLinear", [x, *at], f"x{name}")
    kernel = generator.integers(-100, 101, (c_out, c_in // groups, side, side))
    inputs = [source, parameter(graph, f"w{name}", kernel)]
    inputs.append(parameter(graph, f"b{name}", np.zeros(c_out), np.int32))
    graph.add("Conv", inputs, f"c{name}", pads=[side // 2] * 4, group=groups)
    graph.nodes[-1].name = f"conv_{c_out}_{groups}_{name}"
    return graph.add("QuantizeLinear", [f"c{name}", *at], f"y{name}")


def model_of(graph: OnnxGraph, c_in: int, names: Sequence[str]) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, c_in, "h", "w"])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in names]
    made = helper.make_graph(graph.nodes, "g", inputs, outputs, list(graph.tensors.values()))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def parameter(
    graph: OnnxGraph, name: str, values: NDArray[np.integer], dtype: type = np.int8
) -> str:
    """Add a constant with one step per channel -> the name of its float values."""
    steps = np.full(len(values), 0.01 if dtype is np.int8 else 0.0002)
    inputs = [
        graph.constant(f"{name}q", values, dtype),
        graph.constant(f"{name}s", steps, np.float32),
        graph.constant(f"{name}z", np.zeros(len(values)), dtype),
    ]
    return graph.add("DequantizeLinear", inputs, name, axis=0)


if __name__ == "__main__":
    main()
