"""Checks of layouts and sizes."""

from __future__ import annotations

import copy

import torch

from dynfilters.testing.report import NotApplicable
from dynfilters.testing.subject import Subject, check_all_near, check_finite, check_near


def channels_last(subject: Subject) -> None:
    """channels_last in gives channels_last out, with the same numbers and the same gradients."""
    layer, x = subject.make(), subject.image()
    twin = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    results = []
    for model, stored in ((layer, x), (twin, x.to(memory_format=torch.channels_last))):
        leaf = stored.detach().requires_grad_()
        y = model(leaf)
        leaves = [leaf, *model.parameters()]
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves, allow_unused=True)])
    assert results[1][0].is_contiguous(memory_format=torch.channels_last), (
        f"y is not channels_last: strides {results[1][0].stride()} of {tuple(y.shape)}"
    )
    check_all_near("result", results[1], results[0])


def batch_1(subject: Subject) -> None:
    """In evaluation mode a sample alone gives what it gives among others."""
    layer, x = subject.make(), subject.image()
    together = layer(x)
    for i in range(len(x)):
        check_near(f"sample {i}", layer(x[i : i + 1]), together[i : i + 1])


def odd_grids(subject: Subject) -> None:
    """Any grid, from a single pixel on, has y finite on a grid as large, or a multiple of it."""
    layer = subject.make()
    _, _, height, width = layer(subject.image(2, 6, 8)).shape
    for h, w in ((1, 1), (1, 4), (7, 1), (7, 5), (3, 8)):
        y = layer(subject.image(2, h, w))
        check_finite(f"y of {h}×{w}", y)
        expected = _scaled(h, height, 6), _scaled(w, width, 8)
        assert tuple(y.shape[2:]) == expected, f"{h}×{w} gave {tuple(y.shape[2:])}, not {expected}"


def _scaled(size: int, measured: int, of: int) -> int:
    """Returns the expected size of an axis, where the filter made `measured` of `of`."""
    return size * (measured // of) if measured >= of else -(-size * measured // of)


def rectangular(subject: Subject) -> None:
    """A kernel of 3×5 or 5×1 keeps the grid of the square one, and y at a position sees just that
    rectangle of x, for given taps."""
    x = subject.image()
    square = subject.make(kernel_size=3)(x)
    for size in ((3, 5), (5, 1)):
        layer = subject.make(kernel_size=size)
        y = layer(x)
        assert y.shape == square.shape, f"kernel {size} gave {tuple(y.shape)}"
        if not hasattr(layer, "generate") or not hasattr(layer, "apply_taps"):
            raise NotApplicable("without generate and apply_taps its reach cannot be told")
        reach = _reach(layer, subject.image(1, 9, 11))
        assert reach == size, f"kernel {size} reaches {reach}"


def _reach(layer: torch.nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """Height and width of what the middle of y sees of x."""
    leaf = x.clone().requires_grad_()
    y = layer.apply_taps(leaf, layer.generate(x))
    (slope,) = torch.autograd.grad(y[:, :, y.shape[2] // 2, y.shape[3] // 2].sum(), leaf)
    rows, columns = slope.abs().sum((0, 1)).nonzero().T
    return int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


def meta(subject: Subject) -> None:
    """Made on the meta device it has shapes without data, and comes to life with loaded weights."""
    with torch.device("meta"):
        layer = subject.build()
    assert all(p.is_meta for p in layer.parameters()), "a parameter is not on the meta device"
    real, x = subject.make(torch.float32), subject.image(dtype=torch.float32)
    hollow = layer(torch.empty(x.shape, device="meta"))
    assert hollow.shape == real(x).shape, f"y has {tuple(hollow.shape)} on the meta device"
    layer = layer.to_empty(device=subject.device)
    layer.load_state_dict(real.state_dict())
    assert torch.equal(layer.eval()(x), real(x)), "loaded weights give other numbers"
