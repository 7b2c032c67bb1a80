"""Convolutional models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CNN(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(45, 2),
        )  # fmt: skip


class CNNGlobalPool(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AvgPool2d(2),
            nn.Conv2d(4, 5, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2),
        )  # fmt: skip


class CNNBatchNorm(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU(),
            nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(20, 2),
        )  # fmt: skip


class CNN1d(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv1d(3, 4, 3, dilation=2), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(4, 5, 3, padding=1, padding_mode="circular"), nn.ELU(),
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(5, 2),
        )  # fmt: skip


class CNN3d(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(),
            nn.Linear(32, 2),
        )  # fmt: skip


class Block(nn.Module):
    def __init__(self, a: int, inner: int, b: int, stride: int = 1) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(a, inner, 3, stride, 1, bias=False)
        self.b1 = nn.BatchNorm2d(inner)
        self.c2 = nn.Conv2d(inner, b, 3, 1, 1, bias=False)
        self.b2 = nn.BatchNorm2d(b)
        self.skip = nn.Conv2d(a, b, 1, stride, bias=False) if a != b else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.b2(self.c2(F.relu(self.b1(self.c1(x)))))
        return F.relu(self.skip(x) + y)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.one = Block(4, 5, 4)
        self.two = Block(4, 7, 6, 2)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(F.relu(self.norm(self.stem(x)), inplace=True)))
        return self.head(x.mean((2, 3)))


class PreactResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.c1 = nn.Conv2d(4, 5, 3, padding=1)
        self.c2 = nn.Conv2d(5, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x += self.c2(F.relu(self.c1(F.relu(self.norm(x)))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Depthwise(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU(),
            nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Flatten(), nn.Linear(320, 2),
        )  # fmt: skip


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.expand = nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.Hardswish())
        self.depth = nn.Sequential(
            nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.ReLU6()
        )
        self.squeeze = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                                  nn.Flatten(), nn.Linear(6, 2))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.squeeze(self.depth(self.expand(x))))


class GroupedConv(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(),
            nn.Conv2d(6, 3, 3), nn.Flatten(), nn.Linear(12, 2),
        )  # fmt: skip


class GroupedConvResidual(nn.Module):
    """A grouped convolution around a residual stream: its groups have the same channels inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 1)
        self.mix = nn.Conv2d(12, 12, 3, padding=1, groups=3)
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        x = x + torch.tanh(self.mix(x))
        return self.head(x.mean((2, 3)))


class GroupNormNet(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.Conv2d(6, 4, 3),
            nn.GroupNorm(1, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2),
        )  # fmt: skip


class InstanceNormNet(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
            nn.ReLU(), nn.Flatten(), nn.Linear(144, 2),
        )  # fmt: skip


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.down, self.up = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        gate = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1))))
        return self.head((x * torch.sigmoid(gate)).mean((-2, -1)))


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 3, 3, padding=1)
        self.c = nn.Conv2d(7, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        for conv in (self.b, self.c):
            x = torch.cat([x, F.relu(conv(x))], 1)
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Conv2d(3, 5, 3, padding=1)
        self.c = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(3, 2, 1))
        self.head = nn.Linear(11 * 64, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(torch.cat([self.a(x), self.b(x), self.c(x)], 1)).flatten(1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 5, 2, 2)
        self.c = nn.Conv2d(9, 7, 3, padding=1)
        self.out = nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        b = F.relu(self.b(F.max_pool2d(a, 2)))
        return self.out(F.relu(self.c(torch.cat([a, self.up(b)], 1))))


class ConvAutoencoder(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(6, 5, 4, 2, 1), nn.ReLU(), nn.Upsample(scale_factor=2),
            nn.Conv2d(5, 3, 3, padding=1), nn.Sigmoid(),
        )  # fmt: skip


class PixelShuffleNet(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(2, 1, 1)
        )


class PixelUnshuffleNet(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.PixelUnshuffle(2), nn.Conv2d(16, 2, 1)
        )


class ShuffleNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3)
        self.b = nn.Conv2d(6, 6, 1, groups=2)
        self.c = nn.Conv2d(6, 4, 1, groups=2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.channel_shuffle(self.b(self.a(x)), 2)
        return self.head(F.relu(self.c(x)).mean((2, 3)))


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, 2)
        self.depth = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm = nn.LayerNorm(4)
        self.up, self.down = nn.Linear(4, 9), nn.Linear(9, 4)
        self.gamma = nn.Parameter(torch.full((4,), 0.1))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(192, 6)
        self.mean, self.spread = nn.Linear(6, 4), nn.Linear(6, 4)
        self.dec = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 7), nn.ReLU(),
                                 nn.Linear(7, 3))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.enc(x.flatten(1)))
        mean, spread = self.mean(h), self.spread(h)
        return self.dec(mean + torch.randn_like(mean) * torch.exp(spread / 2))


class PatchMerging(nn.Module):
    """Shifted windows and merged patches, as in Swin: four slices of the channels' copies."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.merge, self.out = nn.Linear(16, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.roll(self.stem(x).permute(0, 2, 3, 1), (-1, -1), (1, 2))
        x = F.pad(x, (0, 0, 0, 1, 0, 1))[:, :8, :8]
        parts = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.out(torch.relu(self.merge(torch.cat(parts, -1)))).mean((1, 2))
