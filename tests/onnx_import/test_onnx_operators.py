"""Checks every imported operator against ONNX Runtime, on random shapes and settings."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser

from quantnas.onnx_import import file_reader, importer
from quantnas.onnx_import.op_table import TABLE

SIZES = ((7, 10), (9, 8))
Case = tuple[list[str], dict[str, np.ndarray]]
"""Nodes from `x` (n, 3, h, w) to `y`, and the stored tensors."""


def file_of(tmp_path, lines: list[str], tensors: dict, opset: int, sides=("h", "w"), channels=3):
    """A file with these nodes; tensors whose names begin with `x` are computed, as zeros."""
    stored = [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, *sides])
    nodes = [parser.parse_node(text) for text in lines]
    graph = helper.make_graph(nodes, "g", [entry], [onnx.ValueInfoProto(name="y")], stored)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=min(10, opset - 3)
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def imported(path):
    return importer.graph_of(file_reader.read(path, TABLE), SIZES, path)


def require_equal(path, batch: int = 2, sizes=SIZES, around: float = 0.0):
    """Compare the imported graph with ONNX Runtime at several sizes and numbers of images."""
    net, run = imported(path), file_reader.session(path, path)
    for seed, size in enumerate(sizes):
        rng = np.random.default_rng(seed)
        image = rng.normal(around, 1, (batch, 3, *size)).astype(np.float32)
        (wanted,) = run.run(None, {"x": image})
        with torch.no_grad():
            found = net(torch.from_numpy(image)).numpy()
        assert found.shape == wanted.shape and found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    return net


def normal(rng, *shape: int) -> np.ndarray:
    return rng.normal(0, 1, shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def pick(rng, *values):
    return values[int(rng.integers(len(values)))]


def simple(text: str, **tensors: np.ndarray) -> Callable[..., Case]:
    return lambda rng, opset: ([text], tensors)


def positive(kind: str) -> Callable[..., Case]:
    return lambda rng, opset: (
        ["a = Abs(x)", "p = Add(a, c)", f"y = {kind}(p)"],
        {"c": np.float32(1)},
    )


def conv(rng, opset) -> Case:
    groups, k = pick(rng, 1, 3), rng.integers(1, 4, 2)
    d, s, p = rng.integers(1, 3, 2), rng.integers(1, 3, 2), rng.integers(0, 3, 4)
    how = f"pads=[{p[0]},{p[1]},{p[2]},{p[3]}]"
    auto = pick(rng, how, how, 'auto_pad="SAME_UPPER"', 'auto_pad="SAME_LOWER"', 'auto_pad="VALID"')
    if auto.startswith("auto"):
        d = [1, 1]
    text = f"y = Conv<group={groups}, {auto}, strides=[{s[0]},{s[1]}], dilations=[{d[0]},{d[1]}]>"
    bias = pick(rng, "", ", b")
    return [f"{text}(x, w{bias})"], {"w": normal(rng, 6, 3 // groups, *k), "b": normal(rng, 6)}


def conv1d(rng, opset) -> Case:
    """A 1D convolution over channels, as in efficient channel attention."""
    lines = ["g = GlobalAveragePool(x)", "r = Reshape(g, s)", "y = Conv<pads=[1,1]>(r, w)"]
    return lines, {"s": ints(0, 1, -1), "w": normal(rng, 1, 1, 3)}


def transposed(rng, opset) -> Case:
    groups, k, s = pick(rng, 1, 3), rng.integers(2, 5, 2), rng.integers(2, 4, 2)
    k, p = np.maximum(k, s), rng.integers(0, 2, 4)
    how = pick(rng, f"pads=[{p[0]},{p[1]},{p[2]},{p[3]}]", f"pads=[{p[0]},{p[1]},{p[0]},{p[1]}]")
    how = pick(rng, how, how, 'auto_pad="SAME_UPPER"')
    text = f"y = ConvTranspose<group={groups}, {how}, strides=[{s[0]},{s[1]}]"
    if "auto" not in how:
        text += f", output_padding=[{rng.integers(0, s[0])},{rng.integers(0, s[1])}]"
    return [f"{text}>(x, w, b)"], {
        "w": normal(rng, 3, 6 // groups, *k),
        "b": normal(rng, 6),
    }


def gemm(rng, opset) -> Case:
    turned, alpha = pick(rng, 0, 1), pick(rng, 0.5, 1.0)
    weight = normal(rng, 5, 3) if turned else normal(rng, 3, 5)
    lines = ["g = GlobalMaxPool(x)", "f = Flatten(g)"]
    lines.append(f"y = Gemm<transB={turned}, alpha={alpha}, beta=2.0>(f, w, b)")
    return lines, {"w": weight, "b": pick(rng, normal(rng, 5), normal(rng, 1, 5), normal(rng, 1))}


def gemm_turned(rng, opset) -> Case:
    lines = ["g = GlobalMaxPool(x)", "f = Flatten(g)", "y = Gemm<transA=1, alpha=0.5>(f, f)"]
    return lines, {}


def matmul(rng, opset) -> Case:
    """A product with a stored matrix over channels, with or without a bias, or of two tensors."""
    lines = ["t = Transpose<perm=[0,2,3,1]>(x)", "m = MatMul(t, w)", "y = Add(m, b)"]
    squares = ["t = Transpose<perm=[0,1,3,2]>(x)", "y = MatMul(x, t)"]
    left = ["t = Transpose<perm=[0,2,1,3]>(x)", "y = MatMul(v, t)"]
    tensors = {"w": normal(rng, 3, 5), "b": normal(rng, 5), "v": normal(rng, 4, 3)}
    return pick(rng, lines, squares, left), tensors


def norm(kind: str, count: int = 2, **more: str) -> Callable[..., Case]:
    def make(rng, opset) -> Case:
        names = "wbmv"[:count]
        text = f"y = {kind}<epsilon=0.01{more.get('attributes', '')}>(x, {', '.join(names)})"
        return [text], {n: np.abs(normal(rng, 3)) + np.float32(0.1) for n in names}

    return make


def layer_norm(rng, opset) -> Case:
    bias = pick(rng, "", ", b")
    lines = ["t = Transpose<perm=[0,2,3,1]>(x)", f"y = LayerNormalization<axis=-1>(t, w{bias})"]
    return lines, {"w": normal(rng, 3), "b": normal(rng, 3)}


def pool(kind: str) -> Callable[..., Case]:
    def make(rng, opset) -> Case:
        k, s = rng.integers(2, 4, 2), rng.integers(1, 4, 2)
        p = rng.integers(0, 2, 4)
        more = ""
        if kind == "AveragePool":
            count = pick(rng, 0, 1)
            more = f", count_include_pad={count}"
            p = p if count else [p[0], p[1], p[0], p[1]]
        elif pick(rng, 0, 1):
            more, p = ", ceil_mode=1", [p[0], p[1], p[0], p[1]]
        pads = ",".join(map(str, p))
        text = f"kernel_shape=[{k[0]},{k[1]}], strides=[{s[0]},{s[1]}], pads=[{pads}]{more}"
        return [f"y = {kind}<{text}>(x)"], {}

    return make


def reduced(kind: str) -> Callable[..., Case]:
    def make(rng, opset) -> Case:
        axes, keep = pick(rng, [1], [2, 3], [-1, -2], [0]), pick(rng, 0, 1)
        late = opset >= (13 if kind == "ReduceSum" else 18)
        if late:
            return [f"y = {kind}<keepdims={keep}>(x, axes)"], {"axes": ints(*axes)}
        return [f"y = {kind}<keepdims={keep}, axes={axes}>(x)"], {}

    return make


def pair(kind: str) -> Callable[..., Case]:
    """An operator on a tensor and a tensor, a number or a number per channel, on either side."""

    def make(rng, opset) -> Case:
        other = pick(rng, np.float32(1.7), normal(rng, 1), normal(rng, 3, 1, 1), None)
        if other is None:
            return [f"y = {kind}(x, x)"], {}
        other = np.abs(other) + np.float32(1)
        text = pick(rng, "(x, c)", "(c, x)")
        if kind == "Pow":
            return ["p = Abs(x)", f"y = {kind}{text.replace('x', 'p')}"], {"c": other}
        return [f"y = {kind}{text}"], {"c": other}

    return make


def several(kind: str) -> Callable[..., Case]:
    def make(rng, opset) -> Case:
        return [f"y = {kind}(x, c, x)"], {"c": normal(rng, 3, 1, 1)}

    return make


def compared(kind: str) -> Callable[..., Case]:
    """A comparison whose result chooses between two tensors."""

    def make(rng, opset) -> Case:
        return [f"c = {kind}(x, zero)", "n = Neg(x)", "y = Where(c, x, n)"], {"zero": np.float32(0)}

    return make


def decided(kind: str) -> Callable[..., Case]:
    def make(rng, opset) -> Case:
        lines = ["a = Greater(x, low)", "b = Less(x, high)", "c = Not(b)", f"d = {kind}(a, c)"]
        return [*lines, "n = Neg(x)", "y = Where(d, x, n)"], {
            "low": np.float32(-0.5),
            "high": np.float32(0.5),
        }

    return make


def clip(rng, opset) -> Case:
    if opset < 11:
        return [pick(rng, "y = Clip<min=-0.5, max=0.7>(x)", "y = Clip<min=0.1>(x)")], {}
    lines = "y = Clip(x, low, high)", "y = Clip(x, low)", "y = Clip(x, , high)"
    return [pick(rng, *lines)], {"low": np.float32(-0.5), "high": np.float32(0.7)}


def prelu(rng, opset) -> Case:
    shape = pick(rng, (3, 1, 1), (1, 3, 1, 1), (1,), None)
    if shape is None:
        return ["a = GlobalMaxPool(x)", "y = PRelu(x, a)"], {}
    return ["y = PRelu(x, a)"], {"a": normal(rng, *shape)}


def softmax(kind: str) -> Callable[..., Case]:
    def make(rng, opset) -> Case:
        return [f"y = {kind}{pick(rng, '<axis=1>', '<axis=3>', '<axis=-2>', '')}(x)"], {}

    return make


def concat(rng, opset) -> Case:
    axis = pick(rng, 1, 2, -1)
    return ["n = Neg(x)", f"y = Concat<axis={axis}>(x, n, x)"], {}


def split(rng, opset) -> Case:
    back = "y = Concat<axis=1>(b, a)"
    if opset >= 18 and pick(rng, 0, 1):
        return ["a, b = Split<axis=2, num_outputs=2>(x)", "y = Concat<axis=2>(b, a)"], {}
    if opset >= 13:
        return ["a, b = Split<axis=1>(x, parts)", back], {"parts": ints(1, 2)}
    return ["a, b = Split<axis=1, split=[2,1]>(x)", back], {}


def split_equally(rng, opset) -> Case:
    count = ", num_outputs=3" if opset >= 18 else ""
    return [f"a, b, c = Split<axis=1{count}>(x)", "y = Concat<axis=1>(c, b, a)"], {}


def cut(rng, opset) -> Case:
    start, end, axis = int(rng.integers(0, 2)), pick(rng, 2, 3, -1, 2**62), pick(rng, 1, 2, -1)
    if opset < 10:
        return [f"y = Slice<starts=[{start}], ends=[{end}], axes=[{axis}]>(x)"], {}
    tensors = {"s": ints(start, 0), "e": ints(end, 2**62), "a": ints(axis, 0), "t": ints(1, 1)}
    if axis != 1:
        tensors["t"] = ints(2, 1)
    return ["y = Slice(x, s, e, a, t)"], tensors


def turned(rng, opset) -> Case:
    tensors = {"s": ints(-1), "e": ints(-(2**62)), "a": ints(pick(rng, 1, 3)), "t": ints(-1)}
    return ["y = Slice(x, s, e, a, t)"], tensors


def gather(rng, opset) -> Case:
    at = pick(
        rng, ints(2, 0, 1, 0), np.int64(1), np.int64(-1), ints(-1, 0), ints(0, 2).reshape(2, 1)
    )
    return ["y = Gather<axis=1>(x, at)"], {"at": at}


def reshape(rng, opset) -> Case:
    return ["y = Reshape(x, s)"], {"s": pick(rng, ints(0, 3, -1), ints(0, -1), ints(-1, 1, 0))}


def axes_of(kind: str, text: str, opset: int) -> list[str]:
    """The node of an operator with axes, as an attribute or, in later opsets, as the input `a`."""
    return [f"{kind}<axes={text}>", ""] if opset < 13 else [kind, ", a"]


def unsqueezed(rng, opset) -> Case:
    axes = pick(rng, [0], [2, 3], [-1], [1, 4])
    kind, more = axes_of("Unsqueeze", str(axes), opset)
    return [f"y = {kind}(x{more})"], {"a": ints(*axes)}


def squeezed(rng, opset) -> Case:
    kind, more = axes_of("Squeeze", "[2, 3]", opset)
    return ["g = GlobalMaxPool(x)", pick(rng, f"y = {kind}(g{more})", "y = Squeeze(g)")], {
        "a": ints(2, 3)
    }


def pad(rng, opset) -> Case:
    mode = pick(rng, "constant", "reflect", "edge")
    p = rng.integers(0, 4, 4)
    pads = [0, 0, p[0], p[1], 0, 0, p[2], p[3]]
    if mode == "constant":
        pads[1] = 1
    if opset < 11:
        value = ", value=0.3" if mode == "constant" else ""
        return [f'y = Pad<mode="{mode}", pads=[{",".join(map(str, pads))}]{value}>(x)'], {}
    if opset >= 18:
        tensors = {"p": ints(*p), "v": np.float32(0.3), "a": ints(2, -1)}
        return [f'y = Pad<mode="{mode}">(x, p, v, a)'], tensors
    return [f'y = Pad<mode="{mode}">(x, p, v)'], {"p": ints(*pads), "v": np.float32(0.3)}


def resize(rng, opset) -> Case:
    if opset < 11:
        return ['y = Resize<mode="nearest">(x, f)'], {"f": np.float32([1, 1, 2, 3])}
    mode, positions = pick(
        rng,
        ("linear", "half_pixel"),
        ("linear", "align_corners"),
        ("linear", "pytorch_half_pixel"),
        ("cubic", "half_pixel"),
        ("cubic", "align_corners"),
        ("nearest", "asymmetric"),
        ("nearest", "half_pixel"),
    )
    none = "none" if opset < 13 else ""  # before, what is left out has to be empty
    nearest = ', nearest_mode="floor"' if positions == "asymmetric" else ""
    text = f'mode="{mode}", coordinate_transformation_mode="{positions}"{nearest}'
    if mode != "nearest":
        if pick(rng, 0, 1):
            sides = ["s = Shape(x)", "f = Slice(s, zero, two)", "b = Concat<axis=0>(f, to)"]
            resized = f"y = Resize<{text}>(x, {none}, {none}, b)"
            tensors = {
                "none": np.float32([]),
                "zero": ints(0),
                "two": ints(2),
                "to": ints(*rng.integers(5, 20, 2)),
            }
            return [*sides, resized], tensors
        factor = np.float32([1, 1, *rng.choice([0.5, 1.5, 2, 3], 2)])
        return [f"y = Resize<{text}>(x, {none}, f)"], {"f": factor, "none": np.float32([])}
    tensors = {"f": np.float32([1, 1, 2, 3]), "none": np.float32([])}
    return [f"y = Resize<{text}>(x, {none}, f)"], tensors


def resize_by_definition(rng, opset) -> Case:
    """A Resize with any of its settings, most of which torch does not have."""
    mode = pick(rng, "nearest", "linear", "cubic")
    positions = pick(
        rng,
        "half_pixel",
        "pytorch_half_pixel",
        "align_corners",
        "asymmetric",
        "half_pixel_symmetric" if opset >= 19 else "half_pixel",
        "tf_half_pixel_for_nn" if opset < 13 and mode == "nearest" else "asymmetric",
    )
    text = f'mode="{mode}", coordinate_transformation_mode="{positions}"'
    how = pick(rng, "round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    text += f', nearest_mode="{how}"' if mode == "nearest" else ""
    if mode == "cubic":
        text += f", cubic_coeff_a={pick(rng, -0.5, -0.75)}, exclude_outside={pick(rng, 0, 1)}"
    elif mode == "linear" and opset >= 18:
        text += f", antialias={pick(rng, 0, 1)}"
    none = "none" if opset < 13 else ""
    factor = np.float32([1, 1, *rng.choice([0.5, 0.75, 1.5, 2, 3], 2)])
    tensors = {"f": factor, "none": np.float32([]), "zero": ints(0), "two": ints(2)}
    if pick(rng, 0, 1):
        tensors["to"] = ints(*rng.integers(5, 20, 2))
        sides = ["s = Shape(x)", "f = Slice(s, zero, two)", "b = Concat<axis=0>(f, to)"]
        del tensors["f"]
        return [*sides, f"y = Resize<{text}>(x, {none}, {none}, b)"], tensors
    return [f"y = Resize<{text}>(x, {none}, f)"], tensors


def resize_with_antialias(rng, opset) -> Case:
    text = f'mode="{pick(rng, "linear", "cubic")}", antialias=1, exclude_outside=0'
    factor = np.float32([1, 1, *rng.choice([0.3, 0.5, 0.75, 1.5], 2)])
    return [f"y = Resize<{text}>(x, , f)"], {"f": factor}


def resize_of_a_part(rng, opset) -> Case:
    text = 'coordinate_transformation_mode="tf_crop_and_resize", mode="linear"'
    region = np.float32([0, 0, 0.1, -0.2, 1, 1, 0.8, 1.1])
    sizes = ints(2, 3, *rng.integers(5, 20, 2))
    lines = ["s = Shape(x)", "n = Slice(s, zero, two)", "b = Concat<axis=0>(n, to)"]
    tensors = {"zero": ints(0), "two": ints(2), "to": sizes[2:], "region": region}
    return [*lines, f"y = Resize<{text}, extrapolation_value=0.7>(x, region, , b)"], tensors


def resize_in_proportion(rng, opset) -> Case:
    policy = pick(rng, "not_larger", "not_smaller")
    text = f'mode="linear", keep_aspect_ratio_policy="{policy}", axes=[2,3]'
    return [f"y = Resize<{text}>(x, , , to)"], {"to": ints(*rng.integers(9, 30, 2))}


def upsample_linear(rng, opset) -> Case:
    return ['y = Upsample<mode="linear">(x, f)'], {"f": np.float32([1, 1, 2, 3])}


def einsum(rng, opset) -> Case:
    """Products of two tensors, with an ellipsis or without, and one of three."""
    lines = [
        ['y = Einsum<equation="nchw,ndhw->ncd">(x, x)'],
        ['y = Einsum<equation="nchw,dc->ndhw">(x, w)'],
        ['y = Einsum<equation="...hw,...kw -> ...hk">(x, x)'],
        ['y = Einsum<equation="nchw,dc,ec->nhwde">(x, w, w)'],
        ['y = Einsum<equation="nchw->nhwc">(x)'],
    ]
    return pick(rng, *lines), {"w": normal(rng, 5, 3)}


def topk(rng, opset) -> Case:
    text = f"axis={pick(rng, 1, -1)}, largest={pick(rng, 0, 1)}"
    lines = [f"v, i = TopK<{text}>(x, k)", "f = Cast<to=1>(i)", "y = Add(v, f)"]
    return lines, {"k": ints(2)}


def topk_of_before(rng, opset) -> Case:
    return ["y, i = TopK<axis=1, k=2>(x)"], {}


def scattered(rng, opset) -> Case:
    """Channels that are replaced by others."""
    lines = ["t = Transpose<perm=[1,0,2,3]>(x)", "n = Neg(t)", "m = Gather<axis=0>(n, two)"]
    return [*lines, "y = ScatterND(t, at, m)"], {"two": ints(0, 2), "at": ints(2, 0).reshape(2, 1)}


def gathered(rng, opset) -> Case:
    lines = ["t = Transpose<perm=[1,3,0,2]>(x)", "y = GatherND(t, at)"]
    return lines, {"at": pick(rng, ints(2, 0).reshape(2, 1), ints(1, 4, 0, 6).reshape(1, 2, 2))}


def gathered_elements(rng, opset) -> Case:
    lines = ["g = GlobalMaxPool(x)", "z = Sub(g, g)", "a = Cast<to=7>(z)", "i = Add(a, at)"]
    return [*lines, "y = GatherElements<axis=3>(x, i)"], {"at": np.int64(pick(rng, 0, 3, -2))}


def place_of(kind: str) -> Callable[..., Case]:
    def make(rng, opset) -> Case:
        return [f"y = {kind}<axis={pick(rng, 1, -1)}, keepdims={pick(rng, 0, 1)}>(x)"], {}

    return make


def reduced_positive(kind: str) -> Callable[..., Case]:
    def make(rng, opset) -> Case:
        lines, tensors = reduced(kind)(rng, opset)
        return ["p = Exp(x)", lines[0].replace("(x", "(p")], tensors

    return make


def nearest_exact(rng, opset) -> Case:
    text = 'mode="nearest", coordinate_transformation_mode="half_pixel"'
    line = f'y = Resize<{text}, nearest_mode="round_prefer_ceil">(x, , f)'
    return [line], {"f": np.float32([1, 1, 1.5, 2])}


def upsample(rng, opset) -> Case:
    return ["y = Upsample(x, f)"], {"f": np.float32([1, 1, 2, 3])}


def expand(rng, opset) -> Case:
    return ["m = GlobalMaxPool(x)", "s = Shape(x)", "y = Expand(m, s)"], {}


def constant_of_shape(rng, opset) -> Case:
    return ["s = Shape(x)", "c = ConstantOfShape(s)", "y = Add(x, c)"], {}


def span(rng, opset) -> Case:
    lines = ["s = Shape(x)", "c = Gather<axis=0>(s, one)", "r = Range(z, c, one)"]
    return [*lines, "y = Gather<axis=1>(x, r)"], {"z": np.int64(0), "one": np.int64(1)}


def span_over_the_image(rng, opset) -> Case:
    """The numbers of all columns as a tensor; some are halved as integers, others as floats."""
    lines = ["s = Shape(x)", "w = Gather<axis=0>(s, three)", "r = Range(z, w, one)"]
    lines += pick(
        rng,
        ["h = Div(r, two)", "m = Cast<to=1>(h)"],
        ["f = Cast<to=1>(r)", "m = Div(f, half)"],
    )
    tensors = {"z": np.int64(0), "one": np.int64(1), "two": np.int64(2), "three": np.int64(3)}
    return [*lines, "y = Mul(x, m)"], tensors | {"half": np.float32(2)}


def sizes_as_a_tensor(rng, opset) -> Case:
    """Height and width as a tensor, by which the image is scaled."""
    lines = ["s = Shape(x)", "hw = Slice(s, two, four)", "f = Cast<to=1>(hw)"]
    lines += ["v = Reshape(f, sides)", "p = ReduceMean<axes=[2,3]>(x)"]
    return [
        *lines,
        pick(rng, "q = Div(p, v)", "q = Max(p, v)", "q = Add(v, p)"),
        "y = Mul(q, q)",
    ], {
        "two": ints(2),
        "four": ints(4),
        "sides": ints(1, 1, 1, 2),
    }


def grid_sample(rng, opset) -> Case:
    mode = pick(rng, "bilinear", "nearest", "bicubic")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode) if opset >= 20 else mode
    border, corners = pick(rng, "zeros", "border", "reflection"), pick(rng, 0, 1)
    how = f'mode="{mode}", padding_mode="{border}", align_corners={corners}'
    lines = ["t = Transpose<perm=[0,2,3,1]>(x)", "g = Slice(t, z, two, three)"]
    tensors = {"z": ints(0), "two": ints(2), "three": ints(3)}
    return [*lines, f"y = GridSample<{how}>(x, g)"], tensors


def depth_to_space(rng, opset) -> Case:
    """A pixel shuffle after a convolution, whose channels are reordered if it has no groups."""
    mode = f', mode="{pick(rng, "CRD", "DCR")}"' if opset >= 11 else ""
    groups = pick(rng, 1, 3)
    lines = [f"c = Conv<group={groups}>(x, w, b)", f"y = DepthToSpace<blocksize=2{mode}>(c)"]
    return lines, {"w": normal(rng, 24, 3 // groups, 1, 1), "b": normal(rng, 24)}


def space_to_depth(rng, opset) -> Case:
    lines = ['u = Resize<mode="nearest">(x, f)', "y = SpaceToDepth<blocksize=2>(u)"]
    if opset >= 11:
        lines[0] = "u = ConvTranspose<strides=[2,2], group=3>(x, w)"
    return lines, {"f": np.float32([1, 1, 2, 2]), "w": normal(rng, 3, 1, 2, 2)}


def sized(*lines: str, **tensors: np.ndarray) -> Callable[..., Case]:
    """Arithmetic from the image's height `h` to a number `n`, to which the image is resized."""
    begin = [
        "s = Shape(x)",
        "nc = Slice(s, zero, ends)",
        "h = Gather<axis=0>(s, two)",
        "hf = Cast<to=1>(h)",
    ]
    end = ["i = Cast<to=7>(n)", "v = Reshape(i, one)", "b = Concat<axis=0>(nc, v, v)"]
    last = 'y = Resize<mode="linear">(x, , , b)'
    stored = {"two": np.int64(2), "one": ints(1), "zero": ints(0), "ends": ints(2)}
    return lambda rng, opset: ([*begin, *lines, *end, last], stored | tensors)


F32 = np.float32
SEEDS = {
    "Conv": 12,
    "ConvTranspose": 8,
    "Resize": 10,
    "Einsum": 8,
    "Slice": 6,
    "Pad": 6,
    "Split": 4,
    "MatMul": 6,
    "GridSample": 8,
}
"""Operator -> number of random settings to try, where it is not three."""

CASES: dict[str, list[tuple[Callable[..., Case], tuple[int, ...]]]] = {
    "Abs": [(simple("y = Abs(x)"), (13,)), (sized("m = Neg(h)", "n = Abs(m)"), (13,))],
    "Add": [(pair("Add"), (9, 13)), (sized("n = Add(h, two)"), (13,))],
    "And": [(decided("And"), (13,))],
    "ArgMax": [(place_of("ArgMax"), (11, 13))],
    "ArgMin": [(place_of("ArgMin"), (13,))],
    "Atan": [(simple("y = Atan(x)"), (13,))],
    "AveragePool": [(pool("AveragePool"), (9, 13, 22))],
    "BatchNormalization": [(norm("BatchNormalization", 4), (9, 15))],
    "Cast": [(simple("y = Cast<to=7>(x)"), (13,)), (sized("n = Cast<to=7>(hf)"), (13,))],
    "Ceil": [
        (simple("y = Ceil(x)"), (13,)),
        (sized("m = Mul(hf, c)", "n = Ceil(m)", c=F32(0.7)), (13,)),
    ],
    "Celu": [(simple("y = Celu<alpha=0.7>(x)"), (12,))],
    "Clip": [
        (clip, (9, 11, 13)),
        (sized("n = Clip(h, a, b0)", a=np.int64(8), b0=np.int64(8)), (13,)),
    ],
    "Concat": [(concat, (9, 13))],
    "ConstantOfShape": [(constant_of_shape, (9, 20))],
    "Conv": [(conv, (9, 11, 22)), (conv1d, (13,))],
    "ConvTranspose": [(transposed, (11, 22))],
    "Cos": [(simple("y = Cos(x)"), (13,))],
    "DepthToSpace": [(depth_to_space, (9, 11, 13))],
    "Div": [(pair("Div"), (9, 14)), (sized("n = Div(h, two)"), (13,))],
    "Einsum": [(einsum, (12,))],
    "Elu": [(simple("y = Elu<alpha=0.7>(x)"), (9,))],
    "Equal": [
        (compared("Equal"), (13,)),
        (sized("e = Equal(h, c)", "n = Where(e, two, h)", c=np.int64(7)), (13,)),
    ],
    "Erf": [(simple("y = Erf(x)"), (13,))],
    "Exp": [(simple("y = Exp(x)"), (13,))],
    "Expand": [(expand, (9, 13))],
    "Flatten": [
        (simple("y = Flatten<axis=2>(x)"), (9, 13)),
        (simple("y = Flatten<axis=0>(x)"), (13,)),
    ],
    "Floor": [
        (simple("y = Floor(x)"), (13,)),
        (sized("m = Mul(hf, c)", "n = Floor(m)", c=F32(1.7)), (13,)),
    ],
    "Gather": [(gather, (9, 13))],
    "GatherElements": [(gathered_elements, (11, 13))],
    "GatherND": [(gathered, (11, 13))],
    "Gelu": [(simple("y = Gelu(x)"), (20,)), (simple('y = Gelu<approximate="tanh">(x)'), (20,))],
    "Gemm": [(gemm, (9, 13)), (gemm_turned, (13,))],
    "GlobalAveragePool": [(simple("y = GlobalAveragePool(x)"), (9, 22))],
    "GlobalMaxPool": [(simple("y = GlobalMaxPool(x)"), (9, 22))],
    "Greater": [(compared("Greater"), (9, 13))],
    "GreaterOrEqual": [(compared("GreaterOrEqual"), (12, 16))],
    "GridSample": [(grid_sample, (16, 20))],
    "GroupNormalization": [(norm("GroupNormalization", attributes=", num_groups=3"), (21,))],
    "HardSigmoid": [
        (simple("y = HardSigmoid(x)"), (9,)),
        (simple("y = HardSigmoid<alpha=0.16666667, beta=0.5>(x)"), (9,)),
    ],
    "HardSwish": [(simple("y = HardSwish(x)"), (14, 22))],
    "InstanceNormalization": [(norm("InstanceNormalization"), (9, 22))],
    "LayerNormalization": [(layer_norm, (17,))],
    "LeakyRelu": [(simple("y = LeakyRelu<alpha=0.2>(x)"), (9, 16))],
    "Less": [(compared("Less"), (9, 13))],
    "LessOrEqual": [(compared("LessOrEqual"), (12, 16))],
    "Log": [(positive("Log"), (13,))],
    "LogSoftmax": [(softmax("LogSoftmax"), (9, 13))],
    "MatMul": [(matmul, (9, 13))],
    "Max": [(several("Max"), (9, 13)), (sized("n = Max(h, c)", c=np.int64(8)), (13,))],
    "MaxPool": [(pool("MaxPool"), (10, 22))],
    "Mean": [(several("Mean"), (9, 13))],
    "Min": [(several("Min"), (9, 13)), (sized("n = Min(h, c)", c=np.int64(8)), (13,))],
    "Mish": [(simple("y = Mish(x)"), (18,))],
    "Mod": [(sized("m = Neg(h)", "k = Mod(m, c)", "n = Add(k, c)", c=np.int64(5)), (13,))],
    "Mul": [(pair("Mul"), (9, 13)), (sized("n = Mul(h, two)"), (13,))],
    "Neg": [
        (simple("y = Neg(x)"), (13,)),
        (sized("m = Neg(h)", "n = Mul(m, c)", c=np.int64(-1)), (13,)),
    ],
    "Not": [(decided("Or"), (13,))],
    "Or": [(decided("Or"), (13,))],
    "PRelu": [(prelu, (9, 16))],
    "Pad": [(pad, (9, 11, 18))],
    "Pow": [(pair("Pow"), (12, 15))],
    "Range": [(span, (13,)), (span_over_the_image, (13,)), (sizes_as_a_tensor, (13,))],
    "Reciprocal": [(positive("Reciprocal"), (13,))],
    "ReduceL1": [(reduced("ReduceL1"), (11, 18))],
    "ReduceL2": [(reduced("ReduceL2"), (11, 18))],
    "ReduceLogSum": [(reduced_positive("ReduceLogSum"), (11, 18))],
    "ReduceLogSumExp": [(reduced("ReduceLogSumExp"), (11, 18))],
    "ReduceMax": [(reduced("ReduceMax"), (11, 18))],
    "ReduceMean": [(reduced("ReduceMean"), (9, 13, 18))],
    "ReduceMin": [(reduced("ReduceMin"), (11, 18))],
    "ReduceProd": [
        (
            sized(
                "k = Slice(s, zero, c)", "m = ReduceProd<keepdims=0>(k)", "n = Add(m, h)", c=ints(2)
            ),
            (13,),
        ),
    ],
    "ReduceSum": [(reduced("ReduceSum"), (11, 13))],
    "ReduceSumSquare": [(reduced("ReduceSumSquare"), (11, 18))],
    "Relu": [(simple("y = Relu(x)"), (9, 14))],
    "Reshape": [(reshape, (9, 14))],
    "Resize": [
        (resize, (10, 11, 13, 19)),
        (nearest_exact, (13,)),
        (resize_by_definition, (11, 19)),
        (resize_with_antialias, (18,)),
        (resize_of_a_part, (13,)),
        (resize_in_proportion, (18,)),
    ],
    "Round": [
        (simple("y = Round(x)"), (11,)),
        (sized("m = Mul(hf, c)", "n = Round(m)", c=F32(0.5)), (13,)),
    ],
    "ScatterND": [(scattered, (11, 18))],
    "Selu": [(simple("y = Selu(x)"), (9,)), (simple("y = Selu<alpha=1.2, gamma=0.9>(x)"), (9,))],
    "Shape": [(simple("y = Flatten(x)"), (9,)), (sized("n = Sub(h, c)", c=np.int64(2)), (15,))],
    "Sigmoid": [(simple("y = Sigmoid(x)"), (9, 13))],
    "Sign": [(simple("y = Sign(x)"), (13,))],
    "Sin": [(simple("y = Sin(x)"), (13,))],
    "Size": [
        (sized("m = Size(x)", "k = Div(m, c)", "n = Add(k, two)", c=np.int64(60)), (13,)),
    ],
    "Slice": [(cut, (9, 10, 13)), (turned, (13,))],
    "Softmax": [(softmax("Softmax"), (9, 13))],
    "Softplus": [(simple("y = Softplus(x)"), (9,))],
    "Softsign": [(simple("y = Softsign(x)"), (9,))],
    "SpaceToDepth": [(space_to_depth, (10, 13))],
    "Split": [(split, (9, 13, 18)), (split_equally, (9, 13, 18))],
    "Sqrt": [(positive("Sqrt"), (13,)), (sized("m = Mul(hf, hf)", "n = Sqrt(m)"), (13,))],
    "Squeeze": [(squeezed, (9, 13))],
    "Sub": [(pair("Sub"), (9, 14)), (sized("n = Sub(h, two)"), (13,))],
    "Sum": [(several("Sum"), (9, 13))],
    "Tanh": [(simple("y = Tanh(x)"), (9,))],
    "ThresholdedRelu": [(simple("y = ThresholdedRelu<alpha=0.4>(x)"), (10,))],
    "Tile": [(simple("y = Tile(x, c)", c=ints(1, 2, 1, 3)), (9, 13))],
    "TopK": [(topk, (11, 13)), (topk_of_before, (9,))],
    "Transpose": [
        (simple("y = Transpose<perm=[0,2,1,3]>(x)"), (9,)),
        (simple("y = Transpose(x)"), (13,)),
    ],
    "Unsqueeze": [(unsqueezed, (9, 13))],
    "Upsample": [(upsample, (9,)), (upsample_linear, (9,))],
    "Where": [(compared("Greater"), (9, 16))],
    "Xor": [(decided("Xor"), (13,))],
}


def test_every_operator_of_the_table_has_a_case():
    assert CASES.keys() == TABLE.keys()


@pytest.mark.parametrize("kind", CASES)
def test_an_operator_gives_what_onnx_runtime_gives(kind, tmp_path):
    for make, opsets in CASES[kind]:
        for opset in opsets:
            for seed in range(SEEDS.get(kind, 3)):
                lines, tensors = make(np.random.default_rng(seed), opset)
                used = {
                    n.strip()
                    for text in lines
                    for n in text.replace(")", ",").replace("(", ",").split(",")
                }
                stored = {k: v for k, v in tensors.items() if k in used}
                require_equal(file_of(tmp_path, lines, stored, opset))
