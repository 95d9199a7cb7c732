"""Depth-wise filters leave the activation to the op exactly where nobody can tell."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from functorch.compile import make_boxed_func
from test_filters import C, image, make
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

import dynfilters
from dynfilters.diagnostics import GradientProbe
from dynfilters.nn import DepthwiseFilter, FilterNorm, TapsBranch

DEPTHWISE = [n for n in dynfilters.list_filters() if isinstance(make(n), DepthwiseFilter)]
BY_TAPS = ["ddf", "ddf_spatial", "ddf_channel", "ddf_up", "involution", "carafe", "carafe_up"]
ACTIVATIONS = ["sigmoid", "softmax", "tanh", "filter_norm", "identity"]


class _Ops(TorchDispatchMode):
    """The names of the ops that ran to apply taps."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "dynfilters" and func._opname.startswith("filter2d"):
            self.seen.append(func._opname)
        return func(*args, **(kwargs or {}))


def _ops(layer: nn.Module, x: Tensor | None = None) -> list[str]:
    with _Ops() as ops:
        layer(image() if x is None else x)
    return ops.seen


@pytest.mark.parametrize("name", DEPTHWISE)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_is_the_two_halves(name: str, activation: str, dtype, device) -> None:
    layer = make(name, dtype, device, activation=activation).eval()
    x, guide = (image(dtype=dtype, device=device).requires_grad_() for _ in range(2))
    fuses = name in BY_TAPS and activation != "identity"
    if name != "dwconv":
        assert _ops(layer, x) == ["filter2d_activated" if fuses else "filter2d"]
    results = []
    for y in (layer(x, guide), layer.apply_taps(x, layer.generate(x, guide))):
        gy = torch.linspace(-1, 1, y.numel(), dtype=dtype, device=device).reshape(y.shape)
        leaves = [x, *layer.parameters()]
        results.append([y, *torch.autograd.grad(y, leaves, gy)])
    bound = 1e-9 if dtype == torch.float64 else 1e-3
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=bound, atol=bound)


def test_branches_of_their_own_activation(dtype, device) -> None:
    options = {"spatial_activation": "softmax", "channel_activation": "identity"}
    layer = make("ddf", dtype, device, **options)
    x = image(dtype=dtype, device=device)
    assert _ops(layer, x) == ["filter2d_activated"]
    torch.testing.assert_close(layer(x), layer.apply_taps(x, layer.generate(x)))


def _nothing(*args) -> None:
    pass


def _patch(module: nn.Module) -> None:
    forward = module.forward
    module.forward = lambda taps: forward(taps)


WATCHED = {
    "forward hook": lambda m: m.register_forward_hook(_nothing),
    "forward pre-hook": lambda m: m.register_forward_pre_hook(_nothing),
    "backward hook": lambda m: m.register_full_backward_hook(_nothing),
    "backward pre-hook": lambda m: m.register_full_backward_pre_hook(_nothing),
    "another forward": _patch,
}


@pytest.mark.parametrize("where", ["branch", "activation"])
@pytest.mark.parametrize("kind", ["spatial", "channel"])
@pytest.mark.parametrize("watch", WATCHED.values(), ids=WATCHED)
def test_who_is_watched_runs(watch, kind: str, where: str) -> None:
    layer = make("ddf")
    branch = layer.branches[kind]
    handle = watch(branch if where == "branch" else branch.activation)
    assert _ops(layer) == ["filter2d"]
    if handle is not None:
        handle.remove()
        assert _ops(layer) == ["filter2d_activated"]


def test_a_hook_on_all_modules_sees_all_of_them() -> None:
    layer, seen = make("ddf"), set()
    hook = torch.nn.modules.module.register_module_forward_hook(lambda m, *_: seen.add(m))
    try:
        assert _ops(layer) == ["filter2d"]
    finally:
        hook.remove()
    branches = list(layer.branches.values())
    assert seen >= {*branches, *(branch.activation for branch in branches)}


class _OwnHalf(dynfilters.DDF):
    def apply_taps(self, x: Tensor, taps) -> Tensor:
        return super().apply_taps(x, taps) + 1


class _OwnTaps(dynfilters.DDF):
    def generate(self, x: Tensor, guide: Tensor | None = None):
        taps = super().generate(x, guide)
        return taps._replace(spatial=taps.spatial * 2)


class _OwnBranch(TapsBranch):
    def __init__(self) -> None:
        super().__init__()
        self.activation = nn.Sigmoid()

    def raw(self, guide: Tensor) -> Tensor:
        return guide.mean(1, keepdim=True).unsqueeze(2).expand(-1, 1, 9, -1, -1)


class _OwnForward(_OwnBranch):
    def forward(self, guide: Tensor) -> Tensor:
        return super().forward(guide) * 3


class _OwnNorm(FilterNorm):
    def forward(self, taps: Tensor) -> Tensor:
        return super().forward(taps) + 1


def _with(kind: str, **changed: nn.Module) -> DepthwiseFilter:
    layer = make("ddf")
    for part, module in changed.items():
        setattr(layer.branches[kind], part, module.double())
    return layer


def _with_branch(branch: nn.Module) -> DepthwiseFilter:
    layer = DepthwiseFilter(C)
    layer.branches["spatial"] = branch
    return layer


UNFUSED = {
    "apply_taps of its own": lambda: _OwnHalf(C).double(),
    "generate of its own": lambda: _OwnTaps(C).double(),
    "forward of its branch's own": lambda: _with_branch(_OwnForward()),
    "a learned mean": lambda: _with("channel", activation=FilterNorm(C, 9, learned_mean=True)),
    "a spatial std": lambda: _with("spatial", activation=FilterNorm(1, 9, learned_std=True)),
    "another ε": lambda: _with("channel", activation=FilterNorm(C, 9, eps=1e-3)),
    "a kind of its own": lambda: _with("channel", activation=_OwnNorm(C, 9)),
    "softmax elsewhere": lambda: _with("channel", activation=nn.Softmax(1)),
    "an unknown one": lambda: _with("channel", activation=nn.ReLU()),
    "nothing at all": lambda: make("ddf", activation="identity"),
}


@pytest.mark.parametrize("made", UNFUSED.values(), ids=UNFUSED)
def test_what_the_op_does_not_know_stays_apart(made) -> None:
    layer, x = made(), image()
    assert _ops(layer, x) == ["filter2d"]
    torch.testing.assert_close(layer(x), layer.apply_taps(x, layer.generate(x)))


def test_a_branch_of_ones_own_is_fused() -> None:
    layer, x = _with_branch(_OwnBranch()), image()
    assert _ops(layer, x) == ["filter2d_activated"]
    torch.testing.assert_close(layer(x), layer.apply_taps(x, layer.generate(x)))


def test_half_of_a_layer_replaced_on_the_instance() -> None:
    layer, x = make("ddf"), image()
    taps = layer.generate(x)
    layer.generate = lambda x, guide=None: taps._replace(spatial=taps.spatial * 0)
    assert not layer(x).any()


def test_the_probe_sees_all_it_saw() -> None:
    """The same figures as of a layer that is never fused."""
    layer = make("ddf", activation="sigmoid")
    apart = copy.deepcopy(layer)
    apart.forward = lambda x: apart.apply_taps(x, apart.generate(x))
    x, figures = image(), []
    for model in (layer, apart):
        with GradientProbe(model) as probe:
            model(x).square().sum().backward()
            probe.step()
        figures.append({(r["branch"], r["quantity"]): r["value"] for r in probe.records()})
    assert figures[0] == pytest.approx(figures[1])
    quantities = ("taps_grad_norm", "transmission", "saturated")
    assert {(b, q) for b in ("spatial", "channel") for q in quantities} <= figures[0].keys()


def _saved(function) -> Counter[torch.Size]:
    shapes: Counter[torch.Size] = Counter()

    def pack(tensor: Tensor) -> Tensor:
        shapes[tensor.shape] += 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return shapes


@pytest.mark.parametrize("activation", ACTIVATIONS[:-1])
@pytest.mark.parametrize("name", BY_TAPS)
def test_x_and_raw_taps_are_saved_and_nothing_else(name: str, activation: str) -> None:
    layer, x = make(name, out_channels=None, activation=activation), image().requires_grad_()
    raw: list[Tensor] = []
    generator = _saved(lambda: raw.extend(layer.raw_taps(x).values()))
    expected = [x.shape, *(taps.shape for taps in raw)]
    expected += [std.shape for n, std in layer.named_parameters() if n.endswith("activation.std")]
    fused = _saved(lambda: layer(x))
    assert fused - generator == Counter(expected)
    apart = _saved(lambda: layer.apply_taps(x, layer.generate(x)))
    assert sum(s.numel() * n for s, n in fused.items()) < sum(
        s.numel() * n for s, n in apart.items()
    )


def test_autocast_rounds_behind_the_activation() -> None:
    """ddf_up's raw channel taps are float32 under autocast: rounding them first would lose."""
    layer, x = make("ddf_up", torch.float32), image().float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.branches["channel"].raw(x).dtype == torch.float32
        assert torch.equal(layer(x), layer.apply_taps(x, layer.generate(x)))
        assert _ops(make("ddf", torch.float32), x) == ["filter2d_activated"]


def test_a_compiled_layer_is_fused_forward_and_backward() -> None:
    torch._dynamo.reset()
    graphs: list[list[str]] = []

    def keep(graph: torch.fx.GraphModule, inputs):
        nodes = [str(node.target) for node in graph.graph.nodes]
        graphs.append([n.split(".")[1] for n in nodes if n.startswith("dynfilters.filter2d")])
        return make_boxed_func(graph.forward)

    layer, x = make("ddf", torch.float32), image().float()
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    torch.compile(layer, fullgraph=True, backend=backend)(x).sum().backward()
    assert graphs == [["filter2d_activated"], ["filter2d_activated_backward"]]


@pytest.mark.filterwarnings(
    "ignore:.*jit.trace:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
def test_copies_are_fused_and_traces_are_not() -> None:
    layer, x = make("ddf").eval(), image()
    expected = layer(x)
    assert _ops(copy.deepcopy(layer), x) == ["filter2d_activated"]
    torch.testing.assert_close(copy.deepcopy(layer)(x), expected)
    traced = torch.jit.trace(layer, (x,))
    assert "filter2d_activated" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x), expected)
