"""The capability contract of every registered filter; its results are README.md's matrix."""

from __future__ import annotations

import pytest
import torch
from combinations import full
from torch import Tensor, nn

import dynfilters
from dynfilters.nn import DenseFilter
from dynfilters.testing import CAPABILITIES, check_filter, summary
from dynfilters.testing.check import check, make_subject
from dynfilters.testing.distributed import check_gradients, prepare

NAMES = dynfilters.list_filters()
# Seconds for each filter: tracing, compiling, finite differences of second order.
SLOW = ("torch.compile", "Inductor", "torch.export", "opcheck", "double backward", "func.jvp")
OPTIONS = {"out_channels": 6}  # with the 1×1 convolution behind depth-wise filters


@pytest.mark.integration
@pytest.mark.parametrize(
    "capability", [full(name) if name in SLOW else name for name in CAPABILITIES if name != "DDP"]
)
@pytest.mark.parametrize("name", NAMES)
def test_capability(name: str, capability: str, device, record_property) -> None:
    result = check(make_subject(name, OPTIONS, device), capability)
    record_property("capability", [name, capability, result.status, result.reason])
    assert result.status != "failed", result.reason
    assert result.status == "ok" or result.reason


@pytest.mark.long
@pytest.mark.integration
def test_ddp_of_all_filters(record_property) -> None:
    """In the same two processes, which take longer to start than all of the rest."""
    subjects = {name: make_subject(name, OPTIONS) for name in NAMES}
    check_gradients({name: prepare(subject) for name, subject in subjects.items()})
    for name in NAMES:
        record_property("capability", [name, "DDP", "ok", ""])


@pytest.mark.full
def test_hardly_anything_is_not_applicable() -> None:
    """Of a registered filter: opcheck, where it needs no op of ours."""
    for name in NAMES:
        (result,) = check_filter(name, capabilities=["opcheck"]).results
        static = dynfilters.filter_info(name).default_activation is None
        dense = isinstance(dynfilters.create_filter(name, 16), DenseFilter)
        assert (result.status == "not applicable") == (static or dense), result


@pytest.mark.parametrize(
    "name, options",
    [
        *((f"{kind}weightnet", {"m": 4, "g": g}) for kind in ("", "dw_") for g in (1, 4)),
        ("weightnet", {"gap_channels": 5}),
        ("conv", {"groups": 4, "stride": 2}),
        ("condconv", {"groups": 4, "kernel_size": (3, 5)}),
        ("odconv", {"experts": 4, "groups": 2}),
        ("odconv", {"kernel_size": 1}),
        ("odconv", {"groups": 16}),
        ("dw_odconv", {"experts": 4, "stride": 2}),
        ("ddf", {"groups": 4, "stride": 2}),
        ("ddf_up", {"scale": 3, "encoder_kernel_size": 5, "out_channels": 8}),
        ("carafe", {"stride": 2, "groups": 2}),
        ("involution", {"group_channels": 4, "stride": 2}),
    ],
    ids=str,
)
def test_flop_counts_of_other_options(name: str, options: dict) -> None:
    check_filter(name, options=options, capabilities=["FLOP counts"])


class Scaled(nn.Module):
    """A user's own, with nothing of the package in it: a depth-wise convolution."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(in_channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight, padding=1, groups=x.shape[1])


QUICK = [name for name in CAPABILITIES if name not in ("torch.compile", "Inductor", "DDP")]


def test_a_users_own_filter() -> None:
    report = check_filter(Scaled, capabilities=QUICK)
    left_out = {r.capability: r.reason for r in report.results if r.status != "ok"}
    assert left_out == {
        "rectangular kernels": "it takes no kernel_size",
        "configuration": "only layers of create_filter have a filter_config: register it",
        "opcheck": "it is made of PyTorch's own operations",
        "FLOP counts": "no closed form of its operations is known here",
    }
    assert str(report).startswith(f"Scaled: {len(QUICK) - 4} of {len(QUICK)} capabilities\n")
    assert "  –       rectangular kernels: it takes no kernel_size" in str(report)


class Broken(Scaled):
    """Wrong in a way for each entry of `BREAKS`."""

    how = ""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return BREAKS[self.how][0](self, x, y)


def _normalized(layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Without an ε."""
    return y / y.std((2, 3), keepdim=True)


BREAKS = {
    "float64": (lambda layer, x, y: y.detach() * layer.weight.sum(), "GradcheckError"),
    "float32": (lambda layer, x, y: y + 0.01 * (y.dtype == torch.float32), "y: off by"),
    "bfloat16": (lambda layer, x, y: y.float(), "y is torch.float32"),
    "float16": (lambda layer, x, y: y.float(), "y is torch.float32"),
    "autocast": (lambda layer, x, y: y.float(), "y is torch.float32"),
    "GradScaler": (_normalized, "the step was left out|not finite"),
    "channels_last": (lambda layer, x, y: y.contiguous(), "y is not channels_last"),
    "batch 1": (lambda layer, x, y: y - y.mean(), "sample 0: off by"),
    "odd grids": (lambda layer, x, y: y[..., : max(1, 2 * (y.shape[3] // 2))], "7×5 gave"),
    "meta device": (lambda layer, x, y: y[: len(y) - y.is_meta], "on the meta device"),
    "copies": (lambda layer, x, y: y * (1 + id(layer) % 997), "other numbers"),
    "torch.export": (lambda layer, x, y: y if y.sum() > 1e9 else -y, "Data|data|Could not guard"),
    "torch.fx": (lambda layer, x, y: y if y.sum() > 1e9 else -y, "TraceError"),
    "functional_call": (lambda layer, x, y: y * float(id(layer.weight) % 997), "y: off by"),
    "vmap": (lambda layer, x, y: y * y.sum().item(), "item"),
    "func.grad": (lambda layer, x, y: Once.apply(y), "setup_context"),
    "double backward": (lambda layer, x, y: Once.apply(y), "GradcheckError"),
}


class Once(torch.autograd.Function):
    """y², which the published ops would differentiate once only."""

    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return y.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        return 2 * grad * ctx.saved_tensors[0]


# What is broken on purpose makes torch warn, each in its own way.
@pytest.mark.full
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("capability", BREAKS)
def test_what_is_broken_fails(capability: str, monkeypatch) -> None:
    monkeypatch.setattr(Broken, "how", capability)
    with pytest.raises(AssertionError, match=BREAKS[capability][1]) as raised:
        check_filter(Broken, capabilities=[capability])
    assert str(raised.value).startswith("Broken: 1 of 1 capabilities failed\n  ")
    report = check_filter(Broken, capabilities=[capability], raises=False)
    assert [result.status for result in report.failed] == ["failed"]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"capabilities: expected one of .* got 'speed'"):
        check_filter("ddf", capabilities=["speed"])
    with pytest.raises(KeyError, match="did you mean 'ddf'"):
        check_filter("ddff")
    with pytest.raises(ValueError, match="filter: expected a name or a factory"):
        check_filter(3)


def test_random_numbers_go_on_as_before() -> None:
    torch.manual_seed(1)
    expected = torch.randn(3)
    torch.manual_seed(1)
    check_filter("dwconv", capabilities=["batch 1"])
    assert torch.equal(torch.randn(3), expected)


def test_every_capability_says_what_it_verifies() -> None:
    assert all(len(summary(name)) > 30 and "\n" not in summary(name) for name in CAPABILITIES)
