"""Activations of generated numbers, before these act as a filter.

Every activation maps raw (B, n, K, *) to (B, n, K, *): n filters of K taps each, the taps on
axis 2, any number of axes behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynfilters.checks import check_choice, check_positive
from dynfilters.ops.activations import activate, aligned, epsilon
from dynfilters.registry import Registry

_activations: Registry[Callable[..., nn.Module]] = Registry("activation")


def register_activation(name: str) -> Callable:
    """Decorator: makes an activation available by `name`.

    The factory is called as `factory(filters=n, taps=K, phases=P, gain=..., learned_std=...)`
    and may ignore any of these through `**_`.
    """
    return lambda factory: _activations.register(name, factory)


def list_activations() -> list[str]:
    """The names of all activations, sorted."""
    return _activations.names()


def create_activation(
    name: str,
    *,
    filters: int,
    taps: int,
    phases: int = 1,
    gain: float = 1.0,
    learned_std: bool = False,
) -> nn.Module:
    """The activation called `name` for `filters` filters of `taps` taps in `phases` phases.

    Only `filter_norm` uses the numbers. `UnknownNameError` names the closest known names.
    """
    factory = _activations.get(name)
    return factory(filters=filters, taps=taps, phases=phases, gain=gain, learned_std=learned_std)


def check_activations(*names: str | None) -> None:
    """`UnknownNameError` unless every name is None or an activation's.

    For arguments that no branch of a layer would look up.
    """
    for name in names:
        if name is not None:
            _activations.get(name)


def nonlinearity_gain(nonlinearity: str) -> float:
    """√2 before "relu", 1 before "linear": `torch.nn.init.calculate_gain` of the two."""
    check_choice("nonlinearity", nonlinearity, ("relu", "linear"))
    return nn.init.calculate_gain(nonlinearity)


@register_activation("filter_norm")
class FilterNorm(nn.Module):
    """Filter normalization: out = (t − mean(t)) / (std(t) + ε) · σ + μ over the taps of a filter.

    "Decoupled Dynamic Filter Networks" (CVPR 2021, eq. 3). std is the unbiased one (divisor
    K − 1). Computed in float32 at least. Constant taps, such as a generator behind dead ReLUs
    makes, give exactly μ; their gradient is that of (t − mean(t)) · σ, as if std were 1.

    Args:
        filters: n, the number of filters.
        taps: K, the taps of each, at least 2.
        phases: filters of each place in a sub-pixel cell, on axis 3, if above 1.
        gain: σ = gain/√K, constant, or the scale of its initial noise if learned.
        learned_std: σ is a parameter `std` of shape (n, K) or (n, K, phases).
        learned_mean: μ is such a parameter `mean`, else 0.
        eps: ε, the published 1e-10; enlarged in float32 to 1e-8 and for half types to 1e-4,
            which bounds the gradient of nearly constant taps.

    Shapes: (B, n, K, *) to the same.
    """

    def __init__(
        self,
        filters: int,
        taps: int,
        phases: int = 1,
        gain: float = 1.0,
        learned_std: bool = False,
        learned_mean: bool = False,
        eps: float = 1e-10,
    ) -> None:
        super().__init__()
        check_positive("filters", filters)
        check_positive("phases", phases)
        if taps < 2:
            raise ValueError(
                f"taps: filter_norm expected at least 2 to normalize, got {taps} (a 1×1 kernel, "
                "or a single expert, leaves nothing to normalize over)"
            )
        shape = (filters, taps) if phases == 1 else (filters, taps, phases)
        self.eps = eps
        self.scale = gain / math.sqrt(taps)
        self.std = nn.Parameter(torch.empty(shape)) if learned_std else None
        self.mean = nn.Parameter(torch.empty(shape)) if learned_mean else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published initialisation: σ normal noise times gain/√K, μ standard normal."""
        if self.std is not None:
            nn.init.normal_(self.std, std=self.scale)
        if self.mean is not None:
            nn.init.normal_(self.mean)

    @property
    def gain(self) -> float:
        """σ if it is constant, and 1 beside a learned one."""
        return self.scale if self.std is None else 1.0

    def forward(self, taps: Tensor) -> Tensor:
        out = activate(taps, "filter_norm", self.gain, self.std, epsilon(self.eps, taps.dtype))
        if self.mean is not None:
            out = out + aligned(self.mean, out)
        return out.to(taps.dtype)

    def extra_repr(self) -> str:
        learned = [name for name in ("std", "mean") if getattr(self, name) is not None]
        return f"scale={self.scale:.4g}, learned={learned}, eps={self.eps}"


@register_activation("softmax")
def _softmax(**_) -> nn.Module:
    """exp(t) / Σ exp(t) over the taps of each filter."""
    return nn.Softmax(dim=2)


@register_activation("sigmoid")
def _sigmoid(**_) -> nn.Module:
    return nn.Sigmoid()


@register_activation("tanh")
def _tanh(**_) -> nn.Module:
    return nn.Tanh()


@register_activation("identity")
def _identity(**_) -> nn.Module:
    return nn.Identity()
