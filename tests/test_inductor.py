"""Inductor beside the ops: what is around them stays fused, and nothing is copied for them."""

from __future__ import annotations

import re

import pytest
import torch
from combinations import full
from torch import nn
from torch._inductor.utils import run_and_get_code

import dynfilters

C = 32


def _block(name: str) -> nn.Module:
    """A filter as in a bottleneck, between 1×1 convolutions, normalizations and ReLUs."""

    def around(layer: nn.Module) -> list[nn.Module]:
        return [layer, nn.BatchNorm2d(C), nn.ReLU()]

    filters = dynfilters.create_filter(name, C)
    convs = [nn.Conv2d(C, C, 1, bias=False) for _ in range(2)]
    return nn.Sequential(*around(convs[0]), *around(filters), *around(convs[1]))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "name, ops",
    [("ddf", ["ddf_generate", "filter2d_activated"]), full(("dw_condconv", ["filter2d"]))],
)
def test_a_block_in_channels_last_keeps_its_fusions(name: str, ops: list[str]) -> None:
    torch._dynamo.reset()
    block = _block(name).eval().to(memory_format=torch.channels_last)
    x = torch.randn(2, C, 9, 11).contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(block, fullgraph=True, options={"cpp.simdlen": 1})
    with torch.no_grad():
        y, (code,) = run_and_get_code(compiled, x)
        torch.testing.assert_close(y, block(x))
    assert y.is_contiguous(memory_format=torch.channels_last)
    body = code[code.index("def call(") :]
    assert re.findall(r"= torch\.ops\.dynfilters\.(\w+)\.default\(", body) == ops
    around_images = [k for k in re.findall(r"^ +cpp_fused_(\w+)\(", body, re.M) if "relu" in k]
    assert len(around_images) == 3 and all("batch_norm" in k for k in around_images)
    assert not re.findall(r"cpp_fused\w*(?:copy|clone|permute)\w*\(", body)
