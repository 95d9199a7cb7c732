"""Shared by the tests of the gradient probe: small models, a training loop, records by key."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import dynfilters
from dynfilters.diagnostics import GradientProbe
from dynfilters.models import create_model

LOSS = nn.functional.cross_entropy
LABELS = torch.tensor([1, 2, 0, 3])


class ScalarBranch(nn.Module):
    """taps = sigmoid(w·guide), everything (B, 1, K)."""

    def __init__(self, weight: float, activation: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.activation = activation

    def forward(self, guide: Tensor) -> Tensor:
        return self.activation(self.weight * guide)


class ScalarFilter(dynfilters.nn.DynamicFilter):
    """y = Σ taps·x: simple enough for its gradients to be written down."""

    def __init__(self, weight: float = 0.7, activation: nn.Module | None = None) -> None:
        super().__init__(1)
        self.branches["spatial"] = ScalarBranch(weight, activation or nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.branches["spatial"](x).sum()


def values(probe: GradientProbe, **where: object) -> list[float]:
    """The recorded values of all records that agree with `where`."""
    rows = probe.records()
    return [r["value"] for r in rows if all(r[key] == v for key, v in where.items())]


def value(probe: GradientProbe, **where: object) -> float:
    (found,) = values(probe, **where)
    return found


def network(filter: str = "ddf", activation: str | None = "sigmoid", **options) -> nn.Module:
    torch.manual_seed(0)
    options = {"depth": 2, "filter_options": {"activation": activation}, **options}
    return create_model("small_resnet", filter=filter, **options)


def by_key(probe: GradientProbe) -> dict[tuple, float]:
    names = ("step", "layer", "branch", "quantity")
    return {tuple(r[n] for n in names): r["value"] for r in probe.records()}


def train(model: nn.Module, probe: GradientProbe, steps: int, run: nn.Module | None = None) -> None:
    run = model if run is None else run
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(steps):
        optimizer.zero_grad()
        LOSS(run(images * (1 + step)), LABELS).backward()
        probe.step()
        optimizer.step()
