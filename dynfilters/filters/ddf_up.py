"""DDF as an upsampler, guided by another modality or not."""

from __future__ import annotations

from torch import Tensor

from dynfilters.checks import check_odd
from dynfilters.filters.ddf import PAPER, check_options
from dynfilters.filters.zoo import register_filter
from dynfilters.nn import (
    DepthwiseFilter,
    PointwiseBranch,
    SqueezeExciteBranch,
    check_activations,
    nonlinearity_gain,
)


@register_filter("ddf_up", spatial_adaptive=True, channel_adaptive=True, upsamples=True, **PAPER)
class DDFUp(DepthwiseFilter):
    """DDF upsampling: a decoupled dynamic filter for every place of a scale×scale cell.

    y[b,c,p] = Σ_k (s[b,g(c),k,p] ∘ c[b,c,k,q(p)]) · x[b, c, p//scale + dilation·(k − centre)].
    Zhou et al., "Decoupled Dynamic Filter Networks", CVPR 2021, section 3.4. Without guide
    channels each place has a depth-wise convolution (the encoder) before its 1×1 convolution.

    Args:
        stride: 1; there for a uniform interface.
        scale: how much finer the output's grid is.
        encoder_kernel_size: odd, of the encoder.
        guide_channels: channels of the guide, which has the grid of x, and generates the spatial
            taps; there is then no encoder. The channel taps always come from x.
        others: see `DDF`.
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
        scale: int = 2,
        combine: str = "mul",
        groups: int = 1,
        squeeze_ratio: float = 0.2,
        encoder_kernel_size: int = 3,
        guide_channels: int | None = None,
        spatial_activation: str | None = None,
        channel_activation: str | None = None,
        nonlinearity: str = "linear",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            dilation,
            scale=scale,
            guide_channels=guide_channels,
            combine=combine,
        )
        check_options(in_channels, groups, squeeze_ratio)
        check_activations(activation, spatial_activation, channel_activation)
        check_odd("encoder_kernel_size", encoder_kernel_size)
        activation = "filter_norm" if activation is None else activation
        gain = nonlinearity_gain(nonlinearity)
        self.branches["spatial"] = PointwiseBranch(
            self.guide_channels,
            groups,
            self.taps,
            stride=stride,
            scale=scale,
            encoder_size=None if guide_channels else encoder_kernel_size,
            activation=activation if spatial_activation is None else spatial_activation,
            gain=gain,
        )
        self.branches["channel"] = SqueezeExciteBranch(
            in_channels,
            self.taps,
            squeeze_ratio=squeeze_ratio,
            scale=scale,
            activation=activation if channel_activation is None else channel_activation,
            gain=gain,
        )

    def guides(self, x: Tensor, guide: Tensor | None = None) -> dict[str, Tensor]:
        """As published, the guide says where (spatial taps), x says what (channel taps)."""
        return {**super().guides(x, guide), "channel": x}
