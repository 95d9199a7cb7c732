"""All checks of a filter, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from dynfilters.checks import check_choice
from dynfilters.filters import filter_info
from dynfilters.testing import (
    copies,
    dispatch,
    distributed,
    functional,
    graphs,
    numbers,
    shapes,
)
from dynfilters.testing.report import NotApplicable, Report, Result
from dynfilters.testing.subject import Subject

# What each verifies is the docstring of its function.
CAPABILITIES: dict[str, Callable[[Subject], None]] = {
    "float64": numbers.float64,
    "float32": numbers.float32,
    "bfloat16": numbers.bfloat16,
    "float16": numbers.float16,
    "autocast": numbers.autocast,
    "GradScaler": numbers.grad_scaler,
    "channels_last": shapes.channels_last,
    "batch 1": shapes.batch_1,
    "odd grids": shapes.odd_grids,
    "rectangular kernels": shapes.rectangular,
    "meta device": shapes.meta,
    "copies": copies.copies,
    "configuration": copies.config,
    "torch.compile": graphs.compiled,
    "Inductor": graphs.inductor,
    "torch.export": graphs.export,
    "torch.fx": graphs.fx,
    "functional_call": functional.functional,
    "vmap": functional.mapped,
    "func.grad": functional.gradients,
    "func.jvp": functional.forward_mode,
    "double backward": functional.double_backward,
    "opcheck": dispatch.opcheck,
    "FLOP counts": dispatch.flops,
    "DDP": distributed.ddp,
}


def check_filter(
    filter: str | Callable[..., nn.Module],
    *,
    options: Mapping[str, Any] | None = None,
    capabilities: Iterable[str] | None = None,
    device: str | torch.device = "cpu",
    in_channels: int = 16,
    raises: bool = True,
) -> Report:
    """Tries on a filter all that PyTorch offers to a layer, each by its numbers.

    Args:
        filter: a registered name; or a class or function that makes layers (B, C_in, H, W) →
            (B, C_out, H', W') from `in_channels`.
        options: for the filter, beside `in_channels`.
        capabilities: which to check; None for all of `CAPABILITIES`.
        device: where.
        in_channels: the channels of x.
        raises: False only reports.

    Returns:
        A report, to be printed, with a result for each: ok; failed, and why; or not applicable,
        and why. The state of the random numbers is what it was.

    Raises:
        AssertionError: lists all that failed.
        ValueError: no such capability, or neither a name nor a factory.
        UnknownNameError: no filter of that name.
    """
    subject = make_subject(filter, options, device, in_channels)
    chosen = list(CAPABILITIES if capabilities is None else capabilities)
    for capability in chosen:
        check_choice("capabilities", capability, tuple(CAPABILITIES))
    report = Report(subject.name, tuple(check(subject, capability) for capability in chosen))
    if raises:
        report.raise_if_failed()
    return report


def make_subject(
    filter: str | Callable[..., nn.Module],
    options: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    in_channels: int = 16,
) -> Subject:
    """The filter under test; arguments as `check_filter` takes them."""
    given = dict(options or {}), torch.device(device), in_channels
    if isinstance(filter, str):
        return Subject(filter_info(filter).name, None, *given)
    if not callable(filter):
        raise ValueError(f"filter: expected a name or a factory of layers, got {filter!r}")
    return Subject(getattr(filter, "__name__", type(filter).__name__), filter, *given)


def check(subject: Subject, capability: str) -> Result:
    """One capability, from the same random numbers each time."""
    devices = [] if subject.device.type == "cpu" else [subject.device]
    with torch.random.fork_rng(devices, device_type=subject.device.type):
        torch.manual_seed(0)
        try:
            CAPABILITIES[capability](subject)
        except NotApplicable as why:
            return Result(capability, "not applicable", str(why))
        except Exception as error:  # whatever it is, it belongs into the report
            return Result(capability, "failed", _described(error))
    return Result(capability, "ok")


def _described(error: Exception) -> str:
    """The first two lines of its message, behind its type unless a check said it."""
    message = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
    if type(error) is AssertionError and message:
        return message
    return f"{type(error).__name__}: {message}"


def summary(capability: str) -> str:
    """Returns a sentence on what a capability verifies."""
    text = " ".join((CAPABILITIES[capability].__doc__ or "").split())
    return text.removesuffix(".")
