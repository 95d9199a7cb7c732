"""Compares an exported graph with its module."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dynfilters.export.inputs import Axes, ExportError, varied

# Relative to the largest number of an output. Each step of float16 keeps 11 bits.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-2}

Run = Callable[[Sequence[Tensor]], list[Tensor]]


def deviation(
    module: nn.Module,
    run: Run,
    inputs: Sequence[Tensor],
    axes: Axes,
    tolerance: float | None = None,
) -> float:
    """Returns the largest difference between the results of `run` and of the module.

    It is relative to the largest number of an output; on `inputs` and, if axes are free, on inputs
    of other sizes. `ExportError` if it exceeds `tolerance`, None for `TOLERANCE`, or if one of the
    two cannot run.
    """
    trials = [inputs, varied(inputs, axes)] if any(axes) else [inputs]
    return max(_worst(module, run, trial, tolerance) for trial in trials)


def onnxruntime_run(content: bytes) -> Run | None:
    """Makes a function that runs an ONNX model; None, with a warning, without onnxruntime."""
    if find_spec("onnxruntime") is None:
        warnings.warn(
            "export_onnx could not verify the file: pip install onnxruntime", stacklevel=3
        )
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised, not logged
    try:
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base class
        raise ExportError(
            f"onnxruntime has no kernels for the model ({error}); with verify=False it is written "
            "without a check"
        ) from error
    names = [value.name for value in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        arrays = [tensor.numpy() for tensor in inputs]
        found = session.run(None, dict(zip(names, arrays, strict=True)))
        return [torch.from_numpy(array) for array in found]

    return run


def _worst(module: nn.Module, run: Run, inputs: Sequence[Tensor], tolerance: float | None) -> float:
    sizes = [tuple(tensor.shape) for tensor in inputs]
    try:
        wanted = tree_leaves(module(*inputs))
    except Exception as error:
        raise ExportError(
            f"the module does not run on inputs of {sizes}; leave the axes of fixed size out of "
            f"`dynamic` ({error})"
        ) from error
    try:
        found = run(inputs)
    except Exception as error:
        raise ExportError(
            f"the exported graph does not run on inputs of {sizes}, as the module does; leave the "
            f"axes of fixed size out of `dynamic` ({error})"
        ) from error
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        bound = TOLERANCE.get(other.dtype, 1e-5) if tolerance is None else tolerance
        off = _difference(one, other)
        if not off <= bound:  # NaN fails too
            raise ExportError(
                f"the exported graph's result is off by {off:.1e} of the largest number, more "
                f"than {bound:.0e}, on inputs of {sizes}"
            )
        worst = max(worst, off)
    return worst


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Returns the largest difference, relative to `wanted`; infinity for another shape."""
    if found.shape != wanted.shape:
        return float("inf")
    found, wanted = found.double(), wanted.double()
    return ((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)).item()
