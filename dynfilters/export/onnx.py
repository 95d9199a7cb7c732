"""Exports networks with dynamic filters to ONNX, in standard operators."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dynfilters._extras import require
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
from dynfilters.export.verification import deviation, onnxruntime_run

OPSETS = range(18, 24)
LARGEST = 2**31 - 1  # bytes of a protocol buffer, at most


@dataclass(frozen=True)
class OnnxFile:
    """A file of `export_onnx`.

    Attributes:
        path: of the file.
        opset: version of the standard operators.
        nodes: of the graph, their number.
        inputs, outputs: names, in order.
        deviation: the largest difference between onnxruntime's results and the module's, relative
            to the largest number of an output; None without verification.
    """

    path: Path
    opset: int
    nodes: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    deviation: float | None


def export_onnx(
    module: nn.Module,
    example: Example,
    path: str | os.PathLike,
    *,
    opset: int = 20,
    dynamic: bool | Sequence[str] = True,
    verify: bool = True,
    tolerance: float | None = None,
) -> OnnxFile:
    """Writes a module as an ONNX file of standard operators, which any runtime can read.

    Args:
        module: a filter, or a network of any origin, in evaluation mode.
        example: its input, or a tuple of several (x and guide, say). The file keeps their number
            of axes, channels and dtypes; a batch of 1 does not fix the batch.
        path: the file to write, `….onnx`; after an error an existing file is as before.
        opset: version of the operators, 18 to 23.
        dynamic: the axes whose size is free in the file: True for "batch", "height" and "width",
            False for none, or some of these names. Inputs of four axes have all three, others a
            batch only. Inputs whose grids are equal in the example share height and width.
        verify: compare with onnxruntime on the example and, if axes are free, on other sizes. If
            onnxruntime is not installed, a warning says so.
        tolerance: of that comparison, relative to the largest number of an output; None for 1e-5
            in float32 and 0.02 in float16.

    Returns:
        The file written.

    Raises:
        ValueError: a wrong argument; a module in training mode.
        ExportError: the module cannot be exported with these axes free, or the file's results
            would differ from the module's. Nothing is written.
        ImportError: onnx or onnxscript is missing (`pip install 'dynfilters[onnx]'`).
    """
    path, module = checked_path(path, ".onnx"), checked_module(module)
    inputs = checked_example(example)
    if opset not in OPSETS:
        raise ValueError(f"opset: expected {OPSETS[0]} to {OPSETS[-1]}, got {opset!r}")
    require("export_onnx", "onnx", "onnx", "onnxscript")
    axes = dynamic_axes(inputs, dynamic)
    with torch.no_grad():
        model = _exported(module, inputs, axes, opset)
        content = _serialized(model)
        run = onnxruntime_run(content) if verify else None
        found = None if run is None else deviation(module, run, inputs, axes, tolerance)
    write_atomically(path, content)
    graph = model.graph
    names = [tuple(value.name for value in values) for values in (graph.input, graph.output)]
    return OnnxFile(path, model.opset_import[0].version, len(graph.node), *names, found)


def _exported(module: nn.Module, inputs: Sequence[Tensor], axes: Axes, opset: int) -> Any:
    """Returns the ONNX model; checks that its operators are standard, and the free axes free."""
    from dynfilters.export.translations import translations

    results = len(tree_leaves(module(*inputs)))
    outputs = ["y"] if results == 1 else [f"y{i}" for i in range(results)]
    with quiet():
        try:
            program = torch.onnx.export(
                module,
                traced(inputs, axes),
                dynamic_shapes=tuple(axes) if any(axes) else None,
                output_names=outputs,
                opset_version=opset,
                custom_translation_table=translations(),
                verbose=False,
                optimize=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(
                f"{type(module).__name__} has no exact graph: {_cause(error)}"
            ) from error
    _simplify(program.model)
    model = program.model_proto
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if foreign or model.functions:
        raise ExportError(f"{type(module).__name__} needs operators beyond ONNX's own: {foreign}")
    check_ranges(program.exported_program, axes)
    return model


def _simplify(model: Any) -> None:
    """Folds constants, and removes duplicate and unused nodes.

    torch's own `optimize` also tries some hundred fusions on each node, which takes minutes;
    runtimes fuse nodes when they load the file.
    """
    from onnx_ir.passes import common
    from onnxscript import optimizer

    optimizer.fold_constants(model)
    optimizer.remove_unused_nodes(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def _cause(error: BaseException) -> str:
    """Returns the first error's text, without the exporter's advice to its developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10) * 2)[0]}"


def _serialized(model: Any) -> bytes:
    import onnx

    if model.ByteSize() > LARGEST:
        raise ExportError(f"the model takes {model.ByteSize()} bytes; an ONNX file holds 2 GB")
    onnx.checker.check_model(model)
    return model.SerializeToString()
