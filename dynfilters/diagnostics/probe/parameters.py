"""Parameters by layer and branch, and the norms of their gradients, weights and updates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynfilters.diagnostics.probe.branches import find_branches, named_layers
from dynfilters.diagnostics.probe.statistics import norm

Group = tuple[str, str]  # layer, branch


def branch_parameters(model: nn.Module) -> dict[Group, list[nn.Parameter]]:
    """Returns the parameters of `model` by (layer, branch), each of them exactly once.

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
        ((path, "trunk"), module.parameters(recurse=False)) for path, module in named_layers(model)
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

    Columns are "grad", "nonzero", "weight", and, if `remember` was called, "update" and
    "previous", the norms of w_t − w_{t−1} and of w_{t−1}. Of the first two only parameters that
    have a gradient have an entry.
    """

    def __init__(self, groups: dict[Group, list[nn.Parameter]]) -> None:
        self.groups = groups
        self.parameters = [p for parameters in groups.values() for p in parameters]
        self._previous: list[Tensor] = []
        self._previous_norms: list[Tensor] = []
        self._with_gradient: list[int] = []

    @torch.no_grad()
    def remember(self) -> None:
        """Copies the weights, into the last copy if there is one."""
        if self._previous:
            torch._foreach_copy_(self._previous, self.parameters)
        else:
            self._previous = [p.detach().clone() for p in self.parameters]
        self._previous_norms = _norms(self._previous)

    def forget(self) -> None:
        """Frees the copy of the weights."""
        self._previous, self._previous_norms = [], []

    @torch.no_grad()
    def measure(self) -> dict[str, Tensor]:
        """Returns all columns, on the device; overwrites the copy of the weights."""
        gradients = self._gradients()
        self._with_gradient = list(gradients)
        columns = {
            "grad": _norms(list(gradients.values())),
            "nonzero": [torch.count_nonzero(g) for g in gradients.values()],
            "weight": _norms(self.parameters),
        }
        if self._previous:
            columns["previous"] = self._previous_norms
            torch._foreach_sub_(self._previous, self.parameters)
            columns["update"] = _norms(self._previous)
        return {name: gather(scalars) for name, scalars in columns.items() if scalars}

    def quantities(
        self, columns: dict[str, list[float]], grad_scale: float
    ) -> dict[tuple[str, str, str], float]:
        """Returns (layer, branch, quantity) → value, from the columns of `measure` on the host."""
        norms = dict(zip(self._with_gradient, columns.get("grad", ()), strict=True))
        nonzero = dict(zip(self._with_gradient, columns.get("nonzero", ()), strict=True))
        nonfinite = self._count_nonfinite(norms)
        found: dict[tuple[str, str, str], float] = {}
        start = 0
        for group, parameters in self.groups.items():
            indices = range(start, start + len(parameters))
            start = indices.stop
            if trained := [i for i in indices if i in norms]:
                size = sum(self.parameters[i].numel() for i in trained)
                found[(*group, "grad_norm")] = math.hypot(*(norms[i] for i in trained)) / grad_scale
                found[(*group, "zero_share")] = 1 - sum(nonzero[i] for i in trained) / size
                found[(*group, "nonfinite")] = sum(nonfinite.get(i, 0) for i in trained)
            own = slice(indices.start, indices.stop)
            found[(*group, "weight_norm")] = math.hypot(*columns["weight"][own])
            if previous := math.hypot(*columns.get("previous", ())[own]):
                found[(*group, "update_ratio")] = math.hypot(*columns["update"][own]) / previous
        return found

    def _gradients(self) -> dict[int, Tensor]:
        gradients = ((i, p.grad) for i, p in enumerate(self.parameters))
        return {i: g.to_dense() if g.is_sparse else g for i, g in gradients if g is not None}

    @torch.no_grad()
    def _count_nonfinite(self, norms: dict[int, float]) -> dict[int, float]:
        """Counts NaN and infinite entries of those gradients whose norm is not finite."""
        suspects = [i for i, norm in norms.items() if not math.isfinite(norm)]
        if not suspects:
            return {}
        gradients = self._gradients()
        counts = [gradients[i].isfinite().logical_not().sum() for i in suspects]
        return dict(zip(suspects, *to_host([gather(counts)]), strict=True))


def gather(scalars: Sequence[Tensor]) -> Tensor:
    """Scalar tensors of any real type and device as one vector in float64 on the first's."""
    if not scalars:
        return torch.empty(0, dtype=torch.float64)
    device = scalars[0].device
    if any(scalar.device != device for scalar in scalars):
        scalars = [scalar.to(device) for scalar in scalars]
    return torch.stack(list(scalars)).double()


def to_host(vectors: Sequence[Tensor]) -> list[list[float]]:
    """The values of vectors in float64 on any device, in one transfer."""
    device = next((v.device for v in vectors if v.device.type != "cpu"), torch.device("cpu"))
    together = iter(torch.cat([vector.to(device) for vector in vectors]).tolist())
    return [list(itertools.islice(together, len(vector))) for vector in vectors]


def _norms(tensors: list[Tensor]) -> list[Tensor]:
    """Returns the norm of each, as scalars on the device, accumulated in float32 at least."""
    if any(t.dtype in (torch.float16, torch.bfloat16) for t in tensors):
        return [norm(t) for t in tensors]
    return list(torch._foreach_norm(tensors)) if tensors else []
