"""Every filter among PyTorch's own machinery: dtypes, autocast, layouts, compile, export, meta."""

from __future__ import annotations

import copy

import pytest
import torch
from test_filters import C, every_filter, image, make
from torch._dynamo.testing import CompileCounterWithBackend

import dynfilters

# Largest error over largest value, against float64 with the same parameters and the same x.
# Filter normalization divides by the spread of the taps, which costs a digit or so.
ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}
DTYPES = [torch.float64, *ALLOWED]


def _relative_error(a, b) -> float:
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


def _rounded(name: str, kind: torch.dtype, device, **options):
    """A layer and x in a dtype, and the same numbers in float64."""
    layer = make(name, kind, device, **options).eval()
    x = image(device=device).to(kind)
    return layer, x, copy.deepcopy(layer).double(), x.double()


@pytest.mark.parametrize("kind", ALLOWED, ids=str)
@every_filter
def test_every_dtype_is_near_float64(name: str, kind: torch.dtype, device) -> None:
    layer, x, wide, wide_x = _rounded(name, kind, device, kernel_size=3)
    y = layer(x)
    assert y.dtype == kind
    assert _relative_error(y, wide(wide_x)) < ALLOWED[kind]
    y.float().sum().backward()
    assert all(p.grad.dtype == kind and p.grad.isfinite().all() for p in layer.parameters())


@every_filter
def test_autocast(name: str, device) -> None:
    layer, x, wide, wide_x = _rounded(name, torch.float32, device, kernel_size=3)
    x.requires_grad_()
    with torch.autocast(device.type, torch.bfloat16):
        y = layer(x)
        same = layer(x.bfloat16())
    assert y.dtype == same.dtype == torch.bfloat16
    assert _relative_error(y, wide(wide_x)) < 0.05
    assert _relative_error(same, wide(wide_x)) < 0.05
    y.float().square().sum().backward()
    assert x.grad.dtype == torch.float32 and x.grad.isfinite().all()
    for parameter in layer.parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", ["conv", "dwconv", "weightnet", "condconv", "odconv"])
def test_a_bias_changes_no_dtype(name: str, device) -> None:
    layer = make(name, torch.float32, device, bias=True).eval()
    x = image(device=device).float()
    with torch.autocast(device.type, torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert layer.apply_taps(x, layer.generate(x)).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", DTYPES, ids=str)
@every_filter
def test_nothing_to_see_gives_finite_numbers(name: str, kind: torch.dtype, device) -> None:
    """All parameters zero and x constant: filter normalization divides zero by zero there."""
    layer = make(name, kind, device)
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.ones(2, C, 5, 5, dtype=kind, device=device, requires_grad=True)
    y = layer(x)
    (y.float().sum() + y.float().square().sum()).backward()
    for tensor in (y, x.grad, *(p.grad for p in layer.parameters())):
        assert tensor.isfinite().all()


@every_filter
def test_channels_last_gives_the_same_numbers(name: str, device) -> None:
    layer, x, *_ = _rounded(name, torch.float64, device)
    twin = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    results = []
    for model, stored in ((layer, x), (twin, x.to(memory_format=torch.channels_last))):
        leaf = stored.detach().requires_grad_()
        y = model(leaf)
        gradients = torch.autograd.grad(y.square().sum(), [leaf, *model.parameters()])
        results.append([y.detach(), *gradients])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@every_filter
def test_meta_construction(name: str) -> None:
    with torch.device("meta"):
        layer = dynfilters.create_filter(name, C, 6)
    assert all(p.is_meta for p in layer.parameters())
    real = make(name, torch.float32)
    assert layer(torch.empty(2, C, 6, 5, device="meta")).shape == real(image().float()[:2]).shape
    layer = layer.to_empty(device="cpu")
    layer.load_state_dict(real.state_dict())
    x = image().float()
    assert torch.equal(layer.eval()(x), real.eval()(x))


def test_the_whole_zoo_compiles_in_one_process() -> None:
    """Without graph breaks, forward and backward; one shared `forward` would hit the limit of
    variants that torch.compile keeps for one piece of code."""
    torch._dynamo.reset()
    for name in dynfilters.list_filters():
        layer, x, *_ = _rounded(name, torch.float32, "cpu")
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        y = compiled(x)
        torch.testing.assert_close(y, layer(x), msg=lambda m, name=name: f"{name}: {m}")
        y.sum().backward()
        ours = [p.grad.clone() for p in layer.parameters()]
        layer.zero_grad()
        layer(x).sum().backward()
        for a, p in zip(ours, layer.parameters(), strict=True):
            torch.testing.assert_close(a, p.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["ddf", "involution", "carafe_up", "condconv", "odconv"])
def test_one_compilation_does_for_all_sizes(name: str) -> None:
    torch._dynamo.reset()
    layer = make(name, torch.float32).eval()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter, dynamic=True)
    counts = set()
    for size in ((5, C, 7, 10), (3, C, 11, 6), (7, C, 10, 12)):
        x = torch.randn(size)
        torch.testing.assert_close(compiled(x), layer(x))
        counts.add(counter.frame_count)
    assert len(counts) == 1


@pytest.mark.parametrize("strict", [False, True])
@every_filter
def test_export_with_a_dynamic_batch(name: str, strict: bool) -> None:
    layer = make(name, torch.float32).eval()
    sizes = {0: torch.export.Dim("batch")}
    program = torch.export.export(layer, (image().float(),), dynamic_shapes=(sizes,), strict=strict)
    x = image(5, C, 6, 5).float()
    torch.testing.assert_close(program.module()(x), layer(x))
