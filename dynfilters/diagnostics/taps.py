"""The part of the probe that hooks: what one branch does to the gradient in its taps."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dynfilters.nn import DynamicFilter

SATURATION_MARGIN = 0.05


def find_branches(model: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """(layer, branch name, branch) of every `DynamicFilter` in `model`, in the model's order.

    layer is the filter's path in the model, "" for the model itself. A filter that stands at
    several places comes once, under its first path.
    """
    for path, module in model.named_modules():
        if isinstance(module, DynamicFilter):
            for name, branch in module.branches.items():
                yield path, name, branch


class BranchWatch:
    """Scalars of what passed through one branch since the last `clear`.

    - "taps": norm of the gradient in what the branch returns (the first item of a tuple);
    - "before", "after": norm of the gradient on either side of its `activation`;
    - "saturated": how many of `outputs` outputs of a sigmoid are within 0.05 of 0 or 1.

    Several forwards (accumulation, a layer used twice) are as one long tensor: squared norms
    and counts add. Forwards under `torch.no_grad` (validation) do not count. While `active` is
    false, each hook is one comparison. Only scalars are kept, never a tensor of the network.
    """

    def __init__(self, branch: nn.Module) -> None:
        self.branch = branch
        self.active = False
        self.clear()

    def attach(self) -> list[RemovableHandle]:
        """Hooks the branch and its activation; the handles take the hooks off again."""
        handles = [self.branch.register_forward_hook(self._on_taps)]
        activation = getattr(self.branch, "activation", None)
        if isinstance(activation, nn.Module):
            # The input is hooked before the activation runs: it may work in place.
            handles.append(activation.register_forward_pre_hook(self._before_activation))
            handles.append(activation.register_forward_hook(self._after_activation))
        return handles

    def clear(self) -> None:
        """Starts again from nothing."""
        self.scalars: dict[str, Tensor] = {}
        self.outputs = 0

    def quantities(self, scalars: dict[str, float], grad_scale: float) -> dict[str, float]:
        """The defined ones of taps_grad_norm, transmission and saturated."""
        found = {}
        if "taps" in scalars:
            found["taps_grad_norm"] = scalars["taps"] / grad_scale
        if scalars.get("after") and "before" in scalars:
            found["transmission"] = scalars["before"] / scalars["after"]
        if "saturated" in scalars:
            found["saturated"] = scalars["saturated"] / self.outputs
        return found

    def _on_taps(self, module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
        if self.active:
            self._watch("taps", output[0] if isinstance(output, tuple) else output)

    def _before_activation(self, module: nn.Module, args: tuple) -> None:
        if self.active and args:
            self._watch("before", args[0])

    def _after_activation(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        if self.active:
            self._watch("after", output)
            if isinstance(module, nn.Sigmoid) and torch.is_grad_enabled():
                self._count_saturated(output.detach())

    def _watch(self, name: str, tensor: Tensor) -> None:
        """Adds the norm of the gradient of `tensor` once backward has computed it."""

        def on_gradient(gradient: Tensor) -> None:
            if self.active:
                self._add(name, norm(gradient.detach()), torch.hypot)

        if tensor.requires_grad:
            tensor.register_hook(on_gradient)

    def _count_saturated(self, output: Tensor) -> None:
        self.outputs += output.numel()
        distance = (output - 0.5).abs_()  # from the middle
        self._add("saturated", (distance >= 0.5 - SATURATION_MARGIN).sum(), torch.add)

    def _add(self, name: str, value: Tensor, combine: Callable) -> None:
        known = self.scalars.get(name)
        self.scalars[name] = value if known is None else combine(known, value)


def norm(tensor: Tensor) -> Tensor:
    """Euclidean norm as a scalar on the device, accumulated in float32 at least."""
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return torch.linalg.vector_norm(tensor, dtype=torch.float32 if half else None)
