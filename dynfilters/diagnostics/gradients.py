"""Where the gradient dies: norms by layer and branch while a model trains."""

from __future__ import annotations

import csv
from array import array
from pathlib import Path

from torch import nn
from torch.utils.hooks import RemovableHandle

from dynfilters.checks import check_positive
from dynfilters.diagnostics.parameters import ParameterWatch, branch_parameters, to_host
from dynfilters.diagnostics.taps import BranchWatch, find_branches

FIELDS = ("step", "layer", "branch", "quantity", "value")


class GradientProbe:
    """Records norms of gradients, weights and updates of a model, by layer and branch.

    ```python
    with GradientProbe(model, every=10) as probe:
        for images, labels in loader:
            optimizer.zero_grad()
            loss(model(images), labels).backward()
            probe.step()
            optimizer.step()
    probe.save("gradients.csv")
    ```

    Call `step` once for each optimizer step: after (all of) its backward passes, and before the
    gradients are unscaled, clipped or zeroed. Layers and branches ("groups") are those of
    `branch_parameters` when the probe is made. Quantities:

    | quantity | of each | is |
    | --- | --- | --- |
    | `grad_norm` | group | ‖g‖ over the gradients of the parameters |
    | `weight_norm` | group | ‖w‖ over the parameters |
    | `update_ratio` | group | ‖w_t − w_{t−1}‖ / ‖w_{t−1}‖ |
    | `zero_share` | group | share of the entries of the gradients that are exactly 0 |
    | `nonfinite` | group | number of NaN and infinite entries of the gradients |
    | `taps_grad_norm` | branch | ‖∂loss/∂taps‖, taps as the branch returns them, activated |
    | `transmission` | branch | ‖gradient before the activation‖ / ‖gradient after it‖ |
    | `saturated` | branch with sigmoid | share of its outputs within 0.05 of 0 or 1 |

    The root of the sum of `grad_norm`² over all groups is the gradient norm of the model. What
    passes a branch in several forwards before a `step` (gradient accumulation, a layer used
    twice) counts as one long tensor: squared norms add. Forwards under `torch.no_grad` do not
    count. A quantity that is not defined (no gradient came, division by zero) has no row.

    w_t are the weights when `step` is called, w_{t−1} those at the call before, or at the entry
    of `with`. With `step` before `optimizer.step`, `update_ratio` is thus that of the update
    before, and 0 at first; with `step` after `optimizer.step` it is that of the same step.

    Cost: norms are computed on the device, in the gradient's precision but at least float32
    (which loses norms below 1e-19), and one transfer brings them to the host; a second
    one only if a norm is not finite. At calls that are not recorded the hooks do nothing, but
    the last one before a recorded call copies the weights. Memory is one copy of the
    parameters, and 8 bytes on the host for each recorded value.

    Args:
        model: any module. Filters that are no `DynamicFilter` count as trunk.
        every: the calls 0, every, 2·every, … of `step` are recorded.

    Raises:
        ValueError: `model` is no module, or `every` no positive integer.
    """

    def __init__(self, model: nn.Module, every: int = 1) -> None:
        self._every = check_positive("every", every)
        self._parameters = ParameterWatch(branch_parameters(model))
        self._branches = {(layer, b): BranchWatch(m) for layer, b, m in find_branches(model)}
        self._handles: list[RemovableHandle] = []
        self._inside = False
        self._calls = 0
        self._rows: list[tuple[int, tuple, array]] = []
        self._layouts: dict[tuple, tuple] = {}

    def __enter__(self) -> GradientProbe:
        if self._inside:
            raise RuntimeError("GradientProbe: expected one `with` at a time, it is in use already")
        self._inside = True
        self._handles = [h for watch in self._branches.values() for h in watch.attach()]
        self._parameters.remember()
        self._arm()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._inside = False
        for handle in self._handles:
            handle.remove()
        for watch in self._branches.values():
            watch.active = False  # hooks on tensors stay with a graph that is still alive
            watch.clear()
        self._parameters.forget()

    def step(self, grad_scale: float = 1.0) -> None:
        """Records this step, if it is one of every `every`.

        Args:
            grad_scale: what the loss was multiplied by, `GradScaler.get_scale()`; the gradients,
                those in the taps too, are divided by it: call before `GradScaler.unscale_`.

        Raises:
            ValueError: `grad_scale` is not positive.
            RuntimeError: called outside `with`.
        """
        if not self._inside:
            raise RuntimeError("GradientProbe.step: call it inside `with GradientProbe(model)`")
        if not grad_scale > 0:
            raise ValueError(f"grad_scale: expected a positive number, got {grad_scale!r}")
        if self._calls % self._every == 0:
            self._record(float(grad_scale))
        self._calls += 1
        if self._calls % self._every == 0:
            self._parameters.remember()
        self._arm()

    def records(self) -> list[dict[str, object]]:
        """One dict for each value, in order of time: step, layer, branch, quantity, value.

        step counts the calls of `step` from 0. The list is made anew at each call.
        """
        return [
            {"step": step, "layer": layer, "branch": branch, "quantity": quantity, "value": value}
            for step, keys, values in self._rows
            for (layer, branch, quantity), value in zip(keys, values, strict=True)
        ]

    def save(self, path: str | Path) -> None:
        """Writes the records as CSV with a header; folders that are missing are made."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.records())

    def _arm(self) -> None:
        """Lets the hooks work if the coming call will be recorded."""
        for watch in self._branches.values():
            watch.active = self._calls % self._every == 0

    def _record(self, grad_scale: float) -> None:
        scalars = dict(self._parameters.measure())
        for group, watch in self._branches.items():
            scalars |= {(group, name): scalar for name, scalar in watch.scalars.items()}
        numbers = dict(zip(scalars, to_host(list(scalars.values())), strict=True))

        values = self._parameters.quantities(numbers, grad_scale)
        for group, watch in self._branches.items():
            own = {name: numbers[group, name] for name in watch.scalars}
            for quantity, value in watch.quantities(own, grad_scale).items():
                values[(*group, quantity)] = value
            watch.clear()
        # Steps with the same keys, nearly all of them, share one tuple.
        keys = self._layouts.setdefault(tuple(values), tuple(values))
        self._rows.append((self._calls, keys, array("d", values.values())))
