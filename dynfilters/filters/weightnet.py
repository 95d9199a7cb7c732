"""WeightNet: the weights of a convolution, dense or depth-wise, from the input's descriptor."""

from __future__ import annotations

from torch import Tensor

from dynfilters.checks import check_divides, check_flag, check_positive
from dynfilters.cost import (
    KEEP_THEIR_OUTPUT,
    Formulas,
    Options,
    Products,
    Shapes,
    Sizes,
    conv_products,
    filter_products,
)
from dynfilters.filters.registry import register_filter
from dynfilters.nn import DenseFilter, DepthwiseFilter, GroupedFCBranch

ACTIVATION = "sigmoid"
PAPER = {
    "paper": "WeightNet: Revisiting the Design Space of Weight Networks",
    "year": 2020,
    "url": "https://arxiv.org/abs/2007.11823",
    "channel_adaptive": True,
    "default_activation": ACTIVATION,
}


def _gap_channels(given: int | None, in_channels: int) -> int:
    return max(16, in_channels // 16) if given is None else check_positive("gap_channels", given)


def _layers(s: Sizes, options: Options, hidden: int, weights: int) -> Products:
    """Three layers, the last one in groups: m/g hidden units make a weight."""
    gap, units = _gap_channels(options["gap_channels"], s.c), options["m"] // options["g"]
    last = s.b * weights * units if units > 1 else 0  # else no sum, but a scaling
    return [(s.b * s.c * gap, 2), (s.b * gap * hidden, 2), (last, 2)]


def _products(s: Sizes, options: Options) -> Products:
    layers = _layers(s, options, options["m"] * s.o, s.o * s.c * s.k)
    return [*layers, *conv_products(s, options)]


def _dw_products(s: Sizes, options: Options) -> Products:
    hidden = options["m"] // options["g"] * s.c
    return [*_layers(s, options, hidden, s.c * s.k), *filter_products(s, options)]


def _dw_kept(s: Sizes, options: Options) -> tuple[Shapes, Shapes] | None:
    """The inputs of three layers behind the mean."""
    if options["activation"] not in KEEP_THEIR_OUTPUT or not options["reduce"]:
        return None
    gap, hidden = _gap_channels(options["gap_channels"], s.c), options["m"] // options["g"] * s.c
    generator = {"mean": (s.b, s.c), "descriptor": (s.b, gap), "hidden units": (s.b, hidden)}
    return generator, {"channel taps": (s.b, s.c, s.k)}


class _Described:
    """Without `reduce`, the guide is the descriptor that a residual block shares."""

    def check_guide(self, x: Tensor, guide: Tensor) -> None:
        branch = next(iter(self.branches.values()))
        if branch.reduce is not None:
            return super().check_guide(x, guide)
        expected = x.shape[0], branch.gap_channels
        if guide.dim() != 4 or tuple(guide.shape[:2]) != expected:
            raise ValueError(
                "guide: expected the block's descriptor (B, gap_channels, H, W)="
                f"({expected[0]}, {expected[1]}, H, W), as the layer has no reduce of its own, "
                f"got {tuple(guide.shape)}"
            )
        self._check_like_parameters("guide", guide)


@register_filter("weightnet", formulas=Formulas(_products), **PAPER)
class WeightNet(_Described, DenseFilter):
    """WeightNet: a dense filter per sample, from a grouped fully connected layer.

    w[b] = W₂·σ(W₁·(W₀·mean(guide) + b₀) + b₁), y[b] = w[b] ∗ x[b]; W₂ has g·C_out groups, which
    read m·C_out hidden units. Ma et al., "WeightNet", ECCV 2020, eq. 3 and section 3.3.

    Args:
        activation: σ, of the hidden units; None for sigmoid.
        m, g: hidden units and groups per output channel; g divides m and C_in·kh·kw.
        gap_channels: of the descriptor W₀·mean(guide) + b₀; None for max(16, C_in//16).
        reduce: False leaves W₀ out; the guide must then be the descriptor.
        bias: a static one, added to the output.
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
        m: int = 2,
        g: int = 2,
        gap_channels: int | None = None,
        reduce: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, bias=bias)
        check_positive("m", m)
        check_divides("g", g, "m", m)
        check_divides("g", g, "in_channels·kh·kw", in_channels * self.taps)
        self.branches["weight"] = GroupedFCBranch(
            in_channels,
            (self.out_channels, in_channels, *self.kernel_size),
            activation=ACTIVATION if activation is None else activation,
            gap_channels=_gap_channels(gap_channels, in_channels),
            hidden=m * self.out_channels,
            groups=g * self.out_channels,
            reduce=check_flag("reduce", reduce),
        )


@register_filter("dw_weightnet", formulas=Formulas(_dw_products, _dw_kept), **PAPER)
class DwWeightNet(_Described, DepthwiseFilter):
    """Depth-wise WeightNet: a filter per sample and channel.

    w[b,c] = W₂·σ(W₁·(W₀·mean(guide) + b₀) + b₁), y[b,c] = w[b,c] ∗ x[b,c]; W₂ has C_in groups,
    which read m//g hidden units each. Ma et al., "WeightNet", ECCV 2020, section 3.3.

    Args:
        m, g: m//g hidden units per channel; g divides m.
        others: see `WeightNet`.
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
        m: int = 2,
        g: int = 2,
        gap_channels: int | None = None,
        reduce: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation)
        check_positive("m", m)
        check_divides("g", g, "m", m)
        self.branches["channel"] = GroupedFCBranch(
            in_channels,
            (in_channels, self.taps),
            activation=ACTIVATION if activation is None else activation,
            gap_channels=_gap_channels(gap_channels, in_channels),
            hidden=m // g * in_channels,
            groups=in_channels,
            reduce=check_flag("reduce", reduce),
        )
