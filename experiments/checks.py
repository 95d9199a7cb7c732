"""Checks of settings that jobs of sweeps and the training at scale have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from dynfilters.registry import UnknownNameError


class CheckError(ValueError):
    """The configuration cannot run, and no job has been started."""


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Raises `UnknownNameError` unless `name` is in `known`."""
    if name not in (known := list(known)):
        raise UnknownNameError(kind, name, known)


def check_device(name: str) -> torch.device:
    """Returns the device called `name`.

    `CheckError` if there is none: nothing falls back silently.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise CheckError(f"device: {name!r} is no device: {error}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CheckError(
            f"device: {name!r} was asked for, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices; use device=cpu, or check the driver"
        )
    if device.type not in ("cpu", "cuda"):
        raise CheckError(f"device: expected cpu or cuda, got {name!r}")
    return device


def check_seconds(name: str, value: Any) -> None:
    """Raises `ValueError` unless `value` is a finite number of at least 0."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise ValueError(f"{name}: expected a number of at least 0, got {value!r}")
