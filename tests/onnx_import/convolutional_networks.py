"""Small random networks with the operations of convolutional super-resolution architectures.

Each class stands for one architecture that people bring as an ONNX file. It has few channels and
one or two blocks, but every kind of operation of the original. All take (N, 3, H, W) and double or
triple both sides.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(c_in: int, c_out: int, side: int = 3, **form) -> nn.Conv2d:
    """A convolution that keeps the size of the image."""
    return nn.Conv2d(c_in, c_out, side, padding=side // 2, **form)


class ChannelNorm(nn.Module):
    """Layer normalisation over channels, spelled out as most architectures do."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)
        self.bias = nn.Parameter(torch.randn(channels) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class SqueezeExcite(nn.Module):
    """Attention over channels, from their means."""

    def __init__(self, channels: int, activation: nn.Module) -> None:
        super().__init__()
        inner = max(2, channels // 4)
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inner, 1),
            activation,
            nn.Conv2d(inner, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(x)


class Rcan(nn.Module):
    """RCAN (arXiv 1807.02758): shifts of the mean, channel attention, residuals of residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.sub, self.add = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        for shift, sign in ((self.sub, -1), (self.add, 1)):
            shift.weight.data = torch.eye(3).view(3, 3, 1, 1)
            shift.bias.data = sign * torch.tensor([0.4488, 0.4371, 0.4040])
        self.head = conv(3, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv(8, 8), nn.ReLU(True), conv(8, 8), SqueezeExcite(8, nn.ReLU(True)))
            for _ in range(2)
        )
        self.group_end = conv(8, 8)
        self.tail = nn.Sequential(conv(8, 32), nn.PixelShuffle(2), conv(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        head = y = self.head(self.sub(x))
        for block in self.blocks:
            y = y + block(y)
        return self.add(self.tail(head + self.group_end(y)))


class Safmn(nn.Module):
    """SAFMN (arXiv 2302.13800): features at several sizes that modulate each other.

    adaptive: pool to a size computed from the image's, as in the original, which torch exports for
    a fixed size alone; otherwise pool by fixed factors, as in versions that are meant for export.
    """

    def __init__(self, adaptive: bool = False) -> None:
        super().__init__()
        self.adaptive = adaptive
        self.head, self.norms = conv(3, 16), nn.ModuleList([ChannelNorm(16), ChannelNorm(16)])
        self.depthwise = nn.ModuleList(conv(4, 4, groups=4) for _ in range(4))
        self.gather, self.act = nn.Conv2d(16, 16, 1), nn.GELU()
        self.mix = nn.Sequential(conv(16, 32), nn.GELU(), nn.Conv2d(32, 16, 1))
        self.tail = nn.Sequential(conv(16, 12), nn.PixelShuffle(2))

    def modulate(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        parts = []
        for k, (part, depthwise) in enumerate(zip(x.chunk(4, 1), self.depthwise, strict=True)):
            if not k:
                parts.append(depthwise(part))
                continue
            size = height // 2**k, width // 2**k
            small = F.adaptive_max_pool2d(part, size) if self.adaptive else F.max_pool2d(part, 2**k)
            parts.append(F.interpolate(depthwise(small), size=(height, width), mode="nearest"))
        return self.act(self.gather(torch.cat(parts, 1))) * x

    def forward(self, x: Tensor) -> Tensor:
        head = x = self.head(x)
        x = self.modulate(self.norms[0](x)) + x
        x = self.mix(self.norms[1](x)) + x
        return self.tail(x + head)


class Span(nn.Module):
    """SPAN (arXiv 2311.12770): attention without parameters, from a block's own output."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1))
        self.head = conv(3, 8)
        self.blocks = nn.ModuleList(
            nn.ModuleList(conv(8, 8, bias=k < 2) for k in range(3)) for _ in range(2)
        )
        self.gather, self.act = nn.Conv2d(32, 8, 1), nn.SiLU(inplace=True)
        self.middle, self.tail = conv(8, 8), nn.Sequential(conv(8, 12), nn.PixelShuffle(2))

    def block(self, x: Tensor, layers: nn.ModuleList) -> tuple[Tensor, Tensor]:
        """(output of the block, its first features after the activation)."""
        first = layers[0](x)
        second = self.act(layers[1](self.act(first)))
        third = layers[2](second)
        return (third + x) * (torch.sigmoid(third) - 0.5), first

    def forward(self, x: Tensor) -> Tensor:
        head = self.head((x - self.mean) * 1.0)
        one, _ = self.block(head, self.blocks[0])
        two, inner = self.block(one, self.blocks[1])
        return self.tail(self.gather(torch.cat([head, self.middle(two), one, inner], 1)))


class Plksr(nn.Module):
    """PLKSR and RealPLKSR (arXiv 2404.11848): large kernels on a part of the channels.

    sampler: enlarge by positions that are learned (DySample, arXiv 2308.15085) instead of a pixel
    shuffle.
    """

    def __init__(self, sampler: bool = False) -> None:
        super().__init__()
        self.sampler = sampler
        self.head = conv(3, 12)
        self.mix = nn.Sequential(conv(12, 24), nn.Mish(), conv(24, 12))
        self.large = conv(4, 4, 13)
        self.attend = nn.Sequential(conv(12, 12), nn.Sigmoid())
        self.refine, self.norm = nn.Conv2d(12, 12, 1), nn.GroupNorm(4, 12)
        self.norm.weight.data.uniform_(0.5, 1.5)
        self.drop = nn.Dropout2d(0.1)
        self.last = conv(12, 12)
        self.offset, self.scope = nn.Conv2d(12, 8, 1), nn.Conv2d(12, 8, 1, bias=False)
        self.end = nn.Conv2d(12, 3, 1)
        start = torch.tensor([-0.25, 0.25])
        place = torch.stack(torch.meshgrid(start, start, indexing="ij"))  # (2, 2, 2)
        self.register_buffer("place", place.transpose(1, 2).reshape(1, 8, 1, 1))

    def partial(self, x: Tensor) -> Tensor:
        one, two = torch.split(x, [4, 8], 1)
        return torch.cat([self.large(one), two], 1)

    def sample(self, x: Tensor) -> Tensor:
        """Enlarge x at learned positions; (N, 12, H, W) -> (N, 3, 2H, 2W)."""
        offset = self.offset(x) * self.scope(x).sigmoid() * 0.5 + self.place
        n, _, h, w = offset.shape
        offset = offset.view(n, 2, -1, h, w)
        rows, columns = torch.arange(h) + 0.5, torch.arange(w) + 0.5
        where = torch.stack(torch.meshgrid([columns, rows], indexing="ij")).transpose(1, 2)
        where = where.unsqueeze(1).unsqueeze(0).type(x.dtype)
        sides = torch.stack([torch.as_tensor(side) for side in (w, h)])
        sides = sides.type(x.dtype).view(1, 2, 1, 1, 1)
        places = 2 * (where + offset) / sides - 1
        places = F.pixel_shuffle(places.view(n, -1, h, w), 2).view(n, 2, -1, 2 * h, 2 * w)
        places = places.permute(0, 2, 3, 4, 1).contiguous().flatten(0, 1)
        taken = F.grid_sample(
            x, places, mode="bilinear", align_corners=False, padding_mode="border"
        )
        return self.end(taken.view(n, 12, 2 * h, 2 * w))

    def forward(self, x: Tensor) -> Tensor:
        y = head = self.head(x)
        y = self.refine(self.attend(y) * self.partial(self.mix(y)))
        y = self.drop(self.norm(y) + head)
        if self.sampler:
            return self.sample(y)
        return F.pixel_shuffle(self.last(y) + torch.repeat_interleave(x, 4, dim=1), 2)


class Compact(nn.Module):
    """SRVGGNetCompact, the network of Real-ESRGAN's video models and of AnimeJaNai."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, 8), nn.PReLU(8)]
        for _ in range(2):
            layers += [conv(8, 8), nn.PReLU(8)]
        for layer in layers[1::2]:
            layer.weight.data.uniform_(-0.2, 0.4)
        self.body = nn.Sequential(*layers, conv(8, 12))

    def forward(self, x: Tensor) -> Tensor:
        enlarged = F.interpolate(x, scale_factor=2, mode="nearest")
        return F.pixel_shuffle(self.body(x), 2) + enlarged


class Upconv7(nn.Module):
    """upconv_7 of waifu2x: convolutions without padding, and a transposed one at the end.

    padded: pad the image inside, so that the output is twice as large, as many exported files do.
    """

    def __init__(self, padded: bool) -> None:
        super().__init__()
        self.padded, widths = padded, (3, 8, 8, 12, 12, 16)
        layers: list[nn.Module] = []
        for c_in, c_out in itertools.pairwise(widths):
            layers += [nn.Conv2d(c_in, c_out, 3), nn.LeakyReLU(0.1)]
        self.body = nn.Sequential(*layers, nn.ConvTranspose2d(16, 3, 4, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(F.pad(x, (6, 6, 6, 6), "replicate") if self.padded else x)


class CuganBlock(nn.Module):
    """Two convolutions without padding, with or without attention over channels."""

    def __init__(self, c_in: int, inner: int, c_out: int, weighed: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, inner, 3), nn.LeakyReLU(0.1), nn.Conv2d(inner, c_out, 3),
            nn.LeakyReLU(0.1),
        )  # fmt: skip
        self.first, self.second = nn.Conv2d(c_out, 2, 1), nn.Conv2d(2, c_out, 1)
        self.weighed = weighed

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        if not self.weighed:
            return x
        mean = torch.mean(x, dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.second(F.relu(self.first(mean))))


class Cugan(nn.Module):
    """Real-CUGAN (UpCunet2x): two U-nets without padding, and borders cut by negative padding."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.down = CuganBlock(3, 4, 8, False), nn.Conv2d(8, 8, 2, 2)
        self.two, self.up = CuganBlock(8, 8, 8, True), nn.ConvTranspose2d(8, 8, 2, 2)
        self.three, self.enlarge = nn.Conv2d(8, 8, 3), nn.ConvTranspose2d(8, 3, 4, 2, 3)
        self.four, self.last = CuganBlock(3, 4, 8, True), nn.Conv2d(8, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h0, w0 = x.shape[2:]
        tall, wide = ((h0 - 1) // 2 + 1) * 2, ((w0 - 1) // 2 + 1) * 2
        x = F.pad(x, (12, 12 + wide - w0, 12, 12 + tall - h0), "reflect")
        one = self.one(x)
        two = F.leaky_relu(self.up(self.two(F.leaky_relu(self.down(one), 0.1))), 0.1)
        first = self.enlarge(F.leaky_relu(self.three(F.pad(one, (-4, -4, -4, -4)) + two), 0.1))
        out = self.last(self.four(first)) + F.pad(first, (-3, -3, -3, -3))
        return out[:, :, : h0 * 2, : w0 * 2]


class Xlsr(nn.Module):
    """XLSR (arXiv 2105.10288): grouped convolutions, and an output clipped to 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.side = conv(3, 16), conv(3, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv(16, 16, groups=4), nn.ReLU(), nn.Conv2d(16, 16, 1)) for _ in range(2)
        )
        self.mix = nn.Sequential(nn.Conv2d(24, 16, 1), nn.ReLU(), conv(16, 27))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.head(x))
        for block in self.blocks:
            y = block(y)
        y = self.mix(torch.cat([y, F.relu(self.side(x))], 1))
        return torch.clamp(F.pixel_shuffle(y, 3), min=0.0, max=1.0)


class Esrgan(nn.Module):
    """The x2 network of Real-ESRGAN: inverse pixel shuffle, dense blocks, nearest enlargement."""

    def __init__(self) -> None:
        super().__init__()
        self.head = conv(12, 8)
        self.dense = nn.ModuleList(conv(8 + 4 * k, 4 if k < 2 else 8) for k in range(3))
        self.up = nn.ModuleList(conv(8, 8) for _ in range(3))
        self.last = conv(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        head = y = self.head(F.pixel_unshuffle(x, 2))
        one = F.leaky_relu(self.dense[0](y), 0.2)
        two = F.leaky_relu(self.dense[1](torch.cat((y, one), 1)), 0.2)
        y = y + self.dense[2](torch.cat((y, one, two), 1)) * 0.2
        y = head + self.up[0](y)
        for layer in self.up[1:]:
            y = F.leaky_relu(layer(F.interpolate(y, scale_factor=2, mode="nearest")), 0.2)
        return self.last(y)


class Seemore(nn.Module):
    """SeemoRe (arXiv 2402.03412): low-rank experts that a router weighs, striped kernels.

    chosen: the best expert alone counts, found by TopK; otherwise all of them do.
    """

    def __init__(self, chosen: bool = False) -> None:
        super().__init__()
        self.chosen, self.head, self.norm = chosen, conv(3, 8), ChannelNorm(8)
        self.router = nn.Linear(8, 3)
        self.expand = nn.Sequential(conv(8, 8, groups=8), nn.Conv2d(8, 16, 1))
        self.experts = nn.ModuleList(
            nn.ModuleList([nn.Conv2d(8, rank, 1), nn.Conv2d(8, rank, 1), nn.Conv2d(rank, 8, 1)])
            for rank in (2, 4, 4)
        )
        self.stripe = nn.Sequential(
            nn.Conv2d(8, 8, (1, 11), padding=(0, 5), groups=8),
            nn.Conv2d(8, 8, (11, 1), padding=(5, 0), groups=8),
        )
        self.project, self.tail = nn.Conv2d(8, 8, 1), conv(8, 12)

    def gates(self, x: Tensor) -> Tensor:
        """Weights of the experts, (N, 3)."""
        weights = self.router(x.mean((2, 3))).softmax(-1)
        if not self.chosen:
            return weights
        best, which = torch.topk(weights, 1, dim=-1)
        return (torch.arange(3) == which) * best

    def forward(self, x: Tensor) -> Tensor:
        head = self.head(x)
        y, k = self.expand(self.norm(head)).chunk(2, 1)
        y, k = self.stripe(y) * y, F.silu(k)
        gates = self.gates(k)
        mixed = torch.stack(
            [down[2](down[0](y) * F.gelu(down[1](k))) for down in self.experts], dim=1
        )
        y = (mixed * gates[:, :, None, None, None]).sum(1)
        return F.pixel_shuffle(self.tail(self.project(y) + head), 2)
