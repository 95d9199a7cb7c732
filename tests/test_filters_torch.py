"""Every filter among PyTorch's own machinery: what `dynfilters.testing` does not check."""

from __future__ import annotations

import pytest
import torch
from test_filters import C, every_filter, image, make

import dynfilters

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


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


@pytest.mark.long
@pytest.mark.full
def test_the_whole_zoo_compiles_in_one_process() -> None:
    """One shared `forward` would hit the limit of variants that torch.compile keeps for one piece
    of code. Values and gradients of each filter are for `dynfilters.testing`."""
    torch._dynamo.reset()
    for name in dynfilters.list_filters():
        layer, x = make(name, torch.float32).eval(), image().float()
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), layer(x), msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.full
@every_filter
def test_strict_export_with_a_dynamic_batch(name: str) -> None:
    layer = make(name, torch.float32).eval()
    sizes = {0: torch.export.Dim("batch")}
    program = torch.export.export(layer, (image().float(),), dynamic_shapes=(sizes,), strict=True)
    x = image(5, C, 6, 5).float()
    torch.testing.assert_close(program.module()(x), layer(x))
