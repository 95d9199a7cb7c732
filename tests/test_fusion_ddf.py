"""DDF generates by one op exactly where the result is the same and nothing observes the steps."""

from __future__ import annotations

import pytest
import torch
from dispatched import DispatchedOps
from torch import Tensor, nn

import dynfilters
from dynfilters.native import loader
from dynfilters.nn import fusion

FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
by_format = pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)


def is_fused(layer: nn.Module, x: Tensor) -> bool:
    with DispatchedOps() as ops:
        layer(x)
    return ops.names.count("ddf_generate") == 1


def results(layer: nn.Module, x: Tensor, guide: Tensor) -> list[Tensor]:
    y = layer(x, guide)
    gy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return [y, *torch.autograd.grad(y, [x, guide, *layer.parameters()], gy)]


@by_format
@pytest.mark.parametrize("kernel_size", [3, (3, 5)], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("activation", ["filter_norm", "identity"])
def test_ddf_by_one_op_is_ddf_by_its_modules(
    activation, groups, kernel_size, memory_format, monkeypatch
) -> None:
    layer = dynfilters.DDF(12, 6, kernel_size, activation=activation, groups=groups).double()
    tensors = (torch.randn(2, 12, 7, 9).double() for _ in range(2))
    x, guide = (t.contiguous(memory_format=memory_format).requires_grad_() for t in tensors)
    assert is_fused(layer, x) == (activation != "identity")
    fused = results(layer, x, guide)
    monkeypatch.setattr(fusion, "_is_ddf", lambda _: False)
    del layer._fusion
    assert not is_fused(layer, x)
    for ours, truth in zip(fused, results(layer, x, guide), strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-10)


def _weigh(name: str):
    """Parametrizes one of the layer's modules."""
    return lambda m: nn.utils.parametrizations.weight_norm(m.get_submodule(f"branches.{name}"))


def _hook(name: str):
    return lambda m: m.get_submodule(f"branches.{name}").register_forward_hook(lambda *_: None)


GENERATORS = "spatial.conv", "channel.squeeze", "channel.expand"
APART = {
    **{f"a hook on {name}": _hook(name) for name in ("channel", *GENERATORS)},
    **{f"a parametrized {name}": _weigh(name) for name in GENERATORS},
    "another convolution": lambda m: setattr(m.branches["spatial"], "conv", nn.LazyConv2d(9, 1)),
    "raw of its own": lambda m: setattr(m.branches["channel"], "raw", m.branches["channel"].raw),
}


@pytest.mark.parametrize("change", APART.values(), ids=APART)
def test_where_somebody_could_tell_the_modules_run(change) -> None:
    layer, x = dynfilters.DDF(12), torch.randn(2, 12, 7, 9)
    assert is_fused(layer, x)
    change(layer)
    assert not is_fused(layer, x)


@pytest.mark.parametrize("name", GENERATORS)
def test_hooks_see_what_they_saw(name: str) -> None:
    layer, x, seen = dynfilters.DDF(12), torch.randn(2, 12, 7, 9), []
    y = layer(x)
    layer.get_submodule(f"branches.{name}").register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(layer(x), y)
    assert seen


OTHERS = {
    "stride 2": lambda: dynfilters.DDF(12, stride=2),
    "spatial alone": lambda: dynfilters.create_filter("ddf_spatial", 12),
    "channel alone": lambda: dynfilters.create_filter("ddf_channel", 12),
    "phases": lambda: dynfilters.create_filter("ddf_up", 12, guide_channels=12),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_layers_run_their_modules(make) -> None:
    layer, x = make(), torch.randn(2, 12, 7, 9)
    with DispatchedOps() as ops:
        layer(x, x)
    assert "ddf_generate" not in ops.names


@pytest.mark.parametrize("live", [True, False])
def test_on_other_devices_where_there_is_a_native_kernel(live: bool, monkeypatch) -> None:
    layer, x = dynfilters.DDF(12).to("meta"), torch.empty(2, 12, 7, 9, device="meta")
    status = loader.Status("native" if live else "reference", "because")
    monkeypatch.setitem(loader._status, "meta", status)
    assert is_fused(layer, x) == live


@by_format
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ddf_is_the_same_on_any_number_of_threads(dtype, memory_format) -> None:
    layer = dynfilters.DDF(40).to(dtype).eval()
    x = torch.randn(3, 40, 13, 14).to(dtype).contiguous(memory_format=memory_format)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            found.append(layer(x))
    finally:
        torch.set_num_threads(threads)
    assert loader.select_backend("cpu").backend != "native" or all(
        torch.equal(y, found[0]) for y in found
    )


@pytest.mark.full
def test_ddf_compiles_exports_and_autocasts_by_one_op() -> None:
    torch._dynamo.reset()
    layer, x = dynfilters.DDF(12).eval(), torch.randn(2, 12, 7, 9)
    y = layer(x)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), y)
    program = torch.export.export(layer, (x,))
    assert "ddf_generate" in str(program.graph)
    torch.testing.assert_close(program.module()(x), y)
    with torch.autocast("cpu", torch.bfloat16):
        assert is_fused(layer, x)
        torch.testing.assert_close(layer(x).float(), y, rtol=0.1, atol=0.1)
