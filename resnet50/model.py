"""Residual networks of 18 and 50 layers: He, Zhang, Ren and Sun, "Deep Residual Learning" (2015), table 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.errors import Refused

STAGES = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}  # depth -> blocks in each stage (table 1)
SMALL_IMAGE = 64  # pixels: below it the stem keeps the resolution


class UnknownDepth(Refused, ValueError):
    """A ResNet that is not here."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left)."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, width, kernel=3, stride=stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, kernel=3)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, width, H / stride, W / stride)."""
        y = self.norm1(self.conv1(x)).relu()  # (B, C, H, W) -> (B, width, H/s, W/s)
        y = self.norm2(self.conv2(y))
        out: Tensor = (y + self.shortcut(x)).relu()
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (figure 5, right).

    The stride is on the 3x3, as in Goyal et al. (2017) and torchvision, where the paper has it on the first 1x1.
    """

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, width, kernel=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, kernel=3, stride=stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, 4 * width, kernel=1)
        self.norm3 = nn.BatchNorm2d(4 * width)
        self.shortcut = _shortcut(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 4 width, H / stride, W / stride)."""
        y = self.norm1(self.conv1(x)).relu()  # (B, C, H, W) -> (B, width, H, W)
        y = self.norm2(self.conv2(y)).relu()  # -> (B, width, H/s, W/s)
        y = self.norm3(self.conv3(y))  # -> (B, 4 width, H/s, W/s)
        out: Tensor = (y + self.shortcut(x)).relu()
        return out


class ResNet(nn.Module):
    """A stem, four stages of residual blocks, the mean over the image and one linear layer.

    Depth 18 has basic blocks, 50 bottlenecks; `width` is the first stage's channels and each further stage doubles it.
    Images of 64 pixels and more get the paper's stem (7x7, stride 2, max-pool), smaller ones a 3x3 that keeps the
    resolution (section 4.2). Parameters at width 64, 1000 classes, 3 channels and the paper's stem, as torchvision's:
    11,689,512 and 25,557,032.

    Raises:
        UnknownDepth: neither 18 nor 50.
    """

    def __init__(
        self, *, depth: int = 50, width: int = 64, in_channels: int = 3, classes: int = 1000, image_size: int = 224
    ) -> None:
        super().__init__()
        if depth not in STAGES:
            raise UnknownDepth(
                f"RESNET50_DEPTH={depth}: no such ResNet here. Use one of: {', '.join(map(str, STAGES))}"
            )
        block = BasicBlock if depth == 18 else Bottleneck
        self.stem = _stem(in_channels, width, small=image_size < SMALL_IMAGE)
        blocks: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(STAGES[depth]):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(channels, width << stage, stride))
                channels = (width << stage) * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, classes)
        self.apply(_initialize)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of `images` (B, in_channels, H, W)."""
        x = self.stem(images)  # (B, C, H, W) -> (B, width, H', W'): H' = H, or H/4 with the 7x7 stem
        x = self.blocks(x)  # -> (B, 8 width expansion, H'/8, W'/8)
        x = x.mean(dim=(2, 3))  # -> (B, 8 width expansion)
        logits: Tensor = self.head(x)  # -> (B, classes)
        return logits


def _conv(channels: int, width: int, *, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)


def _shortcut(channels: int, width: int, stride: int) -> nn.Module:
    """The identity, or a 1x1 projection where the shape changes (option B of the paper)."""
    if stride == 1 and channels == width:
        return nn.Identity()
    return nn.Sequential(_conv(channels, width, kernel=1, stride=stride), nn.BatchNorm2d(width))


def _stem(channels: int, width: int, *, small: bool) -> nn.Sequential:
    if small:
        return nn.Sequential(_conv(channels, width, kernel=3), nn.BatchNorm2d(width), nn.ReLU())
    convolution = [_conv(channels, width, kernel=7, stride=2), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*convolution, nn.MaxPool2d(3, stride=2, padding=1))


@torch.no_grad()
def _initialize(module: nn.Module) -> None:
    """He initialization, and every block starts as the identity: the last norm's gain is 0 (Goyal et al. 2017, 5.1)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, BasicBlock):
        nn.init.zeros_(module.norm2.weight)
    elif isinstance(module, Bottleneck):
        nn.init.zeros_(module.norm3.weight)
