"""Checks of data types."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.autograd import gradcheck

from dynfilters.testing.report import NotApplicable
from dynfilters.testing.subject import Subject, check_finite, check_near, has_parameters

HALF = {"cpu": torch.bfloat16, "cuda": torch.float16}


def float64(subject: Subject) -> None:
    """The gradients of x and of all parameters are the slopes of finite differences."""
    layer = subject.make()
    names = list(dict(layer.named_parameters()))
    leaves = [subject.image(2, 3, 4), *(p.detach().clone() for p in layer.parameters())]

    def call(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), x)

    gradcheck(call, [leaf.requires_grad_() for leaf in leaves], fast_mode=True)


def _near_float64(subject: Subject, dtype: torch.dtype) -> None:
    layer, x = subject.make(dtype), subject.image(dtype=dtype)
    y = layer(x)
    assert y.dtype == dtype, f"y is {y.dtype}"
    check_near("y", y, copy.deepcopy(layer).double()(x.double()))
    if has_parameters(layer):
        y.float().sum().backward()
    for name, parameter in layer.named_parameters():
        check_finite(f"gradient of {name}", parameter.grad)
        assert parameter.grad.dtype == dtype, f"gradient of {name} is {parameter.grad.dtype}"


def float32(subject: Subject) -> None:
    """Within 1e-5 of float64, of the largest value; gradients finite."""
    _near_float64(subject, torch.float32)


def bfloat16(subject: Subject) -> None:
    """Within 0.05 of float64, of the largest value; y and gradients in bfloat16, finite."""
    _near_float64(subject, torch.bfloat16)


def float16(subject: Subject) -> None:
    """Within 0.01 of float64, of the largest value; y and gradients in float16, finite."""
    _near_float64(subject, torch.float16)


def autocast(subject: Subject) -> None:
    """y in the half type, near float64; gradients in float32; x may come in either."""
    half = HALF.get(subject.device.type)
    if half is None:
        raise NotApplicable(f"no autocast is known on {subject.device.type}")
    layer, x = subject.make(torch.float32), subject.image(dtype=torch.float32).requires_grad_()
    expected = copy.deepcopy(layer).double()(x.double())
    with torch.autocast(subject.device.type, half):
        outputs = layer(x), layer(x.to(half))
    for y in outputs:
        assert y.dtype == half, f"y is {y.dtype}"
        check_near("y", y, expected)
    outputs[0].float().square().sum().backward()
    for name, leaf in [("x", x), *layer.named_parameters()]:
        check_finite(f"gradient of {name}", leaf.grad)
        assert leaf.grad.dtype == torch.float32, f"gradient of {name} is {leaf.grad.dtype}"


def grad_scaler(subject: Subject) -> None:
    """Steps of `torch.amp.GradScaler` move all parameters and leave them finite, on noise; and on
    constant input with parameters of zero, where a normalization divides zero by zero."""
    half = HALF.get(subject.device.type)
    if half is None:
        raise NotApplicable(f"no autocast is known on {subject.device.type}")
    if not has_parameters(subject.make()):
        raise NotApplicable("it has no parameters")
    for constant in (False, True):
        layer, x = subject.make(torch.float32).train(), subject.image(dtype=torch.float32)
        if constant:
            x = torch.ones_like(x)
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        before = copy.deepcopy(layer)
        _scaled_step(layer, x, half)
        for (name, new), old in zip(layer.named_parameters(), before.parameters(), strict=True):
            check_finite(f"{name} after a step on constant input ({constant})", new)
            assert constant or not torch.equal(new, old), f"{name} was not moved"


def _scaled_step(layer: nn.Module, x: torch.Tensor, half: torch.dtype) -> None:
    kind = x.device.type
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(kind, init_scale=2.0**10)
    with torch.autocast(kind, half):
        y = layer(x)
    target = torch.linspace(-1, 1, y.numel(), device=x.device).view_as(y)
    scaler.scale((y.float() - target).square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() >= 2.0**10, "the step was left out: a gradient was not finite"
