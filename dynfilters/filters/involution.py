"""Involution: taps for every position and group of channels."""

from __future__ import annotations

from dynfilters.checks import check_divides, check_positive
from dynfilters.cost import Formulas, Options, Products, Shapes, Sizes, filter_products
from dynfilters.filters.registry import register_filter
from dynfilters.nn import BottleneckBranch, DepthwiseFilter

ACTIVATION = "identity"


def _products(s: Sizes, options: Options) -> Products:
    """A bottleneck of two 1×1 convolutions, and the filter."""
    hidden, groups = max(1, s.c // options["reduction"]), s.c // options["group_channels"]
    bottleneck = [(s.b * s.c * hidden * s.m, 2), (s.b * hidden * groups * s.k * s.m, 2)]
    return [*bottleneck, *filter_products(s, options)]


def _kept(s: Sizes, options: Options) -> tuple[Shapes, Shapes]:
    """The bottleneck's, behind pooling if there is a stride."""
    hidden = max(1, s.c // options["reduction"])
    pooled = {"pooled": (s.b, s.c, *s.out)} if options["stride"] > 1 else {}
    generator = {
        **pooled,
        "input of the normalization": (s.b, hidden, *s.out),
        "statistics": (4, hidden),
        "rectified": (s.b, hidden, *s.out),
    }
    return generator, {"spatial taps": (s.b, s.c // options["group_channels"], s.k, *s.out)}


@register_filter(
    "involution",
    formulas=Formulas(_products, _kept),
    paper="Involution: Inverting the Inherence of Convolution for Visual Recognition",
    year=2021,
    url="https://arxiv.org/abs/2103.06255",
    spatial_adaptive=True,
    default_activation=ACTIVATION,
)
class Involution(DepthwiseFilter):
    """Involution: a filter for every position and group of channels, from a bottleneck.

    y[b,c,p] = Σ_k s[b,g(c),k,p] · x[b, c, stride·p + dilation·(k − centre)], with s from two 1×1
    convolutions of the guide, average-pooled by the stride, with batch normalization and ReLU
    between them. Li et al., "Involution", CVPR 2021, eq. 4 to 6.

    Args:
        activation: of the taps; None for identity.
        group_channels: channels that share taps; divides in_channels.
        reduction: the bottleneck has max(1, in_channels//reduction) channels.
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
        group_channels: int = 16,
        reduction: int = 4,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation)
        check_divides("group_channels", group_channels, "in_channels", in_channels)
        check_positive("reduction", reduction)
        self.branches["spatial"] = BottleneckBranch(
            in_channels,
            in_channels // group_channels,
            self.taps,
            activation=ACTIVATION if activation is None else activation,
            stride=stride,
            reduction=reduction,
        )
