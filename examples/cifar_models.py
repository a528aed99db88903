"""The CIFAR networks of the papers, as factories for `python:` references.

oodline fit --model python:examples/cifar_models.py:densenet100,num_classes=100 --weights FILE ...
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PAPER = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class DenseLayer(nn.Module):
    """BN-ReLU-conv1x1-BN-ReLU-conv3x3, concatenated to its input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + growth, H, W)."""
        new = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return torch.cat([x, new], 1)


class DenseBlock(nn.Module):
    """A chain of dense layers."""

    def __init__(self, channels: int, growth: int, depth: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(*(DenseLayer(channels + i * growth, growth) for i in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + depth * growth, H, W)."""
        return self.layer(x)


class Transition(nn.Module):
    """BN-ReLU-conv1x1, then half the size."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out, H/2, W/2)."""
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class DenseNet(nn.Module):
    """DenseNet-BC for 32x32 images (Huang et al., CVPR 2017): three blocks, growth 12, compression 0.5, D=342."""

    preprocessing: ClassVar = {"resize": 32, "crop": 32, **PAPER}

    def __init__(self, num_classes: int = 10, depth: int = 100, growth: int = 12) -> None:
        super().__init__()
        layers = (depth - 4) // 6
        channels = 2 * growth
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        for i in (1, 2, 3):
            self.add_module(f"block{i}", DenseBlock(channels, growth, layers))
            channels += layers * growth
            if i < 3:
                self.add_module(f"trans{i}", Transition(channels, channels // 2))
                channels //= 2
        self.bn1 = nn.BatchNorm2d(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)  # a module, so that the feature map before it is found
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C) of images (N, 3, 32, 32)."""
        x = self.trans2(self.block2(self.trans1(self.block1(self.conv1(x)))))
        x = F.relu(self.bn1(self.block3(x)))
        return self.fc(self.pool(x).flatten(1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut drops pixels and pads channels with zeros (option A)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.padding = stride, (out - channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out, H/stride, W/stride)."""
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


class ResNet20(nn.Module):
    """The ResNet-20 of He et al. (CVPR 2016, Sec. 4.2), D=64."""

    preprocessing: ClassVar = {"resize": 32, "crop": 32, **IMAGENET}

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        channels = 16
        for i, out in enumerate((16, 32, 64), start=1):
            blocks = [BasicBlock(channels, out, 1 if i == 1 else 2), BasicBlock(out, out, 1), BasicBlock(out, out, 1)]
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
            channels = out
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C) of images (N, 3, 32, 32)."""
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(self.pool(x).flatten(1))


def densenet100(num_classes: int = 10) -> DenseNet:
    """The network of the DICE and LINe papers' CIFAR tables."""
    return DenseNet(num_classes)


def resnet20(num_classes: int = 10) -> ResNet20:
    """The classic small CIFAR network."""
    return ResNet20(num_classes)
