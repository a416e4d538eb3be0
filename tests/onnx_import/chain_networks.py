"""Small random networks with the functions that stand between convolutions, and their files."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantnas.architectures import network, onnx_survey
from quantnas.config.search_space import Pixels, SearchSpace

CHANNELS = 16


def conv(c_in: int, c_out: int, side: int = 3, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, side, padding=side // 2, groups=groups)


class Stack(nn.Module):
    """A stack of two blocks with a skip in features and one in pixels, x2."""

    def __init__(self, block: Callable[[], nn.Module], skip: bool = True) -> None:
        super().__init__()
        self.head, self.tail, self.skip = conv(3, CHANNELS), conv(CHANNELS, 12), skip
        self.blocks = nn.ModuleList(block() for _ in range(2))
        with torch.no_grad():
            self.head.weight.mul_(torch.logspace(-1, 1, CHANNELS)[:, None, None, None])
            self.tail.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        first = y = self.head(x)
        for block in self.blocks:
            y = y + block(y) if self.skip else block(y)
        y = F.pixel_shuffle(self.tail(y + first), 2)
        return y + F.interpolate(x, scale_factor=2, mode="bilinear")


class Activated(nn.Sequential):
    """Two convolutions with a function of single values between them."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__(conv(CHANNELS, CHANNELS), function, conv(CHANNELS, CHANNELS))


class Attention(nn.Module):
    """Channel attention behind depthwise and grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = conv(CHANNELS, CHANNELS, groups=CHANNELS)
        self.mix = conv(CHANNELS, CHANNELS, 1, groups=2)
        self.down, self.up = conv(CHANNELS, 4, 1), conv(4, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(F.relu6(self.deep(x)))
        gate = self.up(F.relu(self.down(y.mean((2, 3), keepdim=True))))
        return y * torch.sigmoid(gate)


class Branches(nn.Module):
    """Halves of the channels, pooled and enlarged again, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.thin, self.fuse = conv(CHANNELS, CHANNELS // 2, 1), conv(CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.thin(x), 0.1)
        pooled = F.max_pool2d(y, 3, 2, 1)
        far = F.interpolate(pooled, scale_factor=2, mode="nearest")[
            :, :, : y.shape[2], : y.shape[3]
        ]
        return self.fuse(torch.cat([far, y], 1)) * 0.5


class Rows(nn.Module):
    """A product with a matrix over channels that come last, and a GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.deep = nn.Linear(CHANNELS, CHANNELS), conv(CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.deep(self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))


class Between(nn.Module):
    """Any function between two convolutions."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int = CHANNELS) -> None:
        super().__init__()
        self.first, self.second = conv(CHANNELS, CHANNELS), conv(channels, CHANNELS)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


class Uneven(nn.Module):
    """Convolutions whose padding differs between the ends of a side, as TensorFlow has them."""

    def __init__(self) -> None:
        super().__init__()
        self.even, self.odd = nn.Conv2d(CHANNELS, CHANNELS, 2), nn.Conv2d(CHANNELS, CHANNELS, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.odd(F.pad(F.relu(self.even(F.pad(x, (0, 1, 1, 0)))), (2, 0, 0, 2)))


def sloped() -> nn.Module:
    function = nn.PReLU(CHANNELS)
    nn.init.uniform_(function.weight, 0, 0.4)
    return function


KINDS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: Activated(nn.ReLU()),
    "relu6": lambda: Activated(nn.ReLU6()),
    "leaky_relu": lambda: Activated(nn.LeakyReLU(0.1)),
    "prelu": lambda: Activated(sloped()),
    "silu": lambda: Activated(nn.SiLU()),
    "gelu": lambda: Activated(nn.GELU()),
    "gelu_tanh": lambda: Activated(nn.GELU("tanh")),
    "hard_swish": lambda: Activated(nn.Hardswish()),
    "tanh": lambda: Activated(nn.Tanh()),
    "attention": Attention,
    "square": lambda: Between(lambda y: y * y * 0.2),
    "scaled": lambda: Between(lambda y: F.relu(y) * -0.3),
    "more channels": lambda: Between(lambda y: F.pad(y, (0, 0, 0, 0, 0, 8)), CHANNELS + 8),
    "expanded": lambda: Between(
        lambda y: torch.cat([y, y[:, :1].expand(-1, 4, -1, -1)], 1), CHANNELS + 4
    ),
    "widened": lambda: Between(
        lambda y: torch.cat([y, y.mean(1, keepdim=True) * torch.ones(1, 4, 1, 1)], 1), CHANNELS + 4
    ),
    "uneven": Uneven,
    "branches": Branches,
    "rows": Rows,
}
"""Name of what stands between convolutions -> a block with it."""


def space_of(kind: str, folder: Path, skip: bool = True) -> SearchSpace:
    """Write the file of a stack of blocks, always the same, and return its space."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Stack(KINDS[kind], skip)
    return file_of(net, folder / f"{kind}.onnx")


def file_of(net: nn.Module, path: Path) -> SearchSpace:
    """Write the file of a network that enlarges x2, and return its space."""
    torch.onnx.export(
        net.eval(), (torch.rand(1, 3, 24, 20),), path, opset_version=17, dynamo=False,
        input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "n", 2: "h", 3: "w"}},
    )  # fmt: skip
    return SearchSpace("it", "onnx", 2, 0, 0, {}, source=str(path), pixels=Pixels())


def in_float(space: SearchSpace) -> nn.Module:
    return network.build(space, onnx_survey.genotype(space), None).eval()
