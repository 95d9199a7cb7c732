"""The arguments of both exporters: a module, an example, and the axes whose size may vary."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dynfilters.checks import check_tensor

if TYPE_CHECKING:
    from torch.export import ExportedProgram

AXES = ("batch", "height", "width")
# torch.export treats a size of 1 as a special case, and the graph would hold for that size only:
# so maps are large enough not to shrink to 1×1 deep in a network.
TRACED_SIZE = {"batch": 2, "height": 64, "width": 64}

Example = Tensor | Sequence[Tensor]
Axes = list[dict[int, str]]  # of each input: axis → name


class ExportError(RuntimeError):
    """The module cannot be exported, or the exported graph computes something else."""


def checked_module(module: nn.Module) -> nn.Module:
    """Returns the module, or a copy on the CPU; `ValueError` unless in evaluation mode."""
    if not isinstance(module, nn.Module):
        raise ValueError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    module = getattr(module, "_orig_mod", module)  # inside torch.compile
    training = [name or "the module" for name, part in module.named_modules() if part.training]
    if training:
        raise ValueError(
            "module: expected evaluation mode, as a graph has no batch statistics and no dropout, "
            f"got {training[0]} in training mode: call .eval()"
        )
    devices = {t.device.type for t in (*module.parameters(), *module.buffers())}
    if "meta" in devices:
        raise ValueError("module: expected weights, got some on the meta device")
    return module if devices <= {"cpu"} else copy.deepcopy(module).cpu()


def checked_example(example: Example) -> tuple[Tensor, ...]:
    """Returns the inputs as a tuple, on the CPU."""
    inputs = (example,) if isinstance(example, Tensor) else example
    if not isinstance(inputs, Sequence) or isinstance(inputs, str) or not inputs:
        raise ValueError(f"example: expected a tensor or a tuple of them, got {example!r}")
    for i, tensor in enumerate(inputs):
        check_tensor(f"example[{i}]", tensor)
        if tensor.dim() == 0 or 0 in tensor.shape:
            expected = "a batch, and nothing empty"
            raise ValueError(f"example[{i}]: expected {expected}, got {tuple(tensor.shape)}")
    return tuple(tensor.detach().cpu() for tensor in inputs)


def checked_path(path: str | Path, suffix: str) -> Path:
    """Returns the path; `ValueError` unless it has this suffix and its directory exists."""
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"path: expected a name that ends in {suffix}, got {str(path)!r}")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"path: expected a file in a directory that exists, got {str(path)!r}")
    return path


def dynamic_axes(inputs: Sequence[Tensor], dynamic: bool | Sequence[str]) -> Axes:
    """Returns the axes whose size may vary, with their names.

    All inputs share the batch; inputs with the grid of the first one share its height and width.
    Other grids have names of their own, such as `height_1`.
    """
    names = (AXES if dynamic else ()) if isinstance(dynamic, bool) else dynamic
    if isinstance(names, str) or any(name not in AXES for name in names):
        raise ValueError(f"dynamic: expected a bool, or some of {AXES}, got {dynamic!r}")
    return [_axes(i, tensor, inputs[0], names) for i, tensor in enumerate(inputs)]


def _axes(i: int, tensor: Tensor, first: Tensor, names: Sequence[str]) -> dict[int, str]:
    axes = {0: "batch", 2: "height", 3: "width"} if tensor.dim() == 4 else {0: "batch"}
    own = "" if tensor.dim() != 4 or tensor.shape[2:] == first.shape[2:] else f"_{i}"
    return {
        axis: name if name == "batch" else name + own
        for axis, name in axes.items()
        if name in names
    }


def check_ranges(program: ExportedProgram, axes: Axes) -> None:
    """Raises `ExportError` if the graph holds only up to some size of a free axis.

    A graph that holds only from some size up, because a branch depends on it, may be meant: that
    is a warning.
    """
    names = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for name, named in zip(names, axes, strict=False):
        for axis, axis_name in named.items():
            size = nodes[name].meta["val"].shape[axis]
            if isinstance(size, int):
                raise ExportError(
                    f"{axis_name}: the graph holds for {size} only; leave it out of `dynamic`"
                )
            _check_range(axis_name, program.range_constraints.get(size.node.expr))


def _check_range(name: str, known: Any) -> None:
    from torch.utils._sympy.numbers import int_oo  # imports sympy, which takes long

    if known is None:
        return
    if known.upper != int_oo:
        raise ExportError(
            f"{name}: the graph holds up to {known.upper} only; leave it out of `dynamic`"
        )
    if known.lower > 2:  # torch.export always starts at 2
        warnings.warn(f"{name}: the graph holds from {known.lower} up", stacklevel=5)


def traced(inputs: Sequence[Tensor], axes: Axes) -> tuple[Tensor, ...]:
    """Makes inputs to trace with, at least as large as `TRACED_SIZE` along free axes.

    All inputs grow by the same factor along an axis, so that their grids keep their ratio.
    """
    factors = dict.fromkeys(AXES, 1)
    for tensor, named in zip(inputs, axes, strict=True):
        for axis, name in named.items():
            kind = name.partition("_")[0]
            factors[kind] = max(factors[kind], -(-TRACED_SIZE[kind] // tensor.shape[axis]))
    return _random(inputs, axes, lambda kind, size: size * factors[kind])


def varied(inputs: Sequence[Tensor], axes: Axes) -> tuple[Tensor, ...]:
    """Makes inputs of other sizes than the example's, to verify with.

    Sizes are odd and even, unless grids have to keep their ratio.
    """
    ratio = any("_" in name for named in axes for name in named.values())
    more = {"batch": 1, "height": 3, "width": 5}
    return _random(
        inputs,
        axes,
        lambda kind, size: 2 * size if ratio and kind != "batch" else size + more[kind],
    )


def _random(
    inputs: Sequence[Tensor], axes: Axes, resize: Callable[[str, int], int]
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for tensor, named in zip(inputs, axes, strict=True):
        shape = list(tensor.shape)
        for axis, name in named.items():
            shape[axis] = resize(name.partition("_")[0], shape[axis])
        made.append(torch.randn(shape, generator=generator).to(tensor.dtype))
    return tuple(made)


@contextmanager
def quiet() -> Iterator[None]:
    """Silences torch's notes to its own developers, and nothing else."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)  # warns about missing torchvision
    with warnings.catch_warnings():
        # torch's own exporter still uses the deprecated class.
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
        # Raised for every input but the first, because they share names of axes.
        warnings.filterwarnings("ignore", "# The axis name: .* will not be used", UserWarning)
        try:
            yield
        finally:
            log.setLevel(level)
