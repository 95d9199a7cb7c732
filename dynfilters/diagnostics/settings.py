"""What measuring a filter can be set to, by the names that commands and experiments use."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dynfilters.checks import FLOATING

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATING}
MEMORY_FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
PARTS = ("layer", "op")


def check_shape(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """`shape` if it is (B, C, H, W), all positive integers, else `ValueError`."""
    sizes = tuple(shape)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in sizes)
    if len(sizes) != 4 or not whole:
        raise ValueError(f"shape: expected positive (B, C, H, W), got {shape!r}")
    return sizes
