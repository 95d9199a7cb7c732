"""Networks as other libraries build them, written for the tests."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
    """As torchvision's: 1×1, 3×3 with the stride, 1×1, and a shortcut."""

    def __init__(self, channels: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        out = width * 4
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """As torchvision's: a 7×7 stem, two stages of which the second has stride 2 and dilation 2."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Bottleneck(width, width), Bottleneck(width * 4, width))
        self.layer2 = nn.Sequential(
            Bottleneck(width * 4, width * 2, stride=2), Bottleneck(width * 8, width * 2, dilation=2)
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.avgpool(self.layer2(self.layer1(x))).flatten(1))


class ConvLayer(nn.Module):
    """As the convolution layers of Hugging Face's transformers: it, its norm, its activation."""

    def __init__(self, in_channels: int, out_channels: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False)
        self.normalization = nn.BatchNorm2d(out_channels)
        self.activation = nn.ReLU()

    def forward(self, hidden_state: Tensor) -> Tensor:
        return self.activation(self.normalization(self.convolution(hidden_state)))


class ForImageClassification(nn.Module):
    """As Hugging Face's: a configuration, an embedder, an encoder, named outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_channels=3, hidden_size=16, num_labels=4)
        hidden = self.config.hidden_size
        self.embedder = ConvLayer(self.config.num_channels, hidden, 7, 2)
        stages = [nn.ModuleDict({"layer": ConvLayer(hidden, hidden, 3, s)}) for s in (1, 2)]
        self.encoder = nn.ModuleDict({"stages": nn.ModuleList(stages)})
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(hidden, self.config.num_labels))

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        hidden_state = self.embedder(pixel_values)
        for stage in self.encoder["stages"]:
            hidden_state = stage["layer"](hidden_state)
        pooled = hidden_state.mean((2, 3), keepdim=True)
        return SimpleNamespace(logits=self.classifier(pooled))


class Conv2dSame(nn.Conv2d):
    """As timm's: padding set to 0, and TensorFlow's computed from the size at every call."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for axis in (1, 0):
            n, k, s = x.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            whole = max((math.ceil(n / s) - 1) * s + (k - 1) * self.dilation[axis] + 1 - n, 0)
            pads += [whole // 2, whole - whole // 2]
        return F.conv2d(
            F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


class ScaledStdConv2d(nn.Conv2d):
    """As timm's: a convolution whose weights are standardized at every call."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-6) * self.gain
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class NormedConv2d(nn.Conv2d):
    """As detectron2's: a convolution that holds its own normalization."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.norm = nn.BatchNorm2d(self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))
