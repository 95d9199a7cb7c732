"""Static convolutions: the baselines, whose filters do not depend on the input."""

from __future__ import annotations

from torch import Tensor, nn

from dynfilters.checks import check_divides, check_flag
from dynfilters.cost import Formulas, Options, Shapes, Sizes, conv_products, filter_products
from dynfilters.filters.registry import register_filter
from dynfilters.nn import DenseFilter, DepthwiseFilter, Taps, check_activations
from dynfilters.nn.linear import Conv2d


def _kept(s: Sizes, options: Options) -> tuple[Shapes, Shapes]:
    """Nothing beside x: weights are parameters."""
    return {}, {}


def _float32_copies(s: Sizes, options: Options, dtype: str) -> int:
    """Copies of x and the weights in float32, in which it runs if it is dilated and bfloat16."""
    if dtype != "bfloat16" or (options.get("dilation") or 1) == 1:
        return 0
    return (4 - 2) * s.b * s.c * s.n + 4 * s.c * s.k


class _Static:
    """A `torch.nn.Conv2d` as a filter, which `forward` calls directly.

    Its filters as taps are the same for every sample and whatever the guide.
    """

    conv: nn.Conv2d

    def _convolution(self, groups: int, bias: bool, out_channels: int) -> nn.Conv2d:
        padding = tuple(self.dilation * (k // 2) for k in self.kernel_size)
        return Conv2d(
            self.in_channels,
            out_channels,
            self.kernel_size,
            self.stride,
            padding,
            self.dilation,
            groups,
            check_flag("bias", bias),
        )

    def _per_sample(self, x: Tensor, parameter: Tensor | None) -> Tensor | None:
        return None if parameter is None else parameter.expand(x.shape[0], *parameter.shape)


@register_filter(
    "conv",
    formulas=Formulas(conv_products, _kept),
    grouped=True,
    summary="Static dense convolution, the baseline.",
)
class Conv(_Static, DenseFilter):
    """y[b,o] = Σ_c w[o,c] ∗ x[b,c] (+ bias): `torch.nn.Conv2d` with padding dilation·(k//2).

    Args:
        activation: accepted for a uniform interface; nothing is generated that it could act on.
        groups, bias: as in `torch.nn.Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int | tuple[int, int] = 3,
        stride: int = 1,
        dilation: int = 1,
        activation: str | None = None,
        *,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups=groups)
        check_activations(activation)
        check_divides("groups", groups, "in_channels", in_channels)
        check_divides("groups", groups, "out_channels", self.out_channels)
        self.conv = self._convolution(groups, bias, self.out_channels)

    def generate(self, x: Tensor, guide: Tensor | None = None) -> Taps:
        self.check_x(x)
        return Taps(
            weight=self._per_sample(x, self.conv.weight), bias=self._per_sample(x, self.conv.bias)
        )

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        self.check_x(x)
        return self.conv(x)


@register_filter(
    "dwconv",
    formulas=Formulas(filter_products, _kept, _float32_copies),
    summary="Static depth-wise convolution, the baseline of its family.",
)
class DwConv(_Static, DepthwiseFilter):
    """y[b,c] = w[c] ∗ x[b,c] (+ bias), then the 1×1 convolution if out_channels differs.

    Args:
        activation: accepted for a uniform interface; nothing is generated that it could act on.
        bias: of the output, as in `torch.nn.Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int | tuple[int, int] = 3,
        stride: int = 1,
        dilation: int = 1,
        activation: str | None = None,
        *,
        bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation)
        check_activations(activation)
        self.conv = self._convolution(in_channels, False, in_channels)
        self.bias = (
            nn.Parameter(self.conv.weight.new_zeros(self.out_channels))
            if check_flag("bias", bias)
            else None
        )

    def generate(self, x: Tensor, guide: Tensor | None = None) -> Taps:
        self.check_x(x)
        return Taps(
            channel=self._per_sample(x, self.conv.weight.flatten(1)),
            bias=self._per_sample(x, self.bias),
        )

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        self.check_x(x)
        y = self.project(self.conv(x))
        return y if self.bias is None else y + self.bias[:, None, None].to(y.dtype)
