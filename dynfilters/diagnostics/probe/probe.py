"""`GradientProbe`: norms of gradients by layer and branch while a model trains."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dynfilters.checks import check_positive
from dynfilters.diagnostics.probe.branches import BranchWatch, find_branches
from dynfilters.diagnostics.probe.parameters import (
    ParameterWatch,
    branch_parameters,
    gather,
    to_host,
)
from dynfilters.diagnostics.probe.recording import CsvLog, History, Key, csv_writer, write_scalars

KEPT = 10_000


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
    gradients are clipped or zeroed. Layers and branches ("groups") are those of
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
    | `before_rms`, `after_rms` | branch | √mean(v²) of what enters, leaves the activation |
    | `saturated` | branch | share of a sigmoid's outputs within 0.05 of 0 or 1 |
    | `denominator_min` | branch | the smallest std that filter normalization divides by |
    | `routing_entropy` | branch | that of the shares of experts: 0 one for all, 1 all alike |
    | `taps_variance_samples` | branch | over the batch (divisor B), the mean over all else |
    | `taps_variance_positions` | branch | over the grid (divisor H·W), the mean over all else |

    The activation acts on taps, hidden units or routing, whichever the paper says. The entropy
    is −Σ_e p_e·log p_e / log E, p = |r| / Σ|r|, the mean over samples. The root of the sum of
    `grad_norm`² over all groups is the gradient norm of the model. What passes a branch in
    several forwards before a `step` (gradient accumulation, a layer used twice) counts as one
    long tensor: squared norms add; of variances it is the mean. Forwards under `torch.no_grad`
    do not count. A quantity that is not defined (no gradient came, division by zero, one sample
    only) has no row. NaN and infinity are recorded as they are.

    w_t are the weights when `step` is called, w_{t−1} those at the call before, or at the entry
    of `with`. With `step` before `optimizer.step`, `update_ratio` is thus that of the update
    before, and 0 at first; with `step` after `optimizer.step` it is that of the same step.

    - Mixed precision: `probe.step(scaler)` with the `GradScaler`, before `scaler.step`; all
      gradients are recorded unscaled.
    - `torch.compile`: enter `with` before the model first runs. Nothing breaks the graph; the
      model is compiled once for steps that are recorded, once for those that are not.
    - `DistributedDataParallel`: each process has a probe of its own. Gradients of parameters are
      those after averaging, the same in all; what is said of taps is of its own samples.

    Cost: what passes a branch is reduced on the device, in the tensor's precision but at least
    float32, and added up in float64; one transfer a recorded step brings all to the host, a
    second one only if a norm is not finite. At calls that are not recorded nothing is computed,
    and filters fuse as if there were no probe, but the last one before a recorded call copies
    the weights. Memory is one copy of the parameters, and 8 bytes on the host for each value of
    the `keep` steps that are held.

    Args:
        model: any module, compiled or wrapped too. Filters that are no `DynamicFilter` are trunk.
        every: the calls 0, every, 2·every, … of `step` are recorded.
        path: a CSV file to make, which gets the values of each step as they come.
        writer: a TensorBoard `SummaryWriter`, or whatever has its `add_scalar`; gets them too, as
            quantity/layer.branch.
        keep: recorded steps that `records` and `save` have at most. Beyond, every second one is
            dropped, again and again: what is kept is always spread evenly over the whole run.
            `path` and `writer` miss nothing.

    Raises:
        ValueError: `model` is no module, `every` or `keep` no positive integer, or `writer`
            has no `add_scalar`.
        OSError: on entry, if `path` exists or cannot be made.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 1,
        *,
        path: str | Path | None = None,
        writer: Any = None,
        keep: int = KEPT,
    ) -> None:
        self._every = check_positive("every", every)
        if writer is not None and not callable(getattr(writer, "add_scalar", None)):
            raise ValueError(f"writer: expected add_scalar, got {type(writer).__name__}")
        self._parameters = ParameterWatch(branch_parameters(model))
        self._branches = {(path, b): BranchWatch(b, m) for path, b, m in find_branches(model)}
        self._history = History(check_positive("keep", keep))
        self._path, self._writer = path, writer
        self._log: CsvLog | None = None
        self._handles: list[RemovableHandle] = []
        self._inside = self._warned = False
        self._calls = 0

    def __enter__(self) -> GradientProbe:
        if self._inside:
            raise RuntimeError("GradientProbe: expected one `with` at a time, it is in use already")
        if self._path is not None:
            self._log = CsvLog(self._path)
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
        if self._log is not None:
            self._log.close()

    def step(self, grad_scale: Any = 1.0, *, unscaled: bool = False) -> None:
        """Records this step, if it is one of every `every`.

        Args:
            grad_scale: what the loss was multiplied by: a positive number, or the
                `torch.amp.GradScaler` that did it, before its `step` and `update`. All
                gradients, those in the taps too, are divided by it.
            unscaled: `GradScaler.unscale_` has divided the gradients of the parameters already.

        Raises:
            ValueError: `grad_scale` is not positive.
            RuntimeError: called outside `with`.
        """
        if not self._inside:
            raise RuntimeError("GradientProbe.step: call it inside `with GradientProbe(model)`")
        if not hasattr(grad_scale, "scale") and not grad_scale > 0:
            raise ValueError(f"grad_scale: expected a positive number, got {grad_scale!r}")
        if self._calls % self._every == 0:
            self._record(grad_scale, unscaled)
        self._calls += 1
        if self._calls % self._every == 0:
            self._parameters.remember()
        self._arm()

    def records(self) -> list[dict[str, object]]:
        """Returns one dict for each value that is held, in order of time.

        Keys are step, layer, branch, quantity, value; step counts the calls of `step` from 0.
        The list is made anew at each call.
        """
        return list(self._history)

    def save(self, path: str | Path) -> None:
        """Writes the records as CSV with a header; folders that are missing are made."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv_writer(file).writerows(self._history)

    def _arm(self) -> None:
        """Activates the hooks if the next call will be recorded."""
        for watch in self._branches.values():
            watch.active = self._calls % self._every == 0

    def _record(self, grad_scale: Any, unscaled: bool) -> None:
        columns = self._parameters.measure()
        scale, *host = to_host(
            [self._scale(grad_scale), *columns.values(), *self._branch_tensors()]
        )
        of_parameters = dict(zip(columns, host, strict=False))
        values = self._parameters.quantities(of_parameters, 1.0 if unscaled else scale[0])
        seen = self._branch_quantities(host[len(columns) :], scale[0])
        self._warn_if_unseen(values, seen)
        self._keep(values | seen)

    def _branch_tensors(self) -> list[Tensor]:
        """Returns each accumulator's values, and one vector of all scalars still pending."""
        accumulators = [watch.accumulator for watch in self._branches.values()]
        pending = [value for accumulator in accumulators for value in accumulator.pending()]
        return [*(accumulator.values for accumulator in accumulators), gather(pending)]

    def _branch_quantities(self, host: list[list[float]], scale: float) -> dict[Key, float]:
        """Returns the quantities of all branches since the last record, and clears them."""
        *values, pending = host
        found, start = {}, 0
        for (group, watch), own in zip(self._branches.items(), values, strict=True):
            end = start + len(watch.accumulator.pending())
            quantities = watch.quantities(own, pending[start:end], scale)
            found |= {(*group, quantity): value for quantity, value in quantities.items()}
            start = end
            watch.clear()
        return found

    def _scale(self, grad_scale: Any) -> Tensor:
        """Returns the factor of the loss as a vector; a scaler's stays on its device."""
        if not hasattr(grad_scale, "scale"):
            return torch.tensor([grad_scale], dtype=torch.float64)
        parameter = next(iter(self._parameters.parameters), torch.empty(0))
        return grad_scale.scale(torch.ones(1, device=parameter.device)).double()

    def _keep(self, values: Mapping[Key, float]) -> None:
        self._history.add(self._calls, values)
        if self._log is not None:
            self._log.add(self._calls, values)
        if self._writer is not None:
            write_scalars(self._writer, self._calls, values)

    def _warn_if_unseen(self, values: Mapping[Key, float], seen: Mapping[Key, float]) -> None:
        """Warns once if all branches have gradients, but none of their forwards was seen."""
        trained = [(*group, "grad_norm") in values for group in self._branches]
        if seen or self._warned or not trained or not all(trained):
            return
        self._warned = True
        warnings.warn(
            "GradientProbe: the filters have gradients, but none of their forwards was seen, so "
            "nothing is said of taps. If the model was compiled, and ran before `with "
            "GradientProbe(model)`, call torch._dynamo.reset() or enter `with` earlier.",
            stacklevel=4,
        )
