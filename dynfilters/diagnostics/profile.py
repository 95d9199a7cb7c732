"""All measurements of one filter at one shape, as one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynfilters.checks import check_choice
from dynfilters.cost import count_macs, count_parameters
from dynfilters.diagnostics.adaptivity import Adaptivity, measure_adaptivity
from dynfilters.diagnostics.latency import Latency, measure_bandwidth, measure_latency
from dynfilters.diagnostics.memory import Memory, measure_memory
from dynfilters.diagnostics.settings import (
    DTYPES,
    MEMORY_FORMATS,
    PARTS,
    check_device,
    check_shape,
    seeded,
)
from dynfilters.filters import create_filter
from dynfilters.nn import DynamicFilter, Taps


@dataclass(frozen=True)
class Profile:
    """Cost of one filter at one shape, and its adaptivity.

    Attributes:
        filter: its name in the zoo.
        part: "layer", or "op" for the application of ready-made taps.
        shape: (B, C, H, W) of x.
        device, dtype, memory_format: of x, as they were asked for.
        compiled: whether the latencies are those of `torch.compile`.
        params: number of entries of the parameters.
        macs: multiply-accumulates of the whole batch's forward.
        forward: of inference: evaluation mode, no graph; None if not asked for.
        backward: gradients of x and all parameters, training mode; None if not asked for.
        memory: of a forward in training mode, not compiled.
        adaptivity: None if not asked for, and of an op.
    """

    filter: str
    part: str
    shape: tuple[int, int, int, int]
    device: str
    dtype: str
    memory_format: str
    compiled: bool
    params: int
    macs: int
    forward: Latency | None
    backward: Latency | None
    memory: Memory
    adaptivity: Adaptivity | None


def profile_filter(
    name: str,
    shape: Sequence[int],
    *,
    options: Mapping[str, Any] | None = None,
    out_channels: int | None = None,
    part: str = "layer",
    device: str | torch.device = "cpu",
    dtype: str = "float32",
    memory_format: str = "contiguous",
    compile: bool = False,
    backward: bool = True,
    adaptivity: bool = True,
    min_run_time: float = 0.2,
    seed: int = 0,
) -> Profile:
    """Creates the filter called `name` and measures it on normal noise.

    ```python
    profile_filter("ddf", (8, 64, 32, 32)).forward.p50  # milliseconds
    profile_filter("ddf", (8, 64, 32, 32), options={"groups": 4}, part="op").macs
    ```

    `gbps` and `share` of the latencies count the bytes that must move at least: forward reads x and
    the parameters (the op: the taps) once and writes y; backward reads these and the gradient of y,
    and writes the gradients of x and the parameters (the taps).

    Args:
        name: one of `dynfilters.list_filters()`.
        shape: (B, C, H, W) of x.
        options: further arguments of `create_filter`: kernel_size, stride, activation, groups, …
        out_channels: None for as many as x has.
        part: "layer"; or "op" for `apply_taps` alone on taps that the same layer generated. Of
            a static filter, which generates none, both are the convolution.
        device, dtype, memory_format: of x and the layer; see `DTYPES` and `MEMORY_FORMATS`.
        compile: measure latencies under `torch.compile`.
        backward, adaptivity: whether to measure these.
        min_run_time: seconds for each latency; 0 for none.
        seed: of weights and input. The global random state stays as it is.

    Raises:
        ValueError: an argument is out of range, the device is not here, or the filter refuses
            this shape or these options.
        TypeError: the filter has no such option.
    """
    shape, device = _check(shape, part, device, dtype, memory_format)
    layout = {"memory_format": MEMORY_FORMATS[memory_format]}
    placed = {"device": device, "dtype": DTYPES[dtype]}
    with seeded(device, seed):
        layer = create_filter(name, shape[1], out_channels, **(options or {}))
        layer = layer.to(**placed, **layout)
        x = torch.randn(shape, **placed).contiguous(**layout)
        program = _program(layer, x, part).train()
        # Before the timing, whose training runs move the statistics of batch norms.
        adapts = measure_adaptivity(layer) if adaptivity and part == "layer" else None
        macs = count_macs(program, x)  # which loads libraries, so that they do not count as memory
        memory = measure_memory(lambda: program(x.detach().requires_grad_()))
        forward, back = None, None
        if min_run_time:
            forward, back = _time(program, x, compile, backward, min_run_time)
        return Profile(
            name,
            part,
            shape,
            str(device),
            dtype,
            memory_format,
            compile,
            params=count_parameters(program),
            macs=macs,
            forward=forward,
            backward=back,
            memory=memory,
            adaptivity=adapts,
        )


class _Op(nn.Module):
    """`apply_taps` of a layer, on taps that it generated from x; these require gradients."""

    def __init__(self, layer: nn.Module, x: Tensor) -> None:
        super().__init__()
        with torch.no_grad():
            taps = layer.eval().generate(x)
        self.taps = Taps(*(t if t is None else t.clone().requires_grad_() for t in taps))
        self.apply_taps = layer.apply_taps
        self.project = getattr(layer, "project", None)  # counts as the op's parameters

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_taps(x, self.taps)


def _program(layer: nn.Module, x: Tensor, part: str) -> nn.Module:
    if part == "layer":
        return layer
    if not isinstance(layer, DynamicFilter):
        name = type(layer).__name__
        raise ValueError(f"part: expected 'layer', as {name} is no DynamicFilter, got {part!r}")
    return _Op(layer, x) if layer.branches else layer


def _time(
    program: nn.Module, x: Tensor, compile: bool, backward: bool, min_run_time: float
) -> tuple[Latency, Latency | None]:
    bandwidth = measure_bandwidth(x.device)
    run = torch.compile(program) if compile else program
    weights = sum(map(_bytes, _weights(program)))

    program.eval()
    with torch.no_grad():
        operands = _bytes(x) + _bytes(program(x)) + weights
        forward = measure_latency(
            lambda: run(x), bytes_moved=operands, bandwidth=bandwidth, min_run_time=min_run_time
        )
    program.train()
    if not backward:
        return forward, None
    leaf = x.detach().requires_grad_()
    return forward, measure_latency(
        lambda: run(leaf),
        backward=True,
        bytes_moved=operands + _bytes(x) + weights,
        bandwidth=bandwidth,
        min_run_time=min_run_time,
    )


def _weights(program: nn.Module) -> list[Tensor]:
    """Returns the tensors that a forward reads beside x."""
    taps = program.taps if isinstance(program, _Op) else ()
    return [*program.parameters(), *(t for t in taps if t is not None)]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _check(
    shape: Sequence[int], part: str, device: str | torch.device, dtype: str, memory_format: str
) -> tuple[tuple[int, int, int, int], torch.device]:
    sizes = check_shape(shape)
    check_choice("part", part, PARTS)
    check_choice("dtype", dtype, tuple(DTYPES))
    check_choice("memory_format", memory_format, tuple(MEMORY_FORMATS))
    return sizes, check_device(device)
