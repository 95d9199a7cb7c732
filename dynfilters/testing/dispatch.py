"""Checks of what PyTorch's dispatcher sees: custom ops, and their operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dynfilters.testing.flops import closed_form, convolution_backward
from dynfilters.testing.report import NotApplicable
from dynfilters.testing.subject import Subject


class _Recorder(TorchDispatchMode):
    """The calls of ops that PyTorch itself does not have, once each."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[Any, tuple] = {}

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if op.namespace not in ("aten", "prim", "prims") and op not in self.calls:
            copied = [a.detach().clone() if isinstance(a, Tensor) else a for a in args]
            self.calls[op] = tuple(copied), kwargs
        return op(*args, **kwargs)


def opcheck(subject: Subject) -> None:
    """`torch.library.opcheck` of each custom op under the layer, with the tensors that it gets."""
    layer, x = subject.make(), subject.image().requires_grad_()
    with _Recorder() as recorder:
        layer(x).square().sum().backward()
    if not recorder.calls:
        raise NotApplicable("it is made of PyTorch's own operations")
    for op, (args, kwargs) in recorder.calls.items():
        if not op.name().endswith("_backward"):  # checked as it is called: for numbers
            args = [a.requires_grad_() if isinstance(a, Tensor) else a for a in args]
        torch.library.opcheck(op, tuple(args), kwargs)


def flops(subject: Subject) -> None:
    """`FlopCounterMode` counts the operations of a closed form, forward and backward, once it
    counts the backward of grouped convolutions right."""
    form = closed_form(subject.name) if subject.factory is None else None
    if form is None:
        raise NotApplicable("no closed form of its operations is known here")
    layer, x = subject.make(), subject.image().requires_grad_()
    with FlopCounterMode(display=False) as forward:
        y = layer(x)
    corrected = {torch.ops.aten.convolution_backward: convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=corrected) as backward:
        y.sum().backward()
    expected = form(tuple(x.shape), tuple(y.shape), layer.filter_config)
    found = forward.get_total_flops(), backward.get_total_flops()
    assert found == expected, f"(forward, backward) are {found}, not {expected}"
