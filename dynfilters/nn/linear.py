"""Layers with weights: fully connected in groups, and convolutions right in bfloat16 too."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynfilters.ops.conv2d import has_onednn_bf16_grad_bug, in_float32


class GroupedLinear(nn.Module):
    """y[b,g] = W[g]·x[b,g] + bias[g]: what a grouped 1×1 convolution does to a single pixel.

    As a matrix product, because setting up a convolution costs far more than computing it there.
    Starts as `torch.nn.Conv2d` does.

    Shapes: (B, in_features) → (B, out_features); weight (groups, out/groups, in/groups).
    """

    def __init__(
        self, in_features: int, out_features: int, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(
            torch.empty(groups, out_features // groups, in_features // groups)
        )
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        bound = 1 / math.sqrt(in_features // groups)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        if self.groups == 1:
            return F.linear(x, self.weight[0], self.bias)
        y = torch.einsum("bgi,goi->bgo", x.unflatten(1, (self.groups, -1)), self.weight).flatten(1)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        groups, out, inner = self.weight.shape
        return f"{groups * inner}, {groups * out}, groups={groups}, bias={self.bias is not None}"


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`, in float32 where PyTorch would give wrong gradients in bfloat16."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve = super()._conv_forward
        if has_onednn_bf16_grad_bug(input, weight, self.stride[0], self.dilation[0], self.groups):
            return in_float32(convolve, input, weight, bias)
        return convolve(input, weight, bias)
