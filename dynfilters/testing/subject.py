"""A filter under test: how to make it, inputs for it, and how near numbers must be."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dynfilters.filters import create_filter
from dynfilters.testing.report import NotApplicable

CPU = torch.device("cpu")
# Largest error over largest value, against float64 with the same parameters and the same x.
# Filter normalization divides by the spread of the taps, which costs a digit or so.
BOUNDS = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.bfloat16: 0.05,
    torch.float16: 0.01,
}


@dataclass(frozen=True)
class Subject:
    """A filter, and how the checks make layers and inputs of it.

    Attributes:
        name: for messages; what `create_filter` knows it by if `factory` is None.
        factory: makes a layer from `in_channels` and options, if it is not registered.
        options: given to every layer that is made.
        device: where the checks run.
        in_channels: the channels of x.
    """

    name: str
    factory: Callable[..., nn.Module] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device = CPU
    in_channels: int = 16

    def takes(self, option: str) -> bool:
        """Returns whether the layer can be made with this option."""
        if self.factory is None:
            return True
        parameters = inspect.signature(self.factory).parameters
        return option in parameters or any(
            p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
        )

    def make(self, dtype: torch.dtype = torch.float64, **options: Any) -> nn.Module:
        """A new layer in evaluation mode, on the device. `NotApplicable` if it takes no such
        option."""
        return self.build(**options).to(self.device, dtype).eval()

    def build(self, **options: Any) -> nn.Module:
        """The layer as its constructor leaves it."""
        for option in options:
            if not self.takes(option):
                raise NotApplicable(f"it takes no {option}")
        options = {"in_channels": self.in_channels, **self.options, **options}
        if self.factory is None:
            return create_filter(self.name, **options)
        return self.factory(**options)

    def image(
        self, batch: int = 3, height: int = 6, width: int = 5, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """Random x: (batch, in_channels, height, width)."""
        size = batch, self.in_channels, height, width
        return torch.randn(size, dtype=torch.float64).to(self.device, dtype)


def has_parameters(layer: nn.Module) -> bool:
    """Returns whether the layer has parameters."""
    return next(layer.parameters(), None) is not None


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest expected value; both must be of one shape."""
    assert found.shape == expected.shape, f"shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    if not expected.numel():
        return 0.0
    difference = (found.detach().double() - expected.detach().double()).abs().max()
    return (difference / expected.detach().double().abs().max().clamp(min=1e-30)).item()


def check_near(
    what: str, found: Tensor, expected: Tensor, dtype: torch.dtype | None = None, slack: float = 1
) -> None:
    """`AssertionError` unless they agree to the bound of the dtype, that of `found` by default."""
    dtype = found.dtype if dtype is None else dtype
    bound = slack * BOUNDS[dtype]
    apart = error(found, expected)
    assert apart <= bound, f"{what}: off by {apart:.2g} of the largest value, above {bound:.2g}"


def check_all_near(
    what: str, found: list[Tensor | None], expected: list[Tensor | None], slack: float = 1
) -> None:
    """`check_near` of tensors in pairs, None against None."""
    for number, (ours, right) in enumerate(zip(found, expected, strict=True)):
        assert (ours is None) == (right is None), f"{what} {number}: {ours} in place of {right}"
        if ours is not None:
            check_near(f"{what} {number}", ours, right, slack=slack)


def check_finite(what: str, *tensors: Tensor | None) -> None:
    """`AssertionError` unless all tensors are there, and finite."""
    for tensor in tensors:
        assert tensor is not None, f"{what}: none"
        assert bool(tensor.isfinite().all()), f"{what}: not finite"


@contextmanager
def without_deprecations() -> Iterator[None]:
    """Silences what PyTorch says of its own use of TorchScript, once in a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
