"""Activations: filter normalization against its formula, and the registry of them all."""

from __future__ import annotations

import math

import pytest
import torch
from cases import tolerances
from oracles import filter_norm
from torch import nn

import dynfilters
from dynfilters.nn import FilterNorm, activations, create_activation, nonlinearity_gain

HALF = [torch.bfloat16, torch.float16]


@pytest.fixture
def own_registry(monkeypatch) -> None:
    """Registrations of a test end with it."""
    entries = dict(activations._activations._entries)
    monkeypatch.setattr(activations._activations, "_entries", entries)


@pytest.mark.parametrize("behind", [(), (3, 4)], ids=str)
def test_filter_norm_with_a_constant_std(behind: tuple[int, ...], dtype, device) -> None:
    taps = torch.randn(2, 5, 9, *behind, dtype=dtype, device=device) * 3 + 1
    norm = FilterNorm(5, 9, gain=math.sqrt(2))
    assert not list(norm.parameters())
    out = norm(taps)
    torch.testing.assert_close(out, filter_norm(taps, math.sqrt(2) / 3), **tolerances(dtype))
    torch.testing.assert_close(
        out.std(2), torch.full_like(out[:, :, 0], math.sqrt(2) / 3), **tolerances(dtype)
    )
    torch.testing.assert_close(out.mean(2), torch.zeros_like(out[:, :, 0]), **tolerances(dtype))


@pytest.mark.parametrize("phases", [1, 4])
@pytest.mark.parametrize("behind", [(), (2,)], ids=str)
def test_filter_norm_with_learned_std_and_mean(phases, behind, dtype, device) -> None:
    """A std and a mean for each filter, tap and phase, whatever axes stand behind."""
    cell = (phases,) if phases > 1 else ()
    norm = FilterNorm(5, 9, phases, learned_std=True, learned_mean=True).to(device, dtype)
    assert norm.std.shape == norm.mean.shape == (5, 9, *cell)
    taps = torch.randn(2, 5, 9, *cell, *behind, dtype=dtype, device=device)
    std, mean = (
        p.detach().reshape(1, 5, 9, *cell, *(1,) * len(behind)) for p in (norm.std, norm.mean)
    )
    torch.testing.assert_close(norm(taps), filter_norm(taps, std, mean), **tolerances(dtype))


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 3e3])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, *HALF], ids=str)
def test_constant_taps_give_exactly_the_mean(kind: torch.dtype, value: float, device) -> None:
    """Nine times 0.1 has a rounded mean; what is left must not be blown up by the division."""
    taps = torch.full((2, 4, 9), value, dtype=kind, device=device, requires_grad=True)
    norm = FilterNorm(4, 9, learned_std=True, learned_mean=True).to(device, kind)
    out = norm(taps)
    assert torch.equal(out, norm.mean.expand(2, -1, -1))
    out.sum().backward()
    assert all(t.grad.isfinite().all() for t in (taps, norm.std, norm.mean))


@pytest.mark.parametrize("kind", HALF, ids=str)
def test_half_taps_are_normalized_in_float32(kind: torch.dtype, device) -> None:
    """Within one rounding of the result: in half types, the mean alone would lose more."""
    taps = (torch.randn(4, 8, 25, device=device) + 20).to(kind)
    exact = filter_norm(taps.double(), 0.2)
    error = (FilterNorm(8, 25)(taps).double() - exact).abs()
    epsilon = 1e-4 / taps.double().std(2, keepdim=True)
    assert (error <= (torch.finfo(kind).eps / 2 + epsilon) * exact.abs() + 1e-5).all()


def test_filter_norm_gradients() -> None:
    norm = FilterNorm(3, 5, learned_std=True, learned_mean=True).double()
    taps = torch.randn(2, 3, 5, 2, dtype=torch.float64, requires_grad=True)

    def call(t, std, mean):
        return torch.func.functional_call(norm, {"std": std, "mean": mean}, (t,))

    leaves = taps, norm.std, norm.mean
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def test_nonlinearity_gain() -> None:
    assert nonlinearity_gain("linear") == 1
    assert nonlinearity_gain("relu") == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softmax", "identity"])
def test_plain_activations_are_their_formulas(name: str, dtype, device) -> None:
    taps = torch.randn(2, 3, 9, 4, dtype=dtype, device=device)
    positive = taps.exp()
    expected = {
        "sigmoid": 1 / (1 + 1 / positive),
        "tanh": (positive - 1 / positive) / (positive + 1 / positive),
        "softmax": positive / positive.sum(2, keepdim=True),
        "identity": taps,
    }
    out = create_activation(name, filters=3, taps=9)(taps)
    torch.testing.assert_close(out, expected[name], **tolerances(dtype))


def test_the_five_are_there() -> None:
    names = {"filter_norm", "identity", "sigmoid", "softmax", "tanh"}
    assert names <= set(dynfilters.list_activations())
    assert dynfilters.list_activations() == sorted(dynfilters.list_activations())


def test_only_filter_norm_learns_and_only_if_asked() -> None:
    for name in ("identity", "sigmoid", "softmax", "tanh", "filter_norm"):
        made = create_activation(name, filters=3, taps=9, learned_std=True)
        shapes = [tuple(p.shape) for p in made.parameters()]
        assert shapes == ([(3, 9)] if name == "filter_norm" else [])
    assert not list(create_activation("filter_norm", filters=3, taps=9).parameters())


@pytest.mark.usefixtures("own_registry")
def test_an_activation_of_ones_own_joins_in() -> None:
    class Cube(nn.Module):
        def __init__(self, taps: int, **_) -> None:
            super().__init__()
            self.taps = taps

        def forward(self, taps: torch.Tensor) -> torch.Tensor:
            return taps**3

    dynfilters.register_activation("cube")(Cube)
    assert "cube" in dynfilters.list_activations()
    plain = dynfilters.create_filter("involution", 16)
    cubed = dynfilters.create_filter("involution", 16, activation="cube")
    cubed.load_state_dict(plain.state_dict())
    assert cubed.branches["spatial"].activation.taps == 9
    x = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(cubed.generate(x).spatial, plain.generate(x).spatial ** 3)
    with pytest.raises(ValueError, match="activation 'cube' is registered already"):
        dynfilters.register_activation("cube")(Cube)


def test_constant_taps_have_a_finite_second_derivative() -> None:
    norm = create_activation("filter_norm", filters=2, taps=9)
    taps = torch.full((1, 2, 9), 0.3, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(norm(taps).pow(2).sum(), taps, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), taps)
    assert first.isfinite().all()
    assert second.isfinite().all()
