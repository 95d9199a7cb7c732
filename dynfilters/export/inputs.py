"""What both exporters take: a module in evaluation mode, an example, and which sizes may vary."""

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
# Small maps would be 1×1 deep in a network, and a size of 1 is a special case to torch.export:
# the graph would be right for that size alone.
TRACED_SIZE = {"batch": 2, "height": 64, "width": 64}

Example = Tensor | Sequence[Tensor]
Axes = list[dict[int, str]]  # of each input: axis → name


class ExportError(RuntimeError):
    """The module cannot be exported, or what was exported computes something else."""


def checked_module(module: nn.Module) -> nn.Module:
    """The module, a copy of it if it is not on the CPU; `ValueError` unless it is for inference."""
    if not isinstance(module, nn.Module):
        raise ValueError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    training = [name or "the module" for name, part in module.named_modules() if part.training]
    if training:
        raise ValueError(
            "module: expected evaluation mode, as batch statistics and dropout have no place in "
            f"an exported graph, got {training[0]} in training mode: call .eval()"
        )
    devices = {t.device.type for t in (*module.parameters(), *module.buffers())}
    if "meta" in devices:
        raise ValueError("module: expected weights, got some on the meta device")
    return module if devices <= {"cpu"} else copy.deepcopy(module).cpu()


def checked_example(example: Example) -> tuple[Tensor, ...]:
    """The inputs as a tuple, on the CPU."""
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
    """The path; `ValueError` unless it is to be a file of this kind in a directory there is."""
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"path: expected a name that ends in {suffix}, got {str(path)!r}")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"path: expected a file in a directory that exists, got {str(path)!r}")
    return path


def dynamic_axes(inputs: Sequence[Tensor], dynamic: bool | Sequence[str]) -> Axes:
    """The axes that may vary, and their names.

    The batch is one for all inputs; height and width are those of the first input, and of every
    other that has its grid. Another grid has names of its own, such as `height_1`.
    """
    names = (AXES if dynamic else ()) if isinstance(dynamic, bool) else dynamic
    if isinstance(names, str) or any(name not in AXES for name in names):
        raise ValueError(f"dynamic: expected a bool, or some of {AXES}, got {dynamic!r}")
    return [_axes(i, tensor, inputs[0], names) for i, tensor in enumerate(inputs)]


def _axes(i: int, tensor: Tensor, first: Tensor, names: Sequence[str]) -> dict[int, str]:
    places = {0: "batch", 2: "height", 3: "width"} if tensor.dim() == 4 else {0: "batch"}
    own = "" if tensor.dim() != 4 or tensor.shape[2:] == first.shape[2:] else f"_{i}"
    return {
        axis: name if name == "batch" else name + own
        for axis, name in places.items()
        if name in names
    }


def check_ranges(program: ExportedProgram, axes: Axes) -> None:
    """`ExportError` if the graph does not hold for all sizes of an axis that was to be free.

    Where a branch was taken because an axis is longer than so and so much, it holds for longer
    ones alone, which may be meant: that is a warning.
    """
    names = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for name, named in zip(names, axes, strict=False):
        for axis, axis_name in named.items():
            size = nodes[name].meta["val"].shape[axis]
            if isinstance(size, int):
                raise ExportError(
                    f"{axis_name}: the graph holds for {size} alone; leave it out of `dynamic`"
                )
            _check_range(axis_name, program.range_constraints.get(size.node.expr))


def _check_range(name: str, known: Any) -> None:
    from torch.utils._sympy.numbers import int_oo  # with sympy, which takes long to import

    if known is None:
        return
    if known.upper != int_oo:
        raise ExportError(
            f"{name}: the graph holds up to {known.upper} alone; leave it out of `dynamic`"
        )
    if known.lower > 2:  # where torch.export starts, which takes a single pixel for special
        warnings.warn(f"{name}: the graph holds from {known.lower} up", stacklevel=5)


def traced(inputs: Sequence[Tensor], axes: Axes) -> tuple[Tensor, ...]:
    """Inputs to trace with: where they may vary, no smaller than `TRACED_SIZE`.

    Along an axis all inputs grow by the same factor, so that their grids keep their ratio.
    """
    factors = dict.fromkeys(AXES, 1)
    for tensor, named in zip(inputs, axes, strict=True):
        for axis, name in named.items():
            kind = name.partition("_")[0]
            factors[kind] = max(factors[kind], -(-TRACED_SIZE[kind] // tensor.shape[axis]))
    return _random(inputs, axes, lambda kind, size: size * factors[kind])


def varied(inputs: Sequence[Tensor], axes: Axes) -> tuple[Tensor, ...]:
    """Inputs of other sizes than the example's, to verify with.

    Odd and even ones, unless grids have to keep their ratio.
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
    """Without torch's notes to its own developers, and nothing else."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)  # it misses torchvision's operators, which no filter has
    with warnings.catch_warnings():
        # Of torch's own exporter, which still uses what it advises against.
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
        # Said of every input but the first, as they are to share their axes' names.
        warnings.filterwarnings("ignore", "# The axis name: .* will not be used", UserWarning)
        try:
            yield
        finally:
            log.setLevel(level)
