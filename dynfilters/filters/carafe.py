"""CARAFE: content-aware reassembly of features, as an upsampler and as a drop-in filter."""

from __future__ import annotations

from dynfilters.checks import check_divides, check_odd, check_positive
from dynfilters.cost import Formulas, Options, Products, Shapes, Sizes, filter_products
from dynfilters.filters.registry import register_filter
from dynfilters.nn import DepthwiseFilter, EncoderBranch

ACTIVATION = "softmax"
PAPER = {
    "paper": "CARAFE: Content-Aware ReAssembly of FEatures",
    "year": 2019,
    "url": "https://arxiv.org/abs/1905.02188",
    "spatial_adaptive": True,
    "default_activation": ACTIVATION,
}


def _products(s: Sizes, options: Options) -> Products:
    """A compressor on x's grid, an encoder with outputs on y's, one for each tap, the filter."""
    compressed = options["compressed_channels"]
    encoder = compressed * options["groups"] * s.k * options["encoder_kernel_size"] ** 2
    generator = [(s.b * s.c * compressed * s.n, 2), (s.b * encoder * s.m, 2)]
    return [*generator, *filter_products(s, options)]


def _kept(s: Sizes, options: Options) -> tuple[Shapes, Shapes]:
    """Compressed channels, which the encoder reads."""
    generator = {"compressed": (s.b, options["compressed_channels"], s.h, s.w)}
    return generator, {"spatial taps": (s.b, options["groups"], s.k, *s.out)}


class _Reassembly(DepthwiseFilter):
    """The kernel prediction module of both, and the check of its options."""

    def _predict(
        self,
        activation: str | None,
        groups: int,
        compressed_channels: int,
        encoder_kernel_size: int,
        encoder_dilation: int,
    ) -> None:
        check_divides("groups", groups, "in_channels", self.in_channels)
        self.branches["spatial"] = EncoderBranch(
            self.in_channels,
            groups,
            self.taps,
            activation=ACTIVATION if activation is None else activation,
            compressed_channels=check_positive("compressed_channels", compressed_channels),
            encoder_kernel_size=check_odd("encoder_kernel_size", encoder_kernel_size),
            encoder_dilation=check_positive("encoder_dilation", encoder_dilation),
            stride=self.stride,
            scale=self.scale,
        )


@register_filter("carafe", formulas=Formulas(_products, _kept), **PAPER)
class Carafe(_Reassembly):
    """CARAFE at scale 1: every position reassembles its neighbourhood by predicted weights.

    y[b,c,p] = Σ_k s[b,g(c),k,p] · x[b, c, stride·p + dilation·(k − centre)], with s the softmax
    over k of an encoding of compressed channels; a stride is the encoder's stride too.
    Wang et al., "CARAFE", ICCV 2019, eq. 1 and 2.

    Args:
        activation: of the taps; None for softmax.
        groups: the channels of a group share taps.
        compressed_channels: channels behind the compressor, a 1×1 convolution.
        encoder_kernel_size, encoder_dilation: of the encoder, a convolution; size odd.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int | tuple[int, int] = 5,
        stride: int = 1,
        dilation: int = 1,
        activation: str | None = None,
        *,
        groups: int = 1,
        compressed_channels: int = 64,
        encoder_kernel_size: int = 3,
        encoder_dilation: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation)
        self._predict(
            activation, groups, compressed_channels, encoder_kernel_size, encoder_dilation
        )


@register_filter("carafe_up", formulas=Formulas(_products, _kept), upsamples=True, **PAPER)
class CarafeUp(_Reassembly):
    """CARAFE upsampling: every place of a scale×scale cell reassembles by weights of its own.

    y[b,c,p] = Σ_k s[b,g(c),k,p] · x[b, c, p//scale + dilation·(k − centre)], with s the softmax
    over k of an encoding of compressed channels. Wang et al., "CARAFE", ICCV 2019, eq. 1 and 2.

    Args:
        stride: 1; there for a uniform interface.
        scale: how much finer the output's grid is.
        others: see `Carafe`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int | tuple[int, int] = 5,
        stride: int = 1,
        dilation: int = 1,
        activation: str | None = None,
        *,
        scale: int = 2,
        groups: int = 1,
        compressed_channels: int = 64,
        encoder_kernel_size: int = 3,
        encoder_dilation: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, scale=scale)
        self._predict(
            activation, groups, compressed_channels, encoder_kernel_size, encoder_dilation
        )
