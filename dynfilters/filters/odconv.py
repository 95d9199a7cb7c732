"""ODConv: attentions along every axis of the kernels."""

from __future__ import annotations

from dynfilters.checks import check_divides, check_positive
from dynfilters.filters.zoo import register_filter
from dynfilters.nn import AttentionsBranch, DenseFilter, DepthwiseFilter

PAPER = {
    "paper": "Omni-Dimensional Dynamic Convolution",
    "year": 2022,
    "url": "https://arxiv.org/abs/2209.07947",
    "channel_adaptive": True,
    "default_activation": "sigmoid",
}


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


@register_filter("odconv", grouped=True, **PAPER)
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
            activation="sigmoid" if activation is None else activation,
            experts=check_positive("experts", experts),
            reduction=check_positive("reduction", reduction),
            temperature=_checked_temperature(temperature),
        )


@register_filter("dw_odconv", **PAPER)
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
            activation="sigmoid" if activation is None else activation,
            experts=check_positive("experts", experts),
            reduction=check_positive("reduction", reduction),
            temperature=_checked_temperature(temperature),
        )
