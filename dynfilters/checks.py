"""Checks of arguments, so that bad input is named where it enters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_positive(value: object) -> bool:
    """Returns whether `value` is an integer of at least 1."""
    return _is_integer(value) and value >= 1


def check_positive(name: str, value: int) -> int:
    """`value` if it is an integer of at least 1, else `ValueError`."""
    if not is_positive(value):
        raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
    return value


def check_kernel_size(kernel_size: int | Sequence[int]) -> tuple[int, int]:
    """`kernel_size` as (kh, kw), both odd: an even kernel has no centre."""
    if isinstance(kernel_size, (int, float)):  # at once: to ask for a sequence takes long
        pair = kernel_size, kernel_size
    else:
        pair = tuple(kernel_size) if isinstance(kernel_size, Sequence) else (kernel_size,) * 2
    if len(pair) != 2 or not (_is_integer(pair[0]) and _is_integer(pair[1])):
        raise ValueError(f"kernel_size: expected an odd integer or a pair, got {kernel_size!r}")
    if min(pair) < 1 or pair[0] % 2 == 0 or pair[1] % 2 == 0:
        raise ValueError(f"kernel_size: expected odd and positive, got {kernel_size!r}")
    return pair


def check_odd(name: str, value: int) -> int:
    """`value` if it is an odd integer of at least 1, else `ValueError`."""
    if check_positive(name, value) % 2 == 0:
        raise ValueError(f"{name}: expected odd and positive, got {value!r}")
    return value


def check_divides(name: str, divisor: int, of: str, value: int) -> int:
    """`divisor` if it is positive and divides `value`, which the message calls `of`."""
    check_positive(name, divisor)
    if value % divisor:
        raise ValueError(f"{name}: expected a divisor of {of}={value}, got {divisor}")
    return divisor


def check_flag(name: str, value: object) -> bool:
    """`value` if it is True or False, else `ValueError`: "false" would be true."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, got {value!r}")
    return value


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """`ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {list(choices)}, got {value!r}")


def check_tensor(name: str, value: object) -> None:
    """`ValueError` unless `value` is a tensor of one of the `FLOATING` dtypes."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: expected a tensor, got {type(value).__name__}")
    if value.dtype not in FLOATING:
        raise ValueError(f"{name}: expected a floating-point tensor, got {value.dtype}")


def is_autocast(tensor: Tensor) -> bool:
    """Returns whether `torch.autocast` is on for the device of `tensor`."""
    kind = tensor.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def to_autocast_dtype(*tensors: Tensor | None) -> list[Tensor | None]:
    """Returns the tensors in the dtype of autocast, which leaves float64 alone."""
    wide = torch.float64
    return [
        t.to(torch.get_autocast_dtype(t.device.type)) if t is not None and t.dtype != wide else t
        for t in tensors
    ]


def check_like(name: str, tensor: Tensor, of: str, other: Tensor) -> None:
    """`ValueError` unless `tensor` has the device and the dtype of `other`, called `of`.

    Under autocast, which brings all dtypes but float64 to one, only float64 differs.
    """
    if tensor.dtype == other.dtype and tensor.device == other.device:  # at once, and most often
        return
    if tensor.device != other.device:
        raise ValueError(
            f"{name}: expected the device of {of}, {other.device}, got {tensor.device}"
        )
    floating = is_autocast(tensor) and tensor.dtype in FLOATING
    if not floating or (tensor.dtype == torch.float64) != (other.dtype == torch.float64):
        raise ValueError(f"{name}: expected the dtype of {of}, {other.dtype}, got {tensor.dtype}")


def check_share(name: str, value: float) -> float:
    """`value` if it is a number of at least 0 and below 1, else `ValueError`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < 1:
        raise ValueError(f"{name}: expected a number of at least 0 and below 1, got {value!r}")
    return value


def same_shape(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Returns whether two shapes are equal, `torch.Size` or not."""
    return tuple(shape) == tuple(other)
