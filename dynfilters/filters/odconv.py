"""ODConv: attentions along every axis of the kernels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dynfilters.checks import check_divides, check_positive
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
from dynfilters.nn import AttentionsBranch, DenseFilter, DepthwiseFilter, Taps, fusion
from dynfilters.nn.branches import LEAST_HIDDEN

ACTIVATION = "sigmoid"
PAPER = {
    "paper": "Omni-Dimensional Dynamic Convolution",
    "year": 2022,
    "url": "https://arxiv.org/abs/2209.07947",
    "channel_adaptive": True,
    "default_activation": ACTIVATION,
}


def _hidden(s: Sizes, options: Options) -> int:
    return max(LEAST_HIDDEN, s.c // options["reduction"])


def _attended(s: Sizes, options: Options, outputs: int, weights: int) -> Products:
    """A hidden vector, the attentions, and the mixture of several experts' weights."""
    hidden, experts = _hidden(s, options), options["experts"]
    attentions = s.c + outputs + (s.k if s.k > 1 else 0)
    products = [(s.b * s.c * hidden, 2), (s.b * hidden * attentions, 2)]
    if experts > 1:
        products += [(s.b * hidden * experts, 2), (s.b * experts * weights, 2)]
    return products


def _products(s: Sizes, options: Options) -> Products:
    """Attentions to channels, taps and outputs, these unless each channel has its own kernel."""
    groups = options["groups"]
    outputs = 0 if groups == s.o == s.c else s.o
    weights = s.o * s.c // groups * s.k
    return [*_attended(s, options, outputs, weights), *conv_products(s, options)]


def _dw_products(s: Sizes, options: Options) -> Products:
    return [*_attended(s, options, 0, s.c * s.k), *filter_products(s, options)]


def _dw_kept(s: Sizes, options: Options) -> tuple[Shapes, Shapes] | None:
    """Two layers behind the mean, a normalization between them, and products of attentions."""
    if options["activation"] not in KEEP_THEIR_OUTPUT:
        return None
    hidden = _hidden(s, options)
    generator = {
        "mean": (s.b, s.c),
        "input of the normalization": (s.b, hidden),
        "statistics": (4 if s.b > 1 else 2, hidden),  # of one sample only the running ones
        "rectified": (s.b, hidden),
        "attentions": (s.b, s.c + (s.k if s.k > 1 else 0)),
    }
    if options["experts"] > 1:
        generator |= {"experts' shares": (s.b, options["experts"]), "mixed": (s.b, s.c, s.k)}
    if s.k > 1:
        generator |= {"product of attentions": (s.b, s.c, s.k)}
    return generator, {"channel taps": (s.b, s.c, s.k)}


class _Attended:
    """The temperature of the attentions; training may start at a high one, which evens them out
    between the experts, and lower it step by step, as published."""

    @property
    def temperature(self) -> float:
        """T > 0, by which logits are divided. `ValueError` when set to anything else."""
        return next(iter(self.branches.values())).temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        next(iter(self.branches.values())).temperature = _checked_temperature(value)


def _checked_temperature(value: float) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        raise ValueError(f"temperature: expected a finite number above 0, got {value!r}")
    return value


@register_filter("odconv", formulas=Formulas(_products), grouped=True, **PAPER)
class ODConv(_Attended, DenseFilter):
    """ODConv: a dense filter per sample, from attentions to each axis of its experts.

    w[b,o,i,k] = f[b,o]·c[b,i]·s[b,k] · Σ_e κ[b,e]·W[e,o,i,k], y[b] = w[b] ∗ x[b], with
    f, c, s = σ((W₁·h + b₁)/T), κ = softmax((W₂·h + b₂)/T), h = relu(BN(W₀·mean(guide))).
    Li et al., "Omni-Dimensional Dynamic Convolution", ICLR 2022, eq. 2 and section 3.2.

    There is no s if the kernel is 1×1, no f if groups, in_channels and out_channels are the same,
    and no κ for one expert. In training a batch of one sample is normalized by the running
    statistics of BN, which it does not change.

    Args:
        activation: σ, of f, c and s together; None for sigmoid.
        experts: the paper's kernel number, 4 in its ODConv (4×).
        groups: as in `torch.nn.Conv2d`.
        bias: a static one, added to the output.
        padding: None for dilation·(k//2), or "same" for TensorFlow's asymmetric padding.
        reduction: h has max(16, in_channels//reduction) entries.
        temperature: T, which can be set anew as `layer.temperature`.
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
        experts: int = 1,
        groups: int = 1,
        bias: bool = False,
        padding: str | None = None,
        reduction: int = 16,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            dilation,
            groups=groups,
            padding=padding,
            bias=bias,
        )
        check_divides("groups", groups, "in_channels", in_channels)
        check_divides("groups", groups, "out_channels", self.out_channels)
        outputs, inputs = self.out_channels // groups, in_channels // groups
        self.branches["weight"] = AttentionsBranch(
            in_channels,
            (groups, outputs, inputs, self.taps),
            (self.out_channels, inputs, *self.kernel_size),
            activation=ACTIVATION if activation is None else activation,
            experts=check_positive("experts", experts),
            reduction=check_positive("reduction", reduction),
            temperature=_checked_temperature(temperature),
        )

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """`generate`, then `apply_taps`; or the same with c on x and f on y, as published.

        The latter where these have fewer entries than the kernels that they would multiply.
        """
        halves = DenseFilter.generate, DenseFilter.apply_taps
        unseen = fusion.runs_unseen(self.branches["weight"], AttentionsBranch.forward)
        if unseen and fusion.is_not_overridden(self, *halves):
            seen = self.guides(x, guide)["weight"]
            if self._favours_features(x):
                return self._on_features(x, seen)
        return self.apply_taps(x, self.generate(x, guide))

    def _favours_features(self, x: Tensor) -> bool:
        """Returns whether x and y are smaller than two kernels; True in compiled code."""
        if torch.compiler.is_compiling():
            return True
        positions = x.shape[2] * x.shape[3]
        features = self.in_channels * positions + self.out_channels * positions // self.stride**2
        return features < 2 * math.prod(self.branches["weight"].shape)

    def _on_features(self, x: Tensor, guide: Tensor) -> Tensor:
        branch = self.branches["weight"]
        hidden = branch.hidden(guide)
        found = branch.attentions(hidden)
        y = self._convolve(x * _per_channel(found["channel"], x), hidden, found.get("spatial"))
        if "filter" in found:
            y = y * _per_channel(found["filter"], y)
        return y if self.bias is None else y + self.bias[:, None, None].to(y.dtype)

    def _convolve(self, x: Tensor, hidden: Tensor, spatial: Tensor | None) -> Tensor:
        """x by the mixed kernels with s; a batch shares one if there is neither s nor κ."""
        branch = self.branches["weight"]
        shape, mixed = branch.shape, branch.mixed(hidden)
        if spatial is None and "kernel" not in branch.heads:
            return F.conv2d(x, mixed.reshape(shape), None, self.stride, groups=self.groups)
        if spatial is not None:
            mixed = mixed.unflatten(1, (-1, self.taps)) * spatial.flatten(1).unsqueeze(1)
        return self.apply_taps(x, Taps(weight=mixed.reshape(x.shape[0], *shape)))


def _per_channel(attention: Tensor, x: Tensor) -> Tensor:
    """An attention to the channels of x, (B, C, 1, 1), in its dtype."""
    return attention.reshape(x.shape[0], x.shape[1], 1, 1).to(x.dtype)


@register_filter("dw_odconv", formulas=Formulas(_dw_products, _dw_kept), **PAPER)
class DwODConv(_Attended, DepthwiseFilter):
    """Depth-wise ODConv: a filter per sample and channel, from attentions to its experts.

    w[b,c,k] = c[b,c]·s[b,k] · Σ_e κ[b,e]·W[e,c,k], y[b,c] = w[b,c] ∗ x[b,c], with c, s and κ as
    in `ODConv`. Li et al., "Omni-Dimensional Dynamic Convolution", ICLR 2022, as in its MobileNet.

    Args: see `ODConv`.
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
        experts: int = 1,
        reduction: int = 16,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation)
        self.branches["channel"] = AttentionsBranch(
            in_channels,
            (in_channels, 1, 1, self.taps),
            (in_channels, self.taps),
            activation=ACTIVATION if activation is None else activation,
            experts=check_positive("experts", experts),
            reduction=check_positive("reduction", reduction),
            temperature=_checked_temperature(temperature),
        )
