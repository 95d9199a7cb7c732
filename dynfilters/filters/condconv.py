"""CondConv: a mixture of experts in weight space."""

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
from dynfilters.nn import DenseFilter, DepthwiseFilter, ExpertsBranch, Taps

ACTIVATION = "sigmoid"
PAPER = {
    "paper": "CondConv: Conditionally Parameterized Convolutions for Efficient Inference",
    "year": 2019,
    "url": "https://arxiv.org/abs/1904.04971",
    "channel_adaptive": True,
    "default_activation": ACTIVATION,
}


def _routed(s: Sizes, options: Options, weights: int) -> Products:
    """Routing, and the mixture of the experts' weights."""
    return [(s.b * s.c * options["experts"], 2), (s.b * options["experts"] * weights, 2)]


def _products(s: Sizes, options: Options) -> Products:
    weights = s.o * s.c // options["groups"] * s.k
    return [*_routed(s, options, weights), *conv_products(s, options)]


def _dw_products(s: Sizes, options: Options) -> Products:
    return [*_routed(s, options, s.c * s.k), *filter_products(s, options)]


def _dw_kept(s: Sizes, options: Options) -> tuple[Shapes, Shapes] | None:
    """The inputs of one layer behind the mean, and of the mixture of the experts."""
    if options["activation"] not in KEEP_THEIR_OUTPUT or not options["routing"]:
        return None
    generator = {"mean": (s.b, s.c), "routing": (s.b, options["experts"])}
    return generator, {"channel taps": (s.b, s.c, s.k)}


class _Routed:
    """The experts' weight and bias are mixed by one routing, which may come from outside."""

    def generate(self, x: Tensor, guide: Tensor | None = None) -> Taps:
        ((kind, seen),) = self.guides(x, guide).items()
        taps, bias = self.branches[kind](seen)
        return Taps(**{kind: taps}, bias=bias)

    def check_guide(self, x: Tensor, guide: Tensor) -> None:
        branch = next(iter(self.branches.values()))
        if branch.router is not None:
            return super().check_guide(x, guide)
        expected = x.shape[0], branch.weight.shape[0]
        if tuple(guide.shape) != expected:
            raise ValueError(
                f"guide: expected the routing weights (B, experts)={expected}, as the layer does "
                f"not route by itself, got {tuple(guide.shape)}"
            )
        self._check_like_parameters("guide", guide)


@register_filter("condconv", formulas=Formulas(_products), grouped=True, **PAPER)
class CondConv(_Routed, DenseFilter):
    """CondConv: a dense filter per sample, mixed from experts.

    w[b] = Σ_e r[b,e]·W[e], r = σ(R·mean(guide) + b), y[b] = w[b] ∗ x[b].
    Yang et al., "CondConv", NeurIPS 2019, eq. 1 and 2.

    Args:
        activation: σ, of the routing; None for sigmoid.
        experts: how many.
        groups: as in `torch.nn.Conv2d`.
        bias: of every expert, mixed like its weight.
        padding: None for dilation·(k//2), or "same" for TensorFlow's asymmetric padding.
        routing: False leaves R out; the guide must then be r, (B, experts).
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
        experts: int = 8,
        groups: int = 1,
        bias: bool = False,
        padding: str | None = None,
        routing: bool = True,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            dilation,
            groups=groups,
            padding=padding,
        )
        check_divides("groups", groups, "in_channels", in_channels)
        check_divides("groups", groups, "out_channels", self.out_channels)
        shape = (self.out_channels, in_channels // groups, *self.kernel_size)
        self.branches["weight"] = ExpertsBranch(
            in_channels,
            shape,
            activation=ACTIVATION if activation is None else activation,
            experts=check_positive("experts", experts),
            fan_in=in_channels // groups * self.taps,
            bias=check_flag("bias", bias),
            routing=check_flag("routing", routing),
        )


@register_filter("dw_condconv", formulas=Formulas(_dw_products, _dw_kept), **PAPER)
class DwCondConv(_Routed, DepthwiseFilter):
    """Depth-wise CondConv: a filter per sample and channel, mixed from experts.

    w[b,c] = Σ_e r[b,e]·W[e,c], r = σ(R·mean(guide) + b), y[b,c] = w[b,c] ∗ x[b,c].
    Yang et al., "CondConv", NeurIPS 2019, as in its MobileNet.

    Args: see `CondConv`.
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
        experts: int = 8,
        routing: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation)
        self.branches["channel"] = ExpertsBranch(
            in_channels,
            (in_channels, self.taps),
            activation=ACTIVATION if activation is None else activation,
            experts=check_positive("experts", experts),
            fan_in=self.taps,
            bias=False,
            routing=check_flag("routing", routing),
        )
