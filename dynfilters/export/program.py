"""Exports networks to `.pt2` files: `torch.export` programs, or compiled ones of AOTInductor.

Both contain our ops by name: import dynfilters before loading such a file by torch's functions.
Without it `torch.export.load` fails with "We ran into an error when deserializing the saved file",
after it has logged "We failed to resolve torch.ops.dynfilters…", and
`torch._inductor.aoti_load_package` fails with "Could not find schema for dynfilters::…".
"""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dynfilters._files import write_atomically
from dynfilters.export.inputs import (
    Axes,
    Example,
    ExportError,
    check_ranges,
    checked_example,
    checked_module,
    checked_path,
    dynamic_axes,
    quiet,
    traced,
)
from dynfilters.export.verification import deviation

if TYPE_CHECKING:
    from torch.export import ExportedProgram

COMPILED = "/data/aotinductor/"  # in the names of AOTInductor's archives


def export_program(
    module: nn.Module,
    example: Example,
    path: str | os.PathLike,
    *,
    dynamic: bool | Sequence[str] = True,
    compile: bool = False,
) -> Path:
    """Writes a module as a `.pt2` file, which runs without the module's code.

    `load_program` loads it, and so do torch's own functions once dynfilters is imported. Its
    results are compared with the module's before it is written.

    Args:
        module: a filter, or a network of any origin, in evaluation mode.
        example: its input, or a tuple of several.
        path: the file to write, `….pt2`; after an error an existing file is as before.
        dynamic: the axes whose size is free, as in `export_onnx`. torch.export treats a size of 1
            as a special case: along a free axis, neither the input nor a feature map may be one
            pixel long unless it was so for the example.
        compile: compile for this machine by AOTInductor, which needs a C++ compiler and a minute;
            else the file has the graph, for any machine.

    Returns:
        The path.

    Raises:
        ValueError: a wrong argument; a module in training mode.
        ExportError: the module cannot be exported with these axes free, or the program's results
            would differ from the module's. Nothing is written.
    """
    path, module = checked_path(path, ".pt2"), checked_module(module)
    inputs = checked_example(example)
    axes = dynamic_axes(inputs, dynamic)
    with torch.no_grad():
        program = _exported(module, inputs, axes)
        deviation(module, _run(program.module()), inputs, axes)
        if compile:
            _compile(program, path)
            return path
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_atomically(path, buffer.getvalue())
    return path


def load_program(path: str | os.PathLike) -> Callable[..., Any]:
    """Loads a file of `export_program`, compiled or not; the result is called like the module.

    `ValueError` if the file does not exist or is no such program. A `.pt2` file is a program:
    torch runs the machine code of compiled ones, and unpickles and evaluates parts of the others.
    Load only files you trust; for weights of any origin use `load_model` and `from_pretrained`.
    """
    path = Path(path)
    if not zipfile.is_zipfile(path):
        raise ValueError(f"path: expected a file written by export_program, got {str(path)!r}")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(COMPILED in name for name in names):
        return torch._inductor.aoti_load_package(str(path))
    if not any(name.endswith("models/model.json") for name in names):
        raise ValueError(f"path: expected a file written by export_program, got {str(path)!r}")
    return torch.export.load(path).module()


def _exported(module: nn.Module, inputs: Sequence[Tensor], axes: Axes) -> ExportedProgram:
    free = torch.export.Dim.DYNAMIC
    shapes = tuple(dict.fromkeys(named, free) for named in axes)
    try:
        with quiet():
            program = torch.export.export(
                module, traced(inputs, axes), dynamic_shapes=shapes, strict=False
            )
    except Exception as error:  # torch.export's errors have no common base class
        reason = str(error).strip().partition("\n\n")[0]
        raise ExportError(f"{type(module).__name__} cannot be exported: {reason}") from error
    check_ranges(program, axes)
    return program


def _run(called: Callable[..., Any]) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    return lambda inputs: tree_leaves(called(*inputs))


def _compile(program: ExportedProgram, path: Path) -> None:
    with quiet(), tempfile.TemporaryDirectory(dir=path.parent) as directory:
        made = torch._inductor.aoti_compile_and_package(
            program, package_path=str(Path(directory) / path.name)
        )
        os.replace(made, path)
