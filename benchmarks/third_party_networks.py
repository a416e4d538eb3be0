"""Small networks as third parties write them: nothing of the project's architectures is used.

Each enlarges RGB in [0, 1] four times; `third_party_training.py` trains and exports them.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE = 4


def conv(c_in: int, c_out: int, kernel: int = 3, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups)


def to_pixels(channels: int) -> nn.Sequential:
    """Convolution and pixel shuffle to the large image."""
    return nn.Sequential(conv(channels, 3 * SCALE**2), nn.PixelShuffle(SCALE))


class Residual(nn.Module):
    """x + body(x), of any shape that the body keeps."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def espcn() -> nn.Module:
    """ESPCN: three convolutions and a pixel shuffle."""
    return nn.Sequential(conv(3, 64, 5), nn.ReLU(), conv(64, 32), nn.ReLU(), to_pixels(32))


def fsrcnn(wide: int = 56, narrow: int = 12) -> nn.Module:
    """FSRCNN: narrow convolutions between PReLUs, and a transposed convolution."""
    mapping = [m for _ in range(4) for m in (conv(narrow, narrow), nn.PReLU(narrow))]
    return nn.Sequential(
        *(conv(3, wide, 5), nn.PReLU(wide), conv(wide, narrow, 1), nn.PReLU(narrow)),
        *mapping,
        *(conv(narrow, wide, 1), nn.PReLU(wide)),
        nn.ConvTranspose2d(wide, 3, 9, SCALE, padding=4, output_padding=SCALE - 1),
    )


class QuickSRNet(nn.Module):
    """QuickSRNet: convolutions with outputs cut to [0, 1], around them the repeated image."""

    def __init__(self, channels: int = 32, depth: int = 4) -> None:
        super().__init__()
        body = [m for _ in range(depth) for m in (conv(channels, channels), nn.Hardtanh(0, 1))]
        self.body = nn.Sequential(conv(3, channels), nn.Hardtanh(0, 1), *body)
        self.last = conv(channels, 3 * SCALE**2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.body(x)) + x.repeat_interleave(SCALE**2, 1)
        return F.pixel_shuffle(y, SCALE).clamp(0, 1)


class Compact(nn.Module):
    """SRVGGNetCompact: convolutions with an activation, around them the image in nearest pixels."""

    def __init__(self, act: Callable[[], nn.Module], channels: int = 32, depth: int = 5) -> None:
        super().__init__()
        body = [m for _ in range(depth) for m in (conv(channels, channels), act())]
        self.body = nn.Sequential(conv(3, channels), act(), *body, to_pixels(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + F.interpolate(x, scale_factor=SCALE, mode="nearest")


class Trunk(nn.Module):
    """First convolution, blocks inside a skip, upsampling: the frame of EDSR and its kin."""

    def __init__(self, channels: int, *blocks: nn.Module, mean: bool = False) -> None:
        super().__init__()
        self.first = conv(3, channels)
        self.body = Residual(*blocks, conv(channels, channels))
        self.last = to_pixels(channels)
        rgb = (0.4488, 0.4371, 0.4040) if mean else (0.0, 0.0, 0.0)
        self.mean = torch.tensor(rgb).view(1, 3, 1, 1) if mean else None

    def forward(self, x: Tensor) -> Tensor:
        if self.mean is None:
            return self.last(self.body(self.first(x)))
        return self.last(self.body(self.first(x - self.mean))) + self.mean


def edsr(channels: int = 32) -> nn.Module:
    """EDSR: residual blocks with ReLU, the mean colour taken off the image."""
    blocks = [
        Residual(conv(channels, channels), nn.ReLU(), conv(channels, channels)) for _ in "1234"
    ]
    return Trunk(channels, *blocks, mean=True)


class ChannelAttention(nn.Module):
    """x times a factor per channel, from its means (and, as IMDN has it, its deviations)."""

    def __init__(self, channels: int, contrast: bool = False) -> None:
        super().__init__()
        self.contrast = contrast
        self.factor = nn.Sequential(
            conv(channels, channels // 8, 1),
            nn.ReLU(),
            conv(channels // 8, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        if self.contrast:
            mean = mean + ((x - mean) ** 2).mean((2, 3), keepdim=True).sqrt()
        return x * self.factor(mean)


def rcan(channels: int = 32) -> nn.Module:
    """RCAN: residual blocks that end with channel attention."""
    return Trunk(
        channels,
        *(
            Residual(
                *(conv(channels, channels), nn.ReLU(), conv(channels, channels)),
                ChannelAttention(channels),
            )
            for _ in range(4)
        ),
    )


def depthwise(channels: int = 32) -> nn.Module:
    """Inverted residual blocks: widening 1x1, depthwise 3x3, narrowing 1x1, with ReLU6."""
    wide = 2 * channels
    return Trunk(
        channels,
        *(
            Residual(
                *(conv(channels, wide, 1), nn.ReLU6(), conv(wide, wide, groups=wide), nn.ReLU6()),
                conv(wide, channels, 1),
            )
            for _ in range(5)
        ),
    )


class DistillBlock(nn.Module):
    """IMDN's block: a quarter of the channels is kept at each step, and attention ends it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kept = channels // 4
        rest = channels - self.kept
        self.steps = nn.ModuleList(
            [conv(channels, channels), *(conv(rest, channels) for _ in "12")]
        )
        self.last_step = conv(rest, self.kept)
        self.act = nn.LeakyReLU(0.05)
        self.end = nn.Sequential(ChannelAttention(channels, True), conv(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        parts, rest = [], x
        for step in self.steps:
            both = self.act(step(rest))
            kept, rest = both.split([self.kept, both.shape[1] - self.kept], 1)
            parts.append(kept)
        return x + self.end(torch.cat([*parts, self.last_step(rest)], 1))


class SpatialAttention(nn.Module):
    """RFDN's ESA: a factor per pixel, found on a small image and enlarged linearly."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels // 4
        self.narrow, self.skip, self.wide = (
            conv(channels, c, 1),
            conv(c, c, 1),
            conv(c, channels, 1),
        )
        self.shrink = nn.Conv2d(c, c, 3, 2)
        self.small = nn.Sequential(nn.MaxPool2d(7, 3), conv(c, c), nn.ReLU(), conv(c, c), nn.ReLU())
        self.end = conv(c, c)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.narrow(x)
        small = self.end(self.small(self.shrink(narrow)))
        large = F.interpolate(small, size=x.shape[2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.wide(large + self.skip(narrow)))


class FeatureBlock(nn.Module):
    """RFDN's block: 1x1 convolutions distil beside shallow residual ones; ESA ends it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.distil = nn.ModuleList(conv(channels, half, 1) for _ in "123")
        self.refine = nn.ModuleList(conv(channels, channels) for _ in "123")
        self.last_step, self.fuse = conv(channels, half), conv(4 * half, channels, 1)
        self.act, self.attention = nn.LeakyReLU(0.05), SpatialAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for distil, refine in zip(self.distil, self.refine, strict=True):
            parts.append(self.act(distil(x)))
            x = self.act(refine(x) + x)
        parts.append(self.act(self.last_step(x)))
        return self.attention(self.fuse(torch.cat(parts, 1)))


class Distillation(nn.Module):
    """The frame of IMDN, RFDN and BSRN: the outputs of all blocks are joined."""

    def __init__(self, channels: int, blocks: Iterable[nn.Module], act: nn.Module) -> None:
        super().__init__()
        self.first, self.blocks = conv(3, channels), nn.ModuleList(blocks)
        self.join = nn.Sequential(
            conv(channels * len(self.blocks), channels, 1), act, conv(channels, channels)
        )
        self.last = to_pixels(channels)

    def forward(self, x: Tensor) -> Tensor:
        first = y = self.first(x)
        seen = []
        for block in self.blocks:
            y = block(y)
            seen.append(y)
        return self.last(first + self.join(torch.cat(seen, 1)))


def imdn(channels: int = 32) -> nn.Module:
    """IMDN with three blocks."""
    return Distillation(channels, [DistillBlock(channels) for _ in "123"], nn.LeakyReLU(0.05))


def rfdn(channels: int = 48) -> nn.Module:
    """RFDN with four blocks, as large as the published one but for two channels."""
    return Distillation(channels, [FeatureBlock(channels) for _ in "1234"], nn.LeakyReLU(0.05))


class SpanBlock(nn.Module):
    """SPAN's block: three convolutions with SiLU; their output is also the attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(conv(channels, channels), nn.SiLU(), conv(channels, channels), nn.SiLU()),
            conv(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return (y + x) * (torch.sigmoid(y) - 0.5)


def span(channels: int = 32) -> nn.Module:
    """SPAN with two blocks."""
    return Distillation(channels, [SpanBlock(channels) for _ in "12"], nn.SiLU())


class BlueprintConv(nn.Module):
    """BSRN's convolution: nn.Linear over the channels, then a depthwise one."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.mix, self.depthwise = nn.Linear(c_in, c_out), conv(c_out, c_out, groups=c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.depthwise(self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class BlueprintBlock(nn.Module):
    """BSRN's block: nn.Linear distils beside blueprint convolutions, with GELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.distil = nn.ModuleList(nn.Linear(channels, channels // 2) for _ in "123")
        self.refine = nn.ModuleList(BlueprintConv(channels, channels) for _ in "123")
        self.fuse, self.act = nn.Linear(channels // 2 * 3 + channels, channels), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        y, parts = x, []
        for distil, refine in zip(self.distil, self.refine, strict=True):
            parts.append(self.act(distil(y.permute(0, 2, 3, 1))))
            y = self.act(refine(y) + y)
        joined = torch.cat([*parts, y.permute(0, 2, 3, 1)], 3)
        return x + self.fuse(joined).permute(0, 3, 1, 2)


def bsrn(channels: int = 32) -> nn.Module:
    """BSRN with four blocks, without its attentions."""
    return Distillation(channels, [BlueprintBlock(channels) for _ in "1234"], nn.GELU())


class WindowBlock(nn.Module):
    """A transformer's block: attention inside windows, then two layers per pixel."""

    def __init__(self, channels: int, heads: int = 2, window: int = 8) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in "12")
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.place = nn.Parameter(torch.zeros(heads, window**2, window**2))
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        s = self.window
        cut = x.view(n, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
        cut = cut + self.attend(self.norms[0](cut))
        cut = cut + self.mlp(self.norms[1](cut))
        cut = cut.view(n, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5)
        return cut.reshape(n, h, w, c)

    def attend(self, x: Tensor) -> Tensor:
        """Attention of windows (windows, pixels, channels) -> same shape."""
        c = x.shape[2]
        parts = self.qkv(x).view(-1, x.shape[1], 3, self.heads, c // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(2, 3) * (c // self.heads) ** -0.5 + self.place).softmax(3)
        return self.out((weights @ v).transpose(1, 2).reshape(-1, x.shape[1], c))


class Windows(nn.Module):
    """A transformer of window attention with a 3x3 convolution behind every two blocks."""

    def __init__(self, channels: int = 32, window: int = 8) -> None:
        super().__init__()
        self.window = window
        self.first, self.last = conv(3, channels), to_pixels(channels)
        self.blocks = nn.ModuleList(WindowBlock(channels, window=window) for _ in "12")
        self.mixes = nn.ModuleList(conv(channels, channels) for _ in "12")

    def forward(self, x: Tensor) -> Tensor:
        h, w, s = x.shape[2], x.shape[3], self.window
        x = F.pad(x, (0, (s - w % s) % s, 0, (s - h % s) % s), mode="reflect")
        y = first = self.first(x)
        for block, mix in zip(self.blocks, self.mixes, strict=True):
            y = y + mix(block(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return self.last(first + y)[:, :, : SCALE * h, : SCALE * w]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "espcn": espcn,
    "compact-prelu": lambda: Compact(lambda: nn.PReLU(32)),
    "edsr": edsr,
    "rfdn": rfdn,
    "bsrn": bsrn,
    "imdn": imdn,
    "depthwise": depthwise,
    "span": span,
    "fsrcnn": fsrcnn,
    "quicksrnet": QuickSRNet,
    "rcan": rcan,
    "transformer": Windows,
    "edsr-16": lambda: edsr(16),
}
"""Name -> a network x (N, 3, H, W) in [0, 1] -> (N, 3, 4 H, 4 W)."""
