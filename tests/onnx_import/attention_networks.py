"""Small random networks with the operations of super-resolution transformers.

Each class stands for one architecture that people bring as an ONNX file. It has few channels and
one or two blocks, but every kind of operation of the original. All take (N, 3, H, W) and double
both sides.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.onnx_import.convolutional_networks import ChannelNorm, SqueezeExcite, conv

WINDOW = 4
"""Side of a window of attention, pixels."""


def padded(x: Tensor, side: int = WINDOW) -> Tensor:
    """Pad an image at its end, by reflection, to a multiple of `side`."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, (side - width % side) % side, 0, (side - height % side) % side), "reflect")


def windows(x: Tensor, side: int = WINDOW) -> Tensor:
    """(N, H, W, C) -> (windows, side * side, C)."""
    n, h, w, c = x.shape
    x = x.view(n, h // side, side, w // side, side, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, side * side, c)


def image(x: Tensor, height: int, width: int, side: int = WINDOW) -> Tensor:
    """The inverse of `windows`: (windows, side * side, C) -> (N, H, W, C)."""
    x = x.view(-1, height // side, width // side, side, side, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, height, width, x.shape[-1])


def distances(side: int = WINDOW) -> Tensor:
    """Number of the difference between two positions of a window, (side**2, side**2)."""
    at = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    apart = at[:, None] - at[None] + side - 1
    return apart[..., 0] * (2 * side - 1) + apart[..., 1]


class WindowAttention(nn.Module):
    """Attention with two heads inside of windows, with a bias by relative position."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.table = nn.Parameter(torch.randn((2 * WINDOW - 1) ** 2, 2))
        self.register_buffer("index", distances())

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        rows, count, c = x.shape
        qkv = self.qkv(x).reshape(rows, count, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = (q * (c // 2) ** -0.5) @ k.transpose(-2, -1)
        bias = self.table[self.index.view(-1)].view(count, count, 2).permute(2, 0, 1).contiguous()
        weights = weights + bias.unsqueeze(0)
        if mask is not None:
            several = mask.shape[0]
            weights = weights.view(rows // several, several, 2, count, count)
            weights = (weights + mask.unsqueeze(1).unsqueeze(0)).view(-1, 2, count, count)
        return self.proj((weights.softmax(-1) @ v).transpose(1, 2).reshape(rows, count, c))


class SwinIr(nn.Module):
    """SwinIR (arXiv 2108.10257): shifted windows, whose masks keep borders apart.

    mask: how the mask is made. `stored`: it is a constant, for images of 32x40 pixels; `assigned`:
    by assignments to slices, as in the original; `compared`: by comparisons of positions.
    """

    def __init__(self, mask: str) -> None:
        super().__init__()
        self.mask = mask
        self.register_buffer("mean", torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1))
        self.head, self.group_end = conv(3, 8), conv(8, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(5))
        self.attend = nn.ModuleList([WindowAttention(), WindowAttention()])
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(2)
        )
        self.body_end, self.tail = conv(8, 8), conv(8, 12)
        self.register_buffer("stored", self.masked(self.assigned(32, 40)))

    def assigned(self, height: int, width: int) -> Tensor:
        """Number of the region of every pixel, (1, H, W, 1)."""
        regions, count = torch.zeros((1, height, width, 1)), 0
        parts = (slice(0, -WINDOW), slice(-WINDOW, -WINDOW // 2), slice(-WINDOW // 2, None))
        for rows in parts:
            for columns in parts:
                regions[:, rows, columns, :] = count
                count += 1
        return regions

    def compared(self, height: int, width: int) -> Tensor:
        """The same as `assigned`, by comparisons."""
        lines = []
        for side in (height, width):
            at = torch.arange(side)
            lines.append((at >= side - WINDOW).float() + (at >= side - WINDOW // 2).float())
        return (lines[0][:, None] * 3 + lines[1][None])[None, :, :, None]

    def masked(self, regions: Tensor) -> Tensor:
        """What is added to the attention of every window, (windows, side**2, side**2)."""
        parts = windows(regions).view(-1, WINDOW**2)
        apart = parts.unsqueeze(1) - parts.unsqueeze(2)
        return apart.masked_fill(apart != 0, -100.0).masked_fill(apart == 0, 0.0)

    def layer(self, k: int, x: Tensor, height: int, width: int, mask: Tensor | None) -> Tensor:
        n, length, c = x.shape
        y, shift = self.norms[2 * k](x).view(n, height, width, c), WINDOW // 2
        if mask is not None:
            y = torch.roll(y, shifts=(-shift, -shift), dims=(1, 2))
        y = image(self.attend[k](windows(y), mask), height, width)
        if mask is not None:
            y = torch.roll(y, shifts=(shift, shift), dims=(1, 2))
        x = x + y.view(n, length, c)
        return x + self.mlps[k](self.norms[2 * k + 1](x))

    def forward(self, x: Tensor) -> Tensor:
        tall, wide = x.shape[2:]
        x = self.head((padded(x) - self.mean) * 1.0)
        height, width = x.shape[2:]
        if self.mask == "stored":
            mask = self.stored
        else:
            mask = self.masked(getattr(self, self.mask)(height, width))
        y = x.flatten(2).transpose(1, 2)
        y = self.layer(1, self.layer(0, y, height, width, None), height, width, mask)
        y = self.norms[4](y).transpose(1, 2).view(-1, 8, height, width)
        y = self.tail(self.body_end(self.group_end(y) + x) + x)
        return F.pixel_shuffle(y, 2)[:, :, : tall * 2, : wide * 2] + 0.4


class OmniSr(nn.Module):
    """OmniSR (arXiv 2304.10244): attention in blocks, in grids and over channels, and ESA.

    einsum: write products of attention as Einsum, as in the original.
    """

    def __init__(self, einsum: bool = False) -> None:
        super().__init__()
        self.einsum = einsum
        self.head, self.norm = conv(3, 8), nn.LayerNorm(8)
        self.expand = nn.Sequential(
            nn.Conv2d(8, 16, 1), nn.GELU(), conv(16, 16, groups=16), nn.GELU(),
            SqueezeExcite(16, nn.SiLU()), nn.Conv2d(16, 8, 1),
        )  # fmt: skip
        self.to_qkv = nn.ModuleList(nn.Linear(8, 24, bias=False) for _ in range(2))
        self.temperature = nn.Parameter(torch.ones(2, 1, 1))
        self.channel_qkv = nn.Sequential(nn.Conv2d(8, 24, 1, bias=False), conv(24, 24, groups=24))
        self.gate_in, self.gate_out = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 8, 1)
        self.gate_mix, self.gate_norm = conv(16, 16, groups=16), ChannelNorm(8)
        self.esa_in, self.esa_out = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.esa_small, self.esa_deep, self.esa_side = (
            nn.Conv2d(4, 4, 3, 2), conv(4, 4), nn.Conv2d(4, 4, 1),
        )  # fmt: skip
        self.tail = nn.Sequential(conv(8, 12), nn.PixelShuffle(2))

    def product(self, text: str, a: Tensor, b: Tensor) -> Tensor:
        if self.einsum:
            return torch.einsum(text, a, b)
        return a @ (b.transpose(-2, -1) if text.endswith("i j") else b)

    def attention(self, x: Tensor, layer: nn.Linear) -> Tensor:
        """Attention with two heads, (rows, count, 8) -> the same."""
        rows, count, c = x.shape
        q, k, v = (
            part.reshape(rows, count, 2, c // 2).transpose(1, 2)
            for part in layer(self.norm(x)).chunk(3, dim=-1)
        )
        weights = self.product("b h i d, b h j d -> b h i j", q * (c // 2) ** -0.5, k).softmax(-1)
        out = self.product("b h i j, b h j d -> b h i d", weights, v)
        return x + out.transpose(1, 2).reshape(rows, count, c)

    def in_parts(self, x: Tensor, layer: nn.Linear, grid: bool) -> Tensor:
        """Attention within windows, or over a grid of pixels that are far apart."""
        n, c, h, w = x.shape
        tall, wide = h // WINDOW, w // WINDOW
        if grid:
            y = x.reshape(n, c, WINDOW, tall, WINDOW, wide).permute(0, 3, 5, 2, 4, 1)
        else:
            y = x.reshape(n, c, tall, WINDOW, wide, WINDOW).permute(0, 2, 4, 3, 5, 1)
        y = self.attention(y.reshape(-1, WINDOW**2, c), layer)
        y = y.reshape(n, tall, wide, WINDOW, WINDOW, c)
        order = (0, 5, 3, 1, 4, 2) if grid else (0, 5, 1, 3, 2, 4)
        return y.permute(order).reshape(n, c, h, w)

    def over_channels(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = (
            part.reshape(n, 2, c // 2, h * w) for part in self.channel_qkv(x).chunk(3, dim=1)
        )
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        weights = self.product("b h i d, b h j d -> b h i j", q, k) * self.temperature
        out = self.product("b h i j, b h j d -> b h i d", weights.softmax(-1), v)
        return x + out.reshape(n, c, h, w)

    def gated(self, x: Tensor) -> Tensor:
        one, two = self.gate_mix(self.gate_in(self.gate_norm(x))).chunk(2, dim=1)
        return x + self.gate_out(F.gelu(one) * two)

    def esa(self, x: Tensor) -> Tensor:
        first = self.esa_in(x)
        small = F.max_pool2d(self.esa_small(first), kernel_size=7, stride=3)
        small = self.esa_deep(small)
        small = F.interpolate(small, (x.size(2), x.size(3)), mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.esa_out(small + self.esa_side(first)))

    def forward(self, x: Tensor) -> Tensor:
        tall, wide = x.shape[2:]
        head = self.head(padded(x, 2 * WINDOW))
        y = head + self.expand(head)
        for layer, grid in zip(self.to_qkv, (False, True), strict=True):
            y = self.gated(self.in_parts(y, layer, grid))
        y = self.esa(self.gated(self.over_channels(y)))
        return self.tail(y + head)[:, :, : tall * 2, : wide * 2]


class Craft(nn.Module):
    """CRAFT (arXiv 2308.05022): high-frequency features that modulate attention in rectangles.

    The bias by position is computed by a small network from constants, as in the original.
    """

    def __init__(self) -> None:
        super().__init__()
        self.head, self.norm, self.cross_norm = conv(3, 8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.local, self.sharp = conv(4, 4), nn.Conv2d(4, 4, 1)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.position = nn.Sequential(
            nn.Linear(2, 4), nn.LayerNorm(4), nn.ReLU(inplace=True), nn.Linear(4, 2)
        )
        at = torch.cartesian_prod(torch.arange(2.0), torch.arange(8.0))
        self.register_buffer("apart", (at[:, None] - at[None]).flatten(0, 1))
        self.cross_q, self.cross_kv = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 16, 1)
        self.spread, self.temperature = nn.Conv2d(8, 8, 1), nn.Parameter(torch.ones(2, 1, 1))
        self.tail = conv(8, 12)

    def high(self, x: Tensor) -> Tensor:
        """The local and the high-frequency branch of the first block."""
        one, two = x[:, :4, :, :], x[:, 4:, :, :]
        two = F.gelu(self.sharp(F.max_pool2d(two, kernel_size=3, stride=1, padding=1)))
        return torch.cat([F.gelu(self.local(one)), two], 1) + x

    def rectangles(self, x: Tensor) -> Tensor:
        """Attention in windows of 2x8 pixels."""
        n, c, h, w = x.shape
        y = x.view(n, c, h // 2, 2, w // 8, 8).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        y = self.norm(y)
        q, k, v = self.qkv(y).view(-1, 16, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.position(self.apart).transpose(0, 1).view(1, 2, 16, 16)
        weights = torch.softmax(q @ k.transpose(-2, -1) * 0.5 + bias, dim=-1)
        y = self.proj((weights @ v).transpose(1, 2).reshape(-1, 16, c))
        y = y.view(n, h // 2, w // 8, 2, 8, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)
        return x + y

    def fused(self, high: Tensor, x: Tensor) -> Tensor:
        """Attention over channels, whose queries are the high-frequency features."""
        n, c, h, w = x.shape
        normed = self.cross_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        k, v = self.cross_kv(normed).chunk(2, 1)
        q, k, v = (part.reshape(n, 2, c // 2, h * w) for part in (self.cross_q(high), k, v))
        q, k = F.normalize(q, dim=-1, p=2.0), F.normalize(k, dim=-1, p=2.0)
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        return x + self.spread((weights @ v).reshape(n, c, h, w))

    def forward(self, x: Tensor) -> Tensor:
        tall, wide = x.shape[2:]
        head = self.head(padded(x, 8))
        high = self.high(head)
        y = F.pixel_shuffle(self.tail(self.fused(high, self.rectangles(head)) + head), 2)
        base = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return y[..., : tall * 2, : wide * 2] + base


class Ditn(nn.Module):
    """DITN (arXiv 2308.02794): attention within patches and over them, normalised by ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.norms = conv(3, 8), nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
        self.qkv = nn.ModuleList(nn.Conv1d(8, 24, 1) for _ in range(2))
        self.scale = nn.Parameter(torch.ones(2) * 0.1)
        self.feed = nn.Sequential(conv(8, 16, groups=8), nn.GELU(), nn.Conv2d(16, 8, 1))
        self.tail = nn.Sequential(conv(8, 12), nn.PixelShuffle(2))

    def normed(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Layer normalisation, spelled out with a biased variance; (rows, count, 8)."""
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / torch.sqrt(variance + 1e-5) * norm.weight + norm.bias

    def forward(self, x: Tensor) -> Tensor:
        tall, wide = x.shape[2:]
        head = self.head(padded(x, 8))
        n, c, h, w = head.shape
        y = head.view(n, c, h // 8, 8, w // 8, 8)
        y = y.permute(0, 2, 4, 3, 5, 1).reshape(-1, 64, c)
        q, k, v = self.qkv[0](self.normed(y, self.norms[0]).transpose(1, 2)).chunk(3, 1)
        y = y + (v @ torch.relu(q.transpose(1, 2) @ k) * self.scale[0]).transpose(1, 2)
        q, k, v = self.qkv[1](self.normed(y, self.norms[1]).transpose(1, 2)).chunk(3, 1)
        y = y + (torch.relu(q @ k.transpose(1, 2) * self.scale[1]) @ v).transpose(1, 2) * 0.1
        y = y.view(n, h // 8, w // 8, 8, 8, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)
        return self.tail(y + self.feed(y) + head)[:, :, : tall * 2, : wide * 2]


class Hat(nn.Module):
    """HAT (arXiv 2205.04437): windows that look at larger, overlapping ones, by Unfold."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.norm = conv(3, 8), nn.LayerNorm(8)
        self.q, self.kv, self.proj = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 8)
        self.unfold = nn.Unfold(kernel_size=(6, 6), stride=4, padding=1)
        self.weigh = nn.Sequential(conv(8, 4), nn.GELU(), conv(4, 8), SqueezeExcite(8, nn.ReLU()))
        self.tail = conv(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        tall, wide = x.shape[2:]
        head = self.head(padded(x))
        n, c, h, w = head.shape
        y = self.norm(head.flatten(2).transpose(1, 2)).view(n, h, w, c)
        q = windows(self.q(y)).view(-1, 16, 2, 4).transpose(1, 2)
        parts = self.unfold(self.kv(y).permute(0, 3, 1, 2))  # (n, 2 * c * 36, windows)
        parts = parts.view(n, 2, c, 36, -1).permute(1, 0, 4, 3, 2).reshape(2, -1, 36, c)
        k, v = (part.view(-1, 36, 2, 4).transpose(1, 2) for part in (parts[0], parts[1]))
        weights = torch.softmax(q * 0.5 @ k.transpose(-2, -1), -1)
        y = self.proj((weights @ v).transpose(1, 2).reshape(-1, 16, c))
        y = head + image(y, h, w).permute(0, 3, 1, 2) + self.weigh(head) * 0.1
        return F.pixel_shuffle(self.tail(y), 2)[:, :, : tall * 2, : wide * 2]
