"""Generated filters, as tensors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Taps(NamedTuple):
    """What a filter's branches generated, each a tensor or None.

    | field | shape | applied by |
    | --- | --- | --- |
    | spatial | (B, G, K, H_out, W_out) | `ops.filter2d` |
    | channel | (B, C, K) or (B, C, K, scale²) | `ops.filter2d` |
    | weight | (B, C_out, C_in/groups, kh, kw) | `ops.conv2d_per_sample` |
    | bias | (B, C_out) | added to the output |

    K = kh·kw, row-major. The tap axis of spatial and channel is axis 2.
    """

    spatial: Tensor | None = None
    channel: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
