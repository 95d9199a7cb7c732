"""A weighted mean of each neighbourhood: an example of a new filter."""

from __future__ import annotations

from dynfilters.filters.registry import register_filter
from dynfilters.nn import BottleneckBranch, DepthwiseFilter, check_activations


@register_filter("mean", spatial_adaptive=True, default_activation="softmax")
class Mean(DepthwiseFilter):
    """Weighted mean of each neighbourhood, by weights from a bottleneck.

    y[b,c,p] = Σ_k s[b,k,p] · x[b,c,p+k], where Σ_k s[b,k,p] = 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int | tuple[int, int] = 3,
        stride: int = 1,
        dilation: int = 1,
        activation: str | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation)
        check_activations(activation)
        activation = "softmax" if activation is None else activation
        options = {"activation": activation, "stride": stride, "reduction": 4}
        self.branches["spatial"] = BottleneckBranch(in_channels, 1, self.taps, **options)
