"""Branches: modules that generate taps from a feature map, activation included.

| branch | guide → | adapts to | of |
| --- | --- | --- | --- |
| `PointwiseBranch` | spatial taps | position | DDF |
| `SqueezeExciteBranch` | channel taps | channel | DDF |
| `BottleneckBranch` | spatial taps | position | Involution |
| `EncoderBranch` | spatial taps | position | CARAFE |
| `GroupedFCBranch` | channel taps or dense weight | channel | WeightNet |
| `ExpertsBranch` | channel taps or dense weight | channel | CondConv |
| `AttentionsBranch` | channel taps or dense weight | channel | ODConv |

Each has `activation`, called once a forward. Where it acts on the taps themselves, the branch is
a `TapsBranch`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dynfilters.nn.activations import create_activation
from dynfilters.nn.linear import Conv2d, GroupedLinear
from dynfilters.ops.conv2d import inductor_contiguous

LEAST_HIDDEN = 16  # the published lower bound of the squeezed descriptor


class TapsBranch(nn.Module):
    """A branch whose activation acts on the taps: taps = activation(raw(guide)).

    That may thus be left to the op that applies them. Subclasses make `activation` and `raw`.
    """

    activation: nn.Module

    def raw(self, guide: Tensor) -> Tensor:
        """The taps before their activation, in the layout that the op takes."""
        raise NotImplementedError(f"{type(self).__name__} generates no taps")

    def forward(self, guide: Tensor) -> Tensor:
        return self.activation(self.raw(guide))


class PointwiseBranch(TapsBranch):
    """DDF's spatial branch: s = activation(W·guide + b), a 1×1 convolution.

    With `encoder_size`, the s² places of a sub-pixel cell each have a depth-wise convolution of
    that size and a 1×1 convolution of their own (DDF-Up). Without, one 1×1 convolution gives all.

    Shapes: guide (B, C, H, W) → (B, groups, taps, H_out·scale, W_out·scale).
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        taps: int,
        *,
        activation: str,
        gain: float,
        stride: int = 1,
        scale: int = 1,
        encoder_size: int | None = None,
    ) -> None:
        super().__init__()
        self.groups, self.scale = groups, scale
        cells = scale**2
        own = cells if encoder_size else 1
        self.encoder = None
        if encoder_size:
            padding = encoder_size // 2
            self.encoder = nn.Conv2d(
                channels, channels * cells, encoder_size, padding=padding, groups=channels
            )
        self.conv = Conv2d(channels * own, cells * groups * taps, 1, stride, groups=own)
        self.activation = create_activation(activation, filters=groups, taps=taps, gain=gain)

    def raw(self, guide: Tensor) -> Tensor:
        if self.encoder is not None:
            guide = rearrange(self.encoder(guide), "b (c p) h w -> b (p c) h w", p=self.scale**2)
            guide = inductor_contiguous(guide)
        return self.arrange(self.conv(guide))

    def arrange(self, logits: Tensor) -> Tensor:
        """Returns logits (B, scale²·groups·taps, H_out, W_out) in the layout of taps."""
        s = self.scale
        if s == 1:  # a view, for less than rearrange takes to find that out
            batch, outputs, height, width = logits.shape
            return logits.view(batch, self.groups, outputs // self.groups, height, width)
        return rearrange(logits, "b (u v g k) h w -> b g k (h u) (w v)", u=s, v=s, g=self.groups)


class SqueezeExciteBranch(TapsBranch):
    """DDF's channel branch: c = activation(W₂·relu(W₁·mean(guide) + b₁) + b₂).

    With scale > 1, every place of a sub-pixel cell has W₁ and W₂ of its own.

    Shapes: guide (B, channels, H, W) → (B, channels, taps), or (B, channels, taps, scale²).
    """

    def __init__(
        self,
        channels: int,
        taps: int,
        *,
        activation: str,
        gain: float,
        squeeze_ratio: float,
        scale: int = 1,
    ) -> None:
        super().__init__()
        self.channels, self.cells = channels, scale**2
        hidden = max(1, int(channels * squeeze_ratio)) * self.cells
        self.squeeze = GroupedLinear(channels, hidden)
        self.expand = GroupedLinear(hidden, channels * taps * self.cells, groups=self.cells)
        self.activation = create_activation(
            activation, filters=channels, taps=taps, phases=self.cells, gain=gain, learned_std=True
        )

    def raw(self, guide: Tensor) -> Tensor:
        hidden = torch.relu(self.squeeze(guide.mean((2, 3))))
        taps = rearrange(self.expand(hidden), "b (p c k) -> b c k p", p=self.cells, c=self.channels)
        return taps.squeeze(3) if self.cells == 1 else taps


class BottleneckBranch(TapsBranch):
    """Involution's: s = activation(W₂·relu(BN(W₁·pool(guide))) + b₂), pool of size and stride s.

    Where the stride does not divide the size, the last window is smaller.

    Shapes: guide (B, C, H, W) → (B, groups, taps, ⌈H/stride⌉, ⌈W/stride⌉).
    """

    def __init__(
        self, channels: int, groups: int, taps: int, *, activation: str, stride: int, reduction: int
    ) -> None:
        super().__init__()
        self.groups = groups
        hidden = max(1, channels // reduction)
        self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.span = nn.Conv2d(hidden, groups * taps, 1)
        self.activation = create_activation(activation, filters=groups, taps=taps)
        for conv in (self.reduce, self.span):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.span.bias)

    def raw(self, guide: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.reduce(self.pool(guide))))
        return rearrange(self.span(hidden), "b (g k) h w -> b g k h w", g=self.groups)


class EncoderBranch(TapsBranch):
    """CARAFE's kernel prediction: s = activation(shuffle(W₂ * (W₁·guide + b₁) + b₂)).

    W₁ compresses the channels, W₂ is a convolution over the surroundings of every position.

    Shapes: guide (B, C, H, W) → (B, groups, taps, H_out·scale, W_out·scale).
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        taps: int,
        *,
        activation: str,
        compressed_channels: int,
        encoder_kernel_size: int,
        encoder_dilation: int = 1,
        stride: int = 1,
        scale: int = 1,
    ) -> None:
        super().__init__()
        self.groups, self.scale = groups, scale
        padding = encoder_dilation * (encoder_kernel_size // 2)
        self.compress = nn.Conv2d(channels, compressed_channels, 1)
        self.encode = Conv2d(
            compressed_channels,
            groups * taps * scale**2,
            encoder_kernel_size,
            stride,
            padding,
            encoder_dilation,
        )
        self.activation = create_activation(activation, filters=groups, taps=taps)
        nn.init.xavier_uniform_(self.compress.weight)
        nn.init.normal_(self.encode.weight, std=0.001)
        nn.init.zeros_(self.compress.bias)
        nn.init.zeros_(self.encode.bias)

    def raw(self, guide: Tensor) -> Tensor:
        return rearrange(
            self.encode(self.compress(guide)),
            "b (g k u v) h w -> b g k (h u) (w v)",
            g=self.groups,
            u=self.scale,
            v=self.scale,
        )


class GroupedFCBranch(nn.Module):
    """WeightNet's: w = W₂·activation(W₁·(W₀·mean(guide) + b₀) + b₁), W₂ grouped.

    The activation acts on the hidden units, as one filter of `hidden` taps. Without `reduce`,
    W₀ is left out: the guide is then the reduced descriptor that, as published, all filters of
    a residual block share.

    Shapes: guide (B, C, H, W), or (B, gap_channels, H, W) without reduce → (B, *shape).
    """

    def __init__(
        self,
        channels: int,
        shape: tuple[int, ...],
        *,
        activation: str,
        gap_channels: int,
        hidden: int,
        groups: int,
        reduce: bool,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.gap_channels = gap_channels
        self.reduce = GroupedLinear(channels, gap_channels) if reduce else None
        self.hidden = GroupedLinear(gap_channels, hidden)
        self.weight = GroupedLinear(hidden, math.prod(shape), groups=groups, bias=False)
        # √taps as gain: hidden units of unit variance, where taps would get a variance of 1/K.
        self.activation = create_activation(
            activation, filters=1, taps=hidden, gain=math.sqrt(hidden)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published network's: normal, σ = 1/fan_in, for W₂ one over the outputs a group."""
        for linear in (self.reduce, self.hidden):
            if linear is not None:
                nn.init.normal_(linear.weight, std=1 / linear.weight.shape[2])
                nn.init.zeros_(linear.bias)
        nn.init.normal_(self.weight.weight, std=1 / self.weight.weight.shape[1])

    def forward(self, guide: Tensor) -> Tensor:
        descriptor = guide.mean((2, 3))
        if self.reduce is not None:
            descriptor = self.reduce(descriptor)
        hidden = self.activation(self.hidden(descriptor).unsqueeze(1)).squeeze(1)
        return self.weight(hidden).reshape(guide.shape[0], *self.shape)


class ExpertsBranch(nn.Module):
    """CondConv's: w = Σ_e r_e·W_e, r = activation(R·mean(guide) + b), E experts.

    The activation acts on the routing, as one filter of E taps. With `routing` False there is
    no R: the guide is r itself, as where a residual block routes once for all its convolutions.

    Shapes: guide (B, C, H, W), or (B, E) without routing → (B, *shape), and (B, C_out) or None.
    """

    def __init__(
        self,
        channels: int,
        shape: tuple[int, ...],
        *,
        activation: str,
        experts: int,
        fan_in: int,
        bias: bool,
        routing: bool,
    ) -> None:
        super().__init__()
        self.shape, self.fan_in = shape, fan_in
        self.router = nn.Linear(channels, experts) if routing else None
        self.weight = nn.Parameter(torch.empty(experts, math.prod(shape)))
        self.bias = nn.Parameter(torch.empty(experts, shape[0])) if bias else None
        self.activation = create_activation(activation, filters=1, taps=experts)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each expert as `torch.nn.Conv2d` would start: uniform within ±1/√fan_in."""
        bound = 1 / math.sqrt(self.fan_in)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, guide: Tensor) -> tuple[Tensor, Tensor | None]:
        routing = guide
        if self.router is not None:
            raw = self.router(guide.mean((2, 3)))
            routing = self.activation(raw.unsqueeze(1)).squeeze(1)
        weight = (routing @ self.weight).reshape(guide.shape[0], *self.shape)
        return weight, None if self.bias is None else routing @ self.bias


class DescriptorNorm(nn.BatchNorm1d):
    """Batch normalization of descriptors (B, C), which takes a single one in training as well.

    One descriptor has no variance. It is normalized as in evaluation, by the running statistics,
    which it leaves as they are; so is an empty batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] > 1:
            return super().forward(x)
        statistics = self.running_mean, self.running_var
        return F.batch_norm(x, *statistics, self.weight, self.bias, eps=self.eps)


class AttentionsBranch(nn.Module):
    """ODConv's: w[o,i,k] = f[o]·c[i]·s[k] · Σ_e κ[e]·W[e,o,i,k], E experts.

    The attentions to output channels f, input channels c, taps s and experts κ come from one
    hidden vector, h = relu(BN(W₀·mean(guide))) with max(16, channels//reduction) entries:
    f, c, s = activation((W₁·h + b₁)/T), κ = softmax((W₂·h + b₂)/T). The activation acts on f, c
    and s together, as one filter of C_out + C_in + K taps.

    As published there is no s for a single tap, no f in depth-wise filters, whose channels have
    c already, and no κ for a single expert; what is missing counts as 1.

    Args:
        channels: of the guide.
        grid: (groups, C_out/groups, C_in/groups, K) of one expert.
        shape: of w for one sample, as many entries in the same order.
        temperature: T, positive; a plain attribute, which training may lower step by step.

    Shapes: guide (B, channels, H, W) → (B, *shape).
    """

    def __init__(
        self,
        channels: int,
        grid: tuple[int, int, int, int],
        shape: tuple[int, ...],
        *,
        activation: str,
        experts: int,
        reduction: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.grid, self.shape, self.temperature = grid, shape, temperature
        hidden = max(LEAST_HIDDEN, channels // reduction)
        self.reduce = GroupedLinear(channels, hidden, bias=False)
        self.norm = DescriptorNorm(hidden)
        self.sizes = _sizes(grid)
        self.heads = nn.ModuleDict({k: GroupedLinear(hidden, n) for k, n in self.sizes.items()})
        if experts > 1:
            self.heads["kernel"] = GroupedLinear(hidden, experts)
        self.weight = nn.Parameter(torch.empty(experts, math.prod(shape)))
        taps = sum(self.sizes.values())
        # √taps as gain: attentions of unit variance, where taps would get a variance of 1/K.
        self.activation = create_activation(activation, filters=1, taps=taps, gain=math.sqrt(taps))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published one: normal, variance 2/fan_out throughout, and biases of 0."""
        for linear in (self.reduce, *self.heads.values()):
            nn.init.normal_(linear.weight, std=math.sqrt(2 / linear.weight.shape[1]))
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        groups, outputs, _, taps = self.grid
        nn.init.normal_(self.weight, std=math.sqrt(2 / (groups * outputs * taps)))

    def forward(self, guide: Tensor) -> Tensor:
        hidden = self.hidden(guide)
        found = self.attentions(hidden)
        window = found["channel"]  # c and s first: their product is smaller than the kernels
        if "spatial" in found:
            window = window * found["spatial"]
        weight = self.mixed(hidden).reshape(-1, *self.grid) * window
        if "filter" in found:
            weight = weight * found["filter"]
        return weight.reshape(guide.shape[0], *self.shape)

    def hidden(self, guide: Tensor) -> Tensor:
        """h, (B, entries)."""
        return torch.relu(self.norm(self.reduce(guide.mean((2, 3)))))

    def attentions(self, hidden: Tensor) -> dict[str, Tensor]:
        """c, s and f, as far as there are such, each in a shape that goes with `grid`."""
        logits = torch.cat([self.heads[kind](hidden) for kind in self.sizes], 1)
        values = self.activation((logits / self.temperature).unsqueeze(1)).squeeze(1)
        parts = values.split(list(self.sizes.values()), 1)
        groups, outputs, inputs, taps = self.grid
        layouts = {
            "channel": (groups, 1, inputs, 1),
            "spatial": (1, 1, 1, taps),
            "filter": (groups, outputs, 1, 1),
        }
        return {
            kind: part.reshape(hidden.shape[0], *layouts[kind])
            for kind, part in zip(self.sizes, parts, strict=True)
        }

    def mixed(self, hidden: Tensor) -> Tensor:
        """Σ_e κ[e]·W[e], (B, entries); (1, entries) for a single expert."""
        if "kernel" not in self.heads:
            return self.weight
        return torch.softmax(self.heads["kernel"](hidden) / self.temperature, 1) @ self.weight


def _sizes(grid: tuple[int, int, int, int]) -> dict[str, int]:
    """Returns the number of entries of c, s and f, without those that are left out."""
    groups, outputs, inputs, taps = grid
    sizes = {"channel": groups * inputs}
    if taps > 1:
        sizes["spatial"] = taps
    if (outputs, inputs) != (1, 1):
        sizes["filter"] = groups * outputs
    return sizes
