"""What a result was computed with."""

from __future__ import annotations

import platform

import numpy as np
import torch

import dynfilters


def versions(device: str) -> dict[str, str]:
    """The versions that a result depends on, and the backend of the op on `device`."""
    return {
        "dynfilters": dynfilters.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "backend": dynfilters.ops.backend(device),
    }
