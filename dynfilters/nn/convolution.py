"""Convolutions whose gradients are right in bfloat16 too."""

from __future__ import annotations

from torch import Tensor, nn

from dynfilters.ops.conv2d import in_float32, is_garbled


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`, in float32 where PyTorch would give wrong gradients in bfloat16."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve = super()._conv_forward
        if is_garbled(input, weight, self.stride[0], self.dilation[0], self.groups):
            return in_float32(convolve, input, weight, bias)
        return convolve(input, weight, bias)
