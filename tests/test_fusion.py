"""Depth-wise filters leave the activation to the op where the result is the same and unobserved."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections import Counter

import pytest
import torch
from dispatched import DispatchedOps
from functorch.compile import make_boxed_func
from test_filters import C, image, make
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

import dynfilters
from benchmarks.overhead import count_calls
from dynfilters.diagnostics import GradientProbe
from dynfilters.nn import DepthwiseFilter, FilterNorm, TapsBranch

DEPTHWISE = [n for n in dynfilters.list_filters() if isinstance(make(n), DepthwiseFilter)]
BY_TAPS = ["ddf", "ddf_spatial", "ddf_channel", "ddf_up", "involution", "carafe", "carafe_up"]
ACTIVATIONS = ["sigmoid", "softmax", "tanh", "filter_norm", "identity"]


def _ops(layer: nn.Module, x: Tensor | None = None) -> list[str]:
    """Returns the names of the ops that ran to apply taps."""
    with DispatchedOps() as ops:
        layer(image() if x is None else x)
    return [name for name in ops.names if name.startswith("filter2d")]


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
    generator = _saved(lambda: raw.extend(layer.logits(x).values()))
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


@pytest.mark.full
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


class _Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def _double(name: str, parameter: str):
    """Parametrizes a parameter of one of the layer's modules."""
    return lambda m: nn.utils.parametrize.register_parametrization(
        m.get_submodule(name), parameter, _Doubled()
    )


def _renew(name: str, parameter: str):
    """Puts another parameter in the place of one."""

    def change(layer: nn.Module) -> None:
        module = layer.get_submodule(name)
        setattr(module, parameter, nn.Parameter(2 * getattr(module, parameter).detach()))

    return change


def _plain(name: str, parameter: str):
    """Puts a plain tensor in the place of a parameter, as weight_norm of old does."""

    def change(layer: nn.Module) -> None:
        module = layer.get_submodule(name)
        value = 2 * getattr(module, parameter).detach()
        delattr(module, parameter)
        setattr(module, parameter, value)

    return change


def _set(name: str, attribute: str, value):
    return lambda m: setattr(m.get_submodule(name), attribute, value)


CONV, SQUEEZE, SPATIAL, CHANNEL = (
    "branches.spatial.conv",
    "branches.channel.squeeze",
    "branches.spatial.activation",
    "branches.channel.activation",
)
CHANGES = {
    "ε": lambda m: [setattr(m.branches[k].activation, "eps", 0.1) for k in ("spatial", "channel")],
    "one ε": _set(SPATIAL, "eps", 0.1),
    "gain": _set(SPATIAL, "scale", 3.0),
    "another std": _renew(CHANNEL, "std"),
    "std as a tensor": _plain(CHANNEL, "std"),
    "no std": _set(CHANNEL, "std", None),
    "a std": lambda m: setattr(
        m.get_submodule(SPATIAL), "std", nn.Parameter(torch.ones(1, 9).double())
    ),
    "a mean": lambda m: setattr(
        m.get_submodule(CHANNEL), "mean", nn.Parameter(torch.ones(C, 9).double())
    ),
    "a parametrized std": _double(CHANNEL, "std"),
    "another activation": _set("branches.spatial", "activation", nn.Sigmoid()),
    "an unknown activation": _set("branches.channel", "activation", nn.ReLU()),
    "combine": _set("", "combine", "add"),
    "dilation": _set("", "dilation", 2),
    "another weight": _renew(CONV, "weight"),
    "another bias": _renew(SQUEEZE, "bias"),
    "no bias": _set(CONV, "bias", None),
    "a weight as a tensor": _plain(CONV, "weight"),
    "a bias as a tensor": _plain(SQUEEZE, "bias"),
    "a parametrized weight": _double(CONV, "weight"),
    "a parametrized squeeze": _double(SQUEEZE, "weight"),
    "old spectral norm": lambda m: nn.utils.spectral_norm(m.get_submodule(CONV)),
    "another convolution": _set("branches.spatial", "conv", nn.Conv2d(C, 9, 1).double()),
    "another branch": lambda m: m.branches.update({"spatial": make("ddf").branches["spatial"]}),
    "projection": _set("", "project", nn.Conv2d(C, 2, 1).double()),
    "generate": lambda m: setattr(
        m, "generate", lambda x, guide=None: type(m).generate(m, 2 * x, guide)
    ),
    "check of x": lambda m: setattr(
        m, "guides", lambda x, guide=None: dict.fromkeys(m.branches, -x)
    ),
    "raw": lambda m: setattr(
        m.branches["spatial"],
        "raw",
        lambda g: torch.ones(*g.shape[:1], 1, 9, *g.shape[2:]).double(),
    ),
    "forward": lambda m: _patch(m.branches["channel"]),
    "training": lambda m: m.train(),
    "dtype": lambda m: m.double(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_answer_that_was_kept_is_dropped_with_what_it_depends_on(change) -> None:
    """After a change a layer gives what its halves give, and what a copy does that kept nothing."""
    layer, x = make("ddf").eval(), image()
    for _ in range(2):
        layer(x)
    assert layer._fusion is not None
    change(layer)
    for _ in range(2):
        found = layer(x)
        torch.testing.assert_close(found, layer.apply_taps(x, layer.generate(x)))


def test_an_answer_that_was_kept_is_not_copied_nor_kept_alive() -> None:
    layer, x = make("ddf"), image()
    layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin._fusion is None
        torch.testing.assert_close(twin(x), layer(x))
    shallow = copy.copy(layer)
    shallow._modules = {**layer._modules, "branches": copy.deepcopy(layer.branches)}
    with torch.no_grad():
        shallow.branches["spatial"].conv.weight.mul_(2)
    torch.testing.assert_close(shallow(x), shallow.apply_taps(x, shallow.generate(x)))
    gone = weakref.ref(make("ddf"))
    assert gone() is None
    layer = make("ddf")
    layer(x)
    gone = weakref.ref(layer)
    del layer
    assert gone() is None  # by its count, without the collector


def test_an_answer_is_not_used_inside_transforms_and_autocast() -> None:
    layer, x = make("ddf", torch.float32).eval(), image().float()
    expected = layer(x)
    torch.testing.assert_close(torch.func.vmap(lambda one: layer(one[None])[0])(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    halved = {name: p.detach() / 2 for name, p in layer.named_parameters()}
    found = torch.func.functional_call(layer, halved, (x,))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.div_(2)
    torch.testing.assert_close(found, layer(x))


def test_hooks_of_the_layer_itself_leave_the_answer() -> None:
    layer, x, seen = make("ddf"), image(), []
    layer.register_forward_hook(lambda *_: seen.append(1))
    for _ in range(2):
        layer(x)
    assert len(seen) == 2 and layer._fusion is not None


def test_a_forward_of_ddf_calls_few_python_functions() -> None:
    layer, x = make("ddf", torch.float32), image().float()
    layer(x)
    assert count_calls(lambda: layer(x)) <= 100
