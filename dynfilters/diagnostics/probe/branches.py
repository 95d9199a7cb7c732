"""Hooks of the gradient probe: statistics of what passes one branch, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dynfilters.diagnostics.probe import statistics
from dynfilters.diagnostics.probe.statistics import DeviceAccumulator, add_in_place
from dynfilters.nn import DynamicFilter, ExpertsBranch, FilterNorm, TapsBranch
from dynfilters.nn.fusion import is_not_overridden

_GRADIENTS = ("taps", "before", "after")
# quantity → kind of its total (see `DeviceAccumulator`), and whether it is the root of the mean
_MEASURES = {
    "before_rms": ("squares", True),
    "after_rms": ("squares", True),
    "saturated": ("sum", False),
    "routing_entropy": ("sum", False),
    "taps_variance_samples": ("squares", False),
    "taps_variance_positions": ("squares", False),
}
_INVERSE = "largest_inverse_std"  # of raw taps
# Where a model that `torch.compile` has wrapped has its own modules.
_COMPILED = "_orig_mod"


def find_branches(model: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """Yields (layer, branch name, branch) of every `DynamicFilter` in `model`, in its order.

    layer is the filter's path in the model, "" for the model itself. A filter that occurs several
    times comes once, under its first path.
    """
    for path, module in named_layers(model):
        if isinstance(module, DynamicFilter):
            for name, branch in module.branches.items():
                yield path, name, branch


def named_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields `model.named_modules()` under their paths without `torch.compile`."""
    for path, module in model.named_modules():
        yield ".".join(part for part in path.split(".") if part != _COMPILED), module


class BranchWatch:
    """Accumulates statistics of what passes one branch, from one `clear` to the next.

    - "taps": norms of the gradient in what the branch returns (the first of a tuple);
    - "before", "after": norms of the gradient on either side of its `activation`;
    - all others: results of `statistics`, each weighted by its number of values.

    Several forwards (gradient accumulation, a layer used twice) thus count as one long tensor;
    only variances are the mean over the forwards. Forwards under `torch.no_grad` (validation) do
    not count. Only scalars are kept, never a tensor of the network.
    """

    def __init__(self, kind: str, branch: nn.Module) -> None:
        self.kind, self.branch = kind, branch
        self.active = False
        # Nothing comes between the activation and the taps.
        self._ends_in_activation = isinstance(branch, TapsBranch) and is_not_overridden(
            branch, TapsBranch.forward
        )
        parameter = next(branch.parameters(), None)
        kinds = dict.fromkeys(_GRADIENTS, "squares") | {_INVERSE: "largest"}
        kinds |= {name: how for name, (how, _) in _MEASURES.items()}
        self.accumulator = DeviceAccumulator(
            kinds, torch.device("cpu") if parameter is None else parameter.device
        )

    def attach(self) -> list[RemovableHandle]:
        """Hooks the branch and its activation; the handles take the hooks off again."""
        handles = [self.branch.register_forward_hook(_Hook(self, self._on_taps))]
        activation = getattr(self.branch, "activation", None)
        if isinstance(activation, nn.Module):
            # The input is hooked before the activation runs: it may work in place.
            before, after = (_Hook(self, call) for call in (self._before, self._after))
            handles.append(activation.register_forward_pre_hook(before))
            handles.append(activation.register_forward_hook(after))
        return handles

    def clear(self) -> None:
        """Starts again from nothing."""
        self.accumulator.clear()

    def quantities(
        self, values: Sequence[float], pending: Sequence[float], grad_scale: float
    ) -> dict[str, float]:
        """Returns the probe's quantities that are defined, from the accumulator's values."""
        read = self.accumulator.read(values, pending)
        gradients = {name: math.sqrt(read[name][0]) for name in _GRADIENTS if name in read}
        if self._ends_in_activation and "after" in gradients:
            gradients["taps"] = gradients["after"]
        found = {}
        if "taps" in gradients:
            found["taps_grad_norm"] = gradients["taps"] / grad_scale
        if gradients.get("after") and "before" in gradients:
            found["transmission"] = gradients["before"] / gradients["after"]
        for name, (_, rooted) in _MEASURES.items():
            if name in read:
                mean = read[name][0] / read[name][1]
                found[name] = math.sqrt(mean) if rooted else mean
        if _INVERSE in read:
            largest, _ = read[_INVERSE]
            found["denominator_min"] = 1 / largest if largest else math.inf
        return found

    def _on_taps(self, module: nn.Module, args: tuple, output: Any) -> Any:
        taps, *others = output if isinstance(output, tuple) else (output,)
        if torch.is_grad_enabled():
            values = taps.detach()
            if len(values) > 1:
                self.accumulator.add(
                    "taps_variance_samples", statistics.deviation_norm(values, 0), values.numel()
                )
            if self.kind == "spatial" and values.dim() == 5:
                over_grid = statistics.deviation_norm(values, (3, 4))
                self.accumulator.add("taps_variance_positions", over_grid, values.numel())
        watched = None if self._ends_in_activation else self._watch("taps", taps)
        if watched is None:
            return None
        return (watched, *others) if isinstance(output, tuple) else watched

    def _before(self, module: nn.Module, args: tuple) -> tuple | None:
        if not args:
            return None
        if torch.is_grad_enabled():
            raw = args[0].detach()
            self.accumulator.add("before_rms", statistics.norm(raw), raw.numel())
            if isinstance(module, FilterNorm):
                self.accumulator.add(_INVERSE, statistics.largest_inverse_std(raw))
        watched = self._watch("before", args[0])
        return None if watched is None else (watched, *args[1:])

    def _after(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        if torch.is_grad_enabled():
            values = output.detach()
            self.accumulator.add("after_rms", statistics.norm(values), values.numel())
            if isinstance(module, nn.Sigmoid):
                self.accumulator.add(
                    "saturated", statistics.saturated_count(values), values.numel()
                )
            if isinstance(self.branch, ExpertsBranch) and values.shape[2] > 1:
                self.accumulator.add("routing_entropy", statistics.entropy(values), len(values))
        return self._watch("after", output)

    def _watch(self, name: str, tensor: Tensor) -> Tensor | None:
        """Adds the norm of the gradient of `tensor` once backward has computed it.

        In a compiled graph that takes an operation of its own, whose result goes on in the
        tensor's place; else a hook does it, and nothing is returned.
        """
        if not tensor.requires_grad:
            return None
        if torch.compiler.is_compiling():
            return _AddGradNorm.apply(tensor, self.accumulator.values, *self.accumulator.slot(name))
        tensor.register_hook(lambda gradient: self._on_gradient(name, gradient))
        return None

    def _on_gradient(self, name: str, gradient: Tensor) -> None:
        if self.active:  # not a backward pass that comes after its step
            self.accumulator.add(name, statistics.norm(gradient.detach()))


class _Hook:
    """A hook that is asleep while its watch is not active: layers then fuse as if without it."""

    def __init__(self, watch: BranchWatch, call: Callable) -> None:
        self.watch, self.call = watch, call

    @property
    def asleep(self) -> bool:
        return not self.watch.active

    def __call__(self, *args: Any) -> Any:
        return self.call(*args) if self.watch.active else None


class _AddGradNorm(torch.autograd.Function):
    """The identity; backward adds the norm of the gradient to an accumulator's values."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, values: Tensor, index: int, kind: str) -> Tensor:
        ctx.values, ctx.slot = values, (index, kind)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        add_in_place(ctx.values, *ctx.slot, statistics.norm(gradient.detach()))
        return gradient, None, None, None
