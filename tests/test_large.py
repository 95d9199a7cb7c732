"""More than 2³¹ elements, for real: places in the tensors do not fit into 32 bits.

pytest -m slow tests/test_large.py    # needs 10 GB, a minute
"""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F

from dynfilters.ops import filter2d

pytestmark = pytest.mark.slow
NEEDED = 12e9
CHANNELS, HEIGHT = 32, 1024
WIDTH = 2**31 // CHANNELS // HEIGHT + 7
PATCH = 6


@pytest.fixture(autouse=True)
def _room() -> None:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if free < NEEDED:
        pytest.skip(f"needs {NEEDED / 1e9:.0f} GB of memory, {free / 1e9:.1f} are free")


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_the_far_end_is_filtered_as_the_near_one(layout: str) -> None:
    """x repeats one row of pixels without storing it (stride 0), so that y alone takes memory."""
    row = torch.randn(1, CHANNELS, 1, WIDTH, dtype=torch.bfloat16)
    if layout == "channels_last":
        row = row.contiguous(memory_format=torch.channels_last)
    x = row.expand(1, CHANNELS, HEIGHT, WIDTH)
    channel = torch.randn(1, CHANNELS, 9, dtype=torch.bfloat16)
    y = filter2d(x, None, channel, kernel_size=3)
    assert y.numel() > 2**31
    weight = channel.double().view(CHANNELS, 1, 3, 3)
    for end in (slice(0, PATCH), slice(WIDTH - PATCH, WIDTH)):
        start = max(end.start - 1, 0)
        near = row[..., start : end.stop + 1].double().expand(1, CHANNELS, 3, -1)
        truth = F.conv2d(near, weight, padding=1, groups=CHANNELS)[
            :, :, 1:2, end.start - start : end.start - start + PATCH
        ]
        for line in (1, HEIGHT // 2, HEIGHT - 2):
            found = y[:, :, line : line + 1, end].double()
            torch.testing.assert_close(found, truth, rtol=2**-8, atol=2**-7)
