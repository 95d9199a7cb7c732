"""The branch of ODConv: attentions along every axis of the experts' kernels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynfilters.nn.activations import create_activation
from dynfilters.nn.linear import GroupedLinear

LEAST_HIDDEN = 16  # the published lower bound of the squeezed descriptor


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
    """How many entries c, s and f have, without those that are left out."""
    groups, outputs, inputs, taps = grid
    sizes = {"channel": groups * inputs}
    if taps > 1:
        sizes["spatial"] = taps
    if (outputs, inputs) != (1, 1):
        sizes["filter"] = groups * outputs
    return sizes
