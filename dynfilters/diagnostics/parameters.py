"""The part of the probe that reads parameters: gradients, weights and updates by group."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynfilters.diagnostics.taps import find_branches, norm

Group = tuple[str, str]  # layer, branch


def branch_parameters(model: nn.Module) -> dict[Group, list[nn.Parameter]]:
    """The parameters of `model` by (layer, branch), each of them exactly once.

    - Those of a dynamic filter's branch: layer is the filter's path in the model, branch is
      "spatial", "channel" or "weight".
    - All others: layer is the path of the module that owns the parameter, branch is "trunk".

    The path of `model` itself is "". A group without parameters of its own is left out.
    `ValueError` if `model` is no `nn.Module`.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    candidates = [((layer, name), b.parameters()) for layer, name, b in find_branches(model)]
    candidates += [
        ((path, "trunk"), module.parameters(recurse=False))
        for path, module in model.named_modules()
    ]
    taken: set[int] = set()
    groups: dict[Group, list[nn.Parameter]] = {}
    for group, parameters in candidates:
        own = [p for p in parameters if id(p) not in taken]
        taken.update(map(id, own))
        if own:
            groups[group] = own
    return groups


class ParameterWatch:
    """Norms of gradients, weights and updates of `groups`, in the order of their parameters.

    Scalars are keyed by (name, index of the parameter): "grad", "nonzero", "weight", and, if
    `remember` was called, "update" and "previous", norms of w_t − w_{t−1} and of w_{t−1}.
    """

    def __init__(self, groups: dict[Group, list[nn.Parameter]]) -> None:
        self.groups = groups
        self.parameters = [p for parameters in groups.values() for p in parameters]
        self._previous: list[Tensor] = []
        self._previous_norms: list[Tensor] = []

    @torch.no_grad()
    def remember(self) -> None:
        """Copies the weights, into the copy of before if there is one."""
        if self._previous:
            torch._foreach_copy_(self._previous, self.parameters)
        else:
            self._previous = [p.detach().clone() for p in self.parameters]
        self._previous_norms = _norms(self._previous)

    def forget(self) -> None:
        """Frees the copy of the weights."""
        self._previous, self._previous_norms = [], []

    @torch.no_grad()
    def measure(self) -> dict[tuple[str, int], Tensor]:
        """All scalars, on the device. Uses the copy of the weights up as scratch space."""
        gradients = self._gradients()
        columns = {
            "grad": dict(zip(gradients, _norms(list(gradients.values())), strict=True)),
            "nonzero": {i: torch.count_nonzero(g) for i, g in gradients.items()},
            "weight": dict(enumerate(_norms(self.parameters))),
        }
        if self._previous:
            columns["previous"] = dict(enumerate(self._previous_norms))
            torch._foreach_sub_(self._previous, self.parameters)
            columns["update"] = dict(enumerate(_norms(self._previous)))
        return {(name, i): s for name, column in columns.items() for i, s in column.items()}

    def quantities(
        self, scalars: dict[tuple[str, int], float], grad_scale: float
    ) -> dict[tuple[str, str, str], float]:
        """(layer, branch, quantity) → value, from the scalars of `measure` on the host."""
        nonfinite = self._count_nonfinite(scalars)
        found: dict[tuple[str, str, str], float] = {}
        start = 0
        for group, parameters in self.groups.items():
            indices = range(start, start + len(parameters))
            start = indices.stop
            column = {
                name: [scalars[name, i] for i in indices if (name, i) in scalars]
                for name in ("grad", "nonzero", "weight", "update", "previous")
            }
            if column["grad"]:
                entries = sum(self.parameters[i].numel() for i in indices if ("grad", i) in scalars)
                found[(*group, "grad_norm")] = math.hypot(*column["grad"]) / grad_scale
                found[(*group, "zero_share")] = 1 - sum(column["nonzero"]) / entries
                found[(*group, "nonfinite")] = sum(nonfinite.get(i, 0) for i in indices)
            found[(*group, "weight_norm")] = math.hypot(*column["weight"])
            if previous := math.hypot(*column["previous"]):
                found[(*group, "update_ratio")] = math.hypot(*column["update"]) / previous
        return found

    def _gradients(self) -> dict[int, Tensor]:
        gradients = ((i, p.grad) for i, p in enumerate(self.parameters))
        return {i: g.to_dense() if g.is_sparse else g for i, g in gradients if g is not None}

    @torch.no_grad()
    def _count_nonfinite(self, scalars: dict[tuple[str, int], float]) -> dict[int, float]:
        """By parameter; only where a norm says that there are some, to spare the usual step."""
        gradients = self._gradients()
        suspects = [i for i in gradients if not math.isfinite(scalars["grad", i])]
        counts = to_host([gradients[i].isfinite().logical_not().sum() for i in suspects])
        return dict(zip(suspects, counts, strict=True))


def to_host(scalars: Sequence[Tensor]) -> list[float]:
    """The values of scalar tensors of any real type and device, in one transfer."""
    if not scalars:
        return []
    device = scalars[0].device
    return torch.stack([scalar.to(device) for scalar in scalars]).tolist()


def _norms(tensors: list[Tensor]) -> list[Tensor]:
    """Euclidean norm of each, as scalars on the device, accumulated in float32 at least."""
    if any(t.dtype in (torch.float16, torch.bfloat16) for t in tensors):
        return [norm(t) for t in tensors]
    return list(torch._foreach_norm(tensors)) if tensors else []
