"""Measures the convolutions of ONNX Runtime in integers, shape by shape.

    python benchmarks/convolution_times.py

Each time is the smallest of several runs of the node (QLinearConv) on an image of 64x64 pixels, one
thread, as the profile of ONNX Runtime states it. Prints the tables of
`quantnas/exporters/convolution_times.py`, and first the machine.
"""

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
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


def measured(c_in: int, side: int, shapes: Sequence[Shape]) -> dict[Shape, int]:
    """(c_out, groups) -> microseconds of one run of that convolution."""
    x = np.random.default_rng(0).integers(0, 256, (1, c_in, SIDE, SIDE), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        model = convolutions(c_in, side, shapes).SerializeToString()
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(RUNS):
            session.run(None, {"x": x})
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[Shape, float] = dict.fromkeys(shapes, math.inf)
    for shape, time in durations(events):
        times[shape] = min(times[shape], time)
    return {shape: int(time) for shape, time in times.items()}


def durations(events: list[dict[str, object]]) -> Iterator[tuple[Shape, int]]:
    """(shape, microseconds) of every run of a convolution in a profile."""
    for event in events:
        name, args = str(event["name"]), event.get("args")
        is_kernel = name.endswith("_kernel_time") and isinstance(args, dict)
        if is_kernel and args["op_name"] == "QLinearConv":  # type: ignore[index]
            c_out, groups = name.removesuffix("_kernel_time").split("_")[1:3]
            yield (int(c_out), int(groups)), int(str(event["dur"]))


def convolutions(c_in: int, side: int, shapes: Sequence[Shape]) -> onnx.ModelProto:
    """A model of several convolutions that read the same uint8 tensor."""
    graph, generator = OnnxGraph(), np.random.default_rng(0)
    step, zero = graph.constant("s", 0.02, np.float32), graph.constant("z", 0, np.uint8)
    x = graph.add("DequantizeLinear", ["x", step, zero], "xd")
    for c_out, groups in shapes:
        name = f"{c_out}_{groups}"
        weight = parameter(
            graph, f"w{name}", generator.integers(-100, 101, (c_out, c_in // groups, side, side))
        )
        bias = parameter(graph, f"b{name}", np.zeros(c_out), np.int32)
        y = graph.add("Conv", [x, weight, bias], f"c{name}", pads=[side // 2] * 4, group=groups)
        graph.nodes[-1].name = f"conv_{name}_"
        graph.add("QuantizeLinear", [y, step, zero], f"y{name}")
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, c_in, "h", "w"])]
    outputs = [
        helper.make_tensor_value_info(n.output[0], TensorProto.UINT8, None)
        for n in graph.nodes
        if n.op_type == "QuantizeLinear"
    ]
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
