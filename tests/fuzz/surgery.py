"""Filters swapped into small networks of any build: done and undone, or refused and untouched."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from test_surgery import assert_untouched, snapshot
from torch import Tensor, nn

import dynfilters
from dynfilters.cost import count_parameters
from fuzz.layers import FILTERS
from fuzz.property import Property

SWAPPED = [name for name in FILTERS if not dynfilters.filter_info(name).upsamples]
CONV = {
    "kernel_size": (3, 3, 3, 1, 5, [1, 3], [3, 1], 2),
    "stride": (1, 1, 1, 2, [1, 2]),
    "padding": (1, 1, "kept", "kept", 0, "same", [0, 1]),
    "dilation": (1, 1, 1, 2, [1, 2]),
    "groups": (1, 1, 2, 4),
    "bias": (True, False),
    "padding_mode": ("zeros", "zeros", "zeros", "circular"),
}
SWAP = {
    "where": (None, None, "*", "0*", "*.1*", "nowhere"),
    "kernel_size": (None, None, 3, [3, 5], 2),
    "bias": (None, True, False),
    "sizes": (None, None, 3, 1),
    "groups": (2, 3),
    "activation": (None, "tanh", "none"),
}


class Residual(nn.Module):
    """x + f(x), or f(x) where it has another shape."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return x + y if x.shape == y.shape else y


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    drawn = {key: draw(st.sampled_from(values)) for key, values in CONV.items()}
    return {"kind": "conv", "out": draw(st.sampled_from((8, 8, 4, 12))), **drawn}


# A list is a sequence, a number the same module once more.
leaves = st.one_of(
    convolutions(),
    convolutions(),
    st.sampled_from([{"kind": "hooked"}, {"kind": "norm"}, {"kind": "relu"}, {"kind": "hooked"}]),
    st.builds(lambda n: {"kind": "filter", "name": n}, st.sampled_from(SWAPPED)),
    st.integers(0, 5),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.builds(lambda tree: {"kind": "residual", "inner": tree}, inner),
    ),
    max_leaves=5,
)


@st.composite
def swaps(draw: st.DrawFn) -> dict[str, Any]:
    given = [key for key in SWAP if draw(st.sampled_from((False, False, True)))]
    return {
        "tree": draw(st.lists(trees, min_size=1, max_size=3)),
        "filter": draw(st.sampled_from(SWAPPED)),
        "options": {key: draw(st.sampled_from(SWAP[key])) for key in given},
        "channels": draw(st.sampled_from((8, 4, 3))),
        "training": draw(st.booleans()),
    }


class Builder:
    """A tree as modules; `made` are those that a number may name again."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.made: list[tuple[int, nn.Module, int]] = []

    def build(self, tree: Any) -> nn.Module:
        if isinstance(tree, list):
            return nn.Sequential(*(self.build(one) for one in tree))
        before = self.channels
        if isinstance(tree, int):
            fits = [(m, out) for width, m, out in self.made if width == before]
            module, self.channels = fits[tree % len(fits)] if fits else (nn.Identity(), before)
            return module
        module = getattr(self, f"_{tree['kind']}")(tree)
        self.made.append((before, module, self.channels))
        return module

    def _conv(self, tree: dict) -> nn.Module:
        given = {key: _tuple(tree[key]) for key in CONV}
        kernel, dilation = (
            value if isinstance(value, tuple) else (value, value)
            for value in (given["kernel_size"], given["dilation"])
        )
        if given["padding"] == "kept":
            given["padding"] = tuple(d * (k // 2) for k, d in zip(kernel, dilation, strict=True))
        if self.channels % given["groups"]:
            given["groups"] = 1
        if given["padding"] == "same":
            given["stride"] = 1
            if 2 in kernel:  # at which PyTorch warns
                given["padding"] = 0
        before, self.channels = self.channels, tree["out"]
        return nn.Conv2d(before, tree["out"], **given)

    def _relu(self, tree: dict) -> nn.Module:
        return nn.ReLU()

    def _norm(self, tree: dict) -> nn.Module:
        return nn.BatchNorm2d(self.channels)

    def _hooked(self, tree: dict) -> nn.Module:
        module = nn.Conv2d(self.channels, self.channels, 3, padding=1)
        module.register_forward_hook(lambda *_: None)
        return module

    def _filter(self, tree: dict) -> nn.Module:
        options = {"involution": {"group_channels": 1}, "weightnet": {"g": 1}}.get(tree["name"], {})
        return dynfilters.create_filter(tree["name"], self.channels, **options)

    def _residual(self, tree: dict) -> nn.Module:
        return Residual(self.build(tree["inner"]))


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def attempt(model: nn.Module, case: dict, dry_run: bool) -> Any:
    """The replacements, or the message of the refusal, which must leave the model as it was."""
    before = snapshot(model)
    options = {key: _tuple(value) for key, value in case["options"].items()}
    try:
        return dynfilters.swap_filters(model, case["filter"], dry_run=dry_run, **options)
    except TypeError as error:
        assert "has no option" in str(error)
        refusal = error
    except ValueError as error:
        refusal = error
    assert_untouched(model, before)
    assert any(word in str(refusal) for word in ("model:", "where:", *options)), str(refusal)
    return f"{type(refusal).__name__}: {refusal}"


def run(model: nn.Module, x: Tensor) -> Tensor | None:
    """y; None if the network cannot take such images, as one that shrinks them away."""
    try:
        return model.eval()(x)
    except RuntimeError:
        return None


def check_swap(case: dict) -> None:
    """A dry run tells the same; shapes and counts are right; undone, y is the same bit for bit."""
    torch.manual_seed(0)
    model = Builder(case["channels"]).build(case["tree"])
    x, before = torch.randn(2, case["channels"], 9, 8), snapshot(model)
    y = run(model, x)
    model.train(case["training"])
    told = attempt(model, case, dry_run=True)
    assert_untouched(model, before)
    done = attempt(model, case, dry_run=False)
    assert str(told) == str(done)
    if isinstance(done, str):
        return
    assert not any(old._forward_hooks for _, old, _ in done), "a hook was lost"
    assert done and done.params_after == count_parameters(model)
    assert all(model.get_submodule(path) is new for path, _, new in done)
    assert all(module.training == case["training"] for module in model.modules())
    if y is not None:
        assert model.eval()(x).shape == y.shape
    done.undo()
    assert_untouched(model, before)
    assert done.params_before == count_parameters(model)
    again = run(model, x)
    assert (y is None) == (again is None)
    assert y is None or torch.equal(y, again)


SURGERY = Property("surgery", dict, swaps(), check_swap, 150, 0.5)
