"""Whether `torch.func` or forward-mode differentiation looks at an op.

Neither can look into ops whose gradient was registered with the dispatcher: `torch.func.grad` fails
on them, `torch.func.jvp` takes their derivative for zero, and `torch.vmap` calls them once for
each sample. There the ops are computed by their formulas in operations of PyTorch, which all of
these transform, in any order, for K times the memory.
"""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def are_active() -> bool:
    """Whether to compute by the formula: inside a transform or a `forward_ad.dual_level`."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
