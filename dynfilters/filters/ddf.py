"""Decoupled dynamic filters, and what is left of them with one branch removed."""

from __future__ import annotations

from torch import Tensor

from dynfilters.checks import check_divides, check_odd
from dynfilters.cost import Formulas, Options, Products, Shapes, Sizes, filter_products
from dynfilters.filters.registry import register_filter
from dynfilters.nn import (
    DepthwiseFilter,
    PointwiseBranch,
    SqueezeExciteBranch,
    check_activations,
    nonlinearity_gain,
)

ACTIVATION = "filter_norm"
PAPER = {
    "paper": "Decoupled Dynamic Filter Networks",
    "year": 2021,
    "url": "https://arxiv.org/abs/2104.14107",
    "default_activation": ACTIVATION,
}


def _squeezed(s: Sizes, options: Options) -> tuple[int, int]:
    """Channels of the squeeze, and places of a sub-pixel cell, of which each has its own."""
    cells = options.get("scale", 1) ** 2
    return max(1, int(s.c * options["squeeze_ratio"])) * cells, cells


def _spatial_products(s: Sizes, options: Options) -> Products:
    """A 1×1 convolution, and the filter."""
    return [(s.b * s.c * options["groups"] * s.k * s.m, 2), *filter_products(s, options)]


def _channel_products(s: Sizes, options: Options) -> Products:
    """Squeeze and expansion, and the filter."""
    squeezed, _ = _squeezed(s, options)
    layers = [(s.b * s.c * squeezed, 2), (s.b * squeezed * s.c * s.k, 2)]
    return [*layers, *filter_products(s, options)]


def _products(s: Sizes, options: Options) -> Products:
    """The generators of both kinds of taps, and one filter of x and both."""
    generators = _spatial_products(s, options)[:-1] + _channel_products(s, options)[:-1]
    return [*generators, (s.b * s.c * s.m * s.k, 3)]


def _up_products(s: Sizes, options: Options) -> Products:
    """An encoder, a depth-wise convolution for each place of a cell, comes first."""
    encoder = s.b * s.c * options["scale"] ** 2 * s.n * options["encoder_kernel_size"] ** 2
    return [(encoder, 2), *_products(s, options)]


def _spatial_kept(s: Sizes, options: Options) -> tuple[Shapes, Shapes]:
    return {}, {"spatial taps": (s.b, options["groups"], s.k, *s.out)}


def _channel_kept(s: Sizes, options: Options) -> tuple[Shapes, Shapes]:
    squeezed, cells = _squeezed(s, options)
    generator = {"mean": (s.b, s.c), "squeeze": (s.b, squeezed)}
    return generator, {"channel taps": (s.b, s.c, s.k, cells)}


def _kept(s: Sizes, options: Options) -> tuple[Shapes, Shapes]:
    (_, spatial), (generator, channel) = _spatial_kept(s, options), _channel_kept(s, options)
    return generator, spatial | channel


def _up_kept(s: Sizes, options: Options) -> tuple[Shapes, Shapes] | None:
    """The encoder's output is what the 1×1 convolutions read; a guide's sizes are not known."""
    if options["guide_channels"] is not None:
        return None
    generator, taps = _kept(s, options)
    return {"encoded": (s.b, s.c * options["scale"] ** 2, s.h, s.w), **generator}, taps


@register_filter(
    "ddf",
    formulas=Formulas(_products, _kept),
    spatial_adaptive=True,
    channel_adaptive=True,
    **PAPER,
)
class DDF(DepthwiseFilter):
    """Decoupled dynamic filter: spatial taps times (or plus) channel taps.

    y[b,c,p] = Σ_k (s[b,g(c),k,p] ∘ c[b,c,k]) · x[b, c, stride·p + dilation·(k − centre)], with s
    from a 1×1 convolution and c from a squeeze-and-excitation of the guide, both filter-
    normalized. Zhou et al., "Decoupled Dynamic Filter Networks", CVPR 2021, eq. 2 and 3.

    Args:
        activation: of both branches; None for filter normalization.
        spatial_activation, channel_activation: override it one by one.
        combine: ∘, "mul" or "add".
        groups: the paper's heads: the channels of a group share spatial taps.
        squeeze_ratio: the squeeze has max(1, ⌊in_channels·squeeze_ratio⌋) channels.
        nonlinearity: "relu" or "linear", the gain √2 or 1 of filter normalization.
    """

    kinds = ("spatial", "channel")

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int | tuple[int, int] = 3,
        stride: int = 1,
        dilation: int = 1,
        activation: str | None = None,
        *,
        combine: str = "mul",
        groups: int = 1,
        squeeze_ratio: float = 0.2,
        spatial_activation: str | None = None,
        channel_activation: str | None = None,
        nonlinearity: str = "relu",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, combine=combine)
        _check_options(in_channels, groups, squeeze_ratio)
        check_activations(activation, spatial_activation, channel_activation)
        activation = ACTIVATION if activation is None else activation
        gain = nonlinearity_gain(nonlinearity)
        if "spatial" in self.kinds:
            self.branches["spatial"] = PointwiseBranch(
                in_channels,
                groups,
                self.taps,
                stride=stride,
                activation=activation if spatial_activation is None else spatial_activation,
                gain=gain,
            )
        if "channel" in self.kinds:
            self.branches["channel"] = SqueezeExciteBranch(
                in_channels,
                self.taps,
                squeeze_ratio=squeeze_ratio,
                activation=activation if channel_activation is None else channel_activation,
                gain=gain,
            )


@register_filter(
    "ddf_spatial",
    formulas=Formulas(_spatial_products, _spatial_kept),
    without_effect=("combine", "squeeze_ratio", "channel_activation"),
    spatial_adaptive=True,
    **PAPER,
)
class DDFSpatial(DDF):
    """DDF with its spatial branch alone: taps shared by the channels of a group.

    Same arguments as `DDF`; those of the channel branch, and `combine`, have no effect.
    """

    kinds = ("spatial",)


@register_filter(
    "ddf_channel",
    formulas=Formulas(_channel_products, _channel_kept),
    without_effect=("combine", "groups", "spatial_activation"),
    channel_adaptive=True,
    **PAPER,
)
class DDFChannel(DDF):
    """DDF with its channel branch alone: taps shared by all positions.

    Same arguments as `DDF`; those of the spatial branch, and `combine`, have no effect.
    """

    kinds = ("channel",)


@register_filter(
    "ddf_up",
    formulas=Formulas(_up_products, _up_kept),
    spatial_adaptive=True,
    channel_adaptive=True,
    upsamples=True,
    **PAPER,
)
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
        _check_options(in_channels, groups, squeeze_ratio)
        check_activations(activation, spatial_activation, channel_activation)
        check_odd("encoder_kernel_size", encoder_kernel_size)
        activation = ACTIVATION if activation is None else activation
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
        """The guide generates spatial taps, x channel taps, as published."""
        return {**super().guides(x, guide), "channel": x}


def _check_options(in_channels: int, groups: int, squeeze_ratio: float) -> None:
    """`ValueError` unless groups divide the channels and the ratio is in (0, 1]."""
    check_divides("groups", groups, "in_channels", in_channels)
    if not isinstance(squeeze_ratio, (int, float)) or not 0 < squeeze_ratio <= 1:
        raise ValueError(f"squeeze_ratio: expected above 0, at most 1, got {squeeze_ratio!r}")
