"""LeNet-5: the convolutional network of LeCun, Bottou, Bengio and Haffner (1998), figure 2, as it is trained today."""

from __future__ import annotations

from torch import Tensor, nn

IMAGE_SIZE = 32  # pixels: the size that the figure's feature maps follow from


class LeNet5(nn.Module):
    """Two convolutions and three linear layers, with ReLU and max-pooling where the paper has tanh and subsampling.

    With batch normalization (Ioffe & Szegedy 2015) after each convolution it has 61,750 parameters, without 61,706.
    """

    def __init__(self, *, batch_norm: bool = True, in_channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.norm1 = nn.BatchNorm2d(6) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.norm2 = nn.BatchNorm2d(16) if batch_norm else nn.Identity()
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of `images` (B, in_channels, 32, 32)."""
        x = self.norm1(self.conv1(images)).relu()  # (B, C, 32, 32) -> (B, 6, 28, 28)
        x = self.pool(x)  # -> (B, 6, 14, 14)
        x = self.norm2(self.conv2(x)).relu()  # -> (B, 16, 10, 10)
        x = self.pool(x)  # -> (B, 16, 5, 5)
        x = x.flatten(1)  # -> (B, 400)
        x = self.fc1(x).relu()  # -> (B, 120)
        x = self.fc2(x).relu()  # -> (B, 84)
        logits: Tensor = self.fc3(x)  # -> (B, classes)
        return logits
