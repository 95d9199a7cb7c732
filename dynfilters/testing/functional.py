"""Checks of `torch.func`, and of derivatives of higher order."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import gradgradcheck
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

from dynfilters.testing.subject import Subject, check_near, without_deprecations


def functional(subject: Subject) -> None:
    """`torch.func.functional_call` with another layer's parameters gives that layer's numbers, and
    leaves this one alone."""
    layer, other, x = subject.make(), subject.make(), subject.image()
    before = layer(x)
    y = functional_call(layer, other.state_dict(), (x,))
    check_near("y", y, other(x))
    assert torch.equal(layer(x), before), "the layer was changed"


def mapped(subject: Subject) -> None:
    """`torch.vmap` over a batch of x, and over the stacked parameters of an ensemble."""
    layers, images = [subject.make() for _ in range(3)], subject.image(6).unflatten(0, (2, 3))
    expected = torch.stack([layers[0](x) for x in images])
    check_near("mapped over x", vmap(layers[0])(images), expected)
    parameters, buffers = stack_module_state(layers)
    if not parameters:
        return

    def call(parameters, buffers, x):
        return functional_call(layers[0], (parameters, buffers), (x,))

    x = images[0]
    found = vmap(call, in_dims=(0, 0, None))(parameters, buffers, x)
    check_near("mapped over parameters", found, torch.stack([layer(x) for layer in layers]))


def gradients(subject: Subject) -> None:
    """`torch.func.grad`, and gradients of each sample by `vmap` of it, are autograd's."""
    layer, x = subject.make(), subject.image()

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(layer, parameters, (x,)).square().sum()

    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    slope = grad(loss, argnums=1)(parameters, x)
    check_near("gradient of x", slope, _autograd(layer, x, of_x=True)[0])
    each = vmap(grad(loss), in_dims=(None, 0))(parameters, x.unsqueeze(1))
    for i in range(len(x)):
        right = _autograd(layer, x[i : i + 1])
        for name, expected in zip(parameters, right, strict=True):
            check_near(f"gradient of {name} for sample {i}", each[name][i], expected)


def _autograd(layer: nn.Module, x: Tensor, of_x: bool = False) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    leaves = [leaf] if of_x else list(layer.parameters())
    return list(torch.autograd.grad(layer(leaf).square().sum(), leaves)) if leaves else []


def forward_mode(subject: Subject) -> None:
    """`torch.func.jvp` is the slope of finite differences along a direction."""
    layer, x, direction = subject.make(), subject.image(), subject.image()
    with without_deprecations():
        _, slope = jvp(layer, (x,), (direction,))
    step = 1e-6
    with torch.no_grad():
        difference = layer(x + step * direction) - layer(x - step * direction)
    check_near("slope", slope, difference / (2 * step), slack=1e4)


def double_backward(subject: Subject) -> None:
    """Gradients of gradients in x and all parameters are the slopes of finite differences."""
    layer = subject.make()
    names = list(dict(layer.named_parameters()))
    leaves = [subject.image(2, 3, 4), *(p.detach().clone() for p in layer.parameters())]

    def call(x, *parameters):
        return functional_call(layer, dict(zip(names, parameters, strict=True)), x).sin()

    gradgradcheck(call, [leaf.requires_grad_() for leaf in leaves], fast_mode=True, atol=1e-4)
