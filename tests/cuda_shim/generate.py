"""`pool_project` and `ddf_generate` by the CUDA kernels, on the shim's device."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from cuda_shim.build import SHIM, build, kernels
from cuda_shim.device import Device, Mode, Operand
from cuda_shim.filter2d import STORAGES
from dynfilters.ops.reference import layout

INPUTS = ["x", "weight", "bias", "squeeze_weight", "squeeze_bias", "expand_weight", "expand_bias"]
OUTPUTS = ["logits", "mean", "hidden", "taps"]


class GenerateParams(ctypes.Structure):
    """csrc/generate.h."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ["batch", "channels", "positions", "outputs", "squeezed", "expanded", "pixels"]
    )


class GenerateOperands(ctypes.Structure):
    """csrc/generate.h."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in (*INPUTS, *OUTPUTS, "partial"))


class GenerateKernels:
    """One build of the kernels."""

    def __init__(self) -> None:
        self.device = Device(build("kernels", [SHIM / "entry.cpp", *kernels()]))
        library = self.device.library
        names = "shim_generate_bytes", "shim_generate_operands_bytes", "shim_partial_sums"
        for name in names:
            getattr(library, name).restype = ctypes.c_size_t
        library.shim_fits_generate.restype = ctypes.c_bool
        ours = ctypes.sizeof(GenerateParams), ctypes.sizeof(GenerateOperands)
        if ours != (library.shim_generate_bytes(), library.shim_generate_operands_bytes()):
            raise RuntimeError("GenerateParams or GenerateOperands is not what the header says")

    def pool_project(self, given: Sequence[Tensor | None], mode: Mode) -> list[Tensor]:
        """logits and mean, from the first three arguments of `ddf_generate`."""
        params = params_of(given)
        x, weight, _ = given
        logits = _empty_logits(x, weight.shape[0])
        return self._call("pool_project", params, given, [logits, x.new_empty(x.shape[:2])], mode)

    def ddf_generate(self, given: Sequence[Tensor | None], mode: Mode) -> list[Tensor]:
        """logits, mean, hidden and taps."""
        params = params_of(given)
        x, weight = given[:2]
        outputs = [_empty_logits(x, weight.shape[0]), x.new_empty(x.shape[:2])]
        outputs.append(x.new_empty(x.shape[0], params.squeezed))
        outputs.append(x.new_empty(x.shape[0], x.shape[1], params.expanded // x.shape[1]))
        return self._call("ddf_generate", params, given, outputs, mode)

    def tiles(self, x: Tensor) -> int:
        """How many blocks share the positions of a sample."""
        params = params_of([x, x.new_empty(1, x.shape[1])])
        count = self.device.library.shim_partial_sums(ctypes.byref(params))
        return count // (x.shape[0] * x.shape[1])

    def fits(self, channels: int, squeezed: int, dtype: torch.dtype) -> bool:
        params = GenerateParams(channels=channels, squeezed=squeezed)
        call = ctypes.byref(params), STORAGES.index(dtype)
        return self.device.library.shim_fits_generate(*call)

    def _call(self, name: str, params: GenerateParams, given, outputs, mode: Mode) -> list[Tensor]:
        self.device.reset(mode)
        operands, dtype = GenerateOperands(), given[0].dtype
        for place, tensor in zip(INPUTS, given, strict=False):
            if tensor is not None:
                setattr(operands, place, self.device.place(place, tensor).address)
        found: list[Operand] = []
        for place, empty in zip(OUTPUTS, outputs, strict=False):
            found.append(self.device.place(place, empty, writable=True))
            setattr(operands, place, found[-1].address)
        count = self.device.library.shim_partial_sums(ctypes.byref(params))
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        partial = self.device.place("partial", torch.empty(count, dtype=wide), writable=True)
        operands.partial = partial.address
        call = ctypes.byref(params), STORAGES.index(dtype), ctypes.byref(operands)
        getattr(self.device.library, f"shim_{name}")(*call)
        self.device.check()
        return [self.device.result(operand) for operand in found]


def params_of(given: Sequence[Tensor | None]) -> GenerateParams:
    x, weight = given[:2]
    pixels = layout(x) is torch.channels_last
    params = GenerateParams(*x.shape[:2], x.shape[2] * x.shape[3], weight.shape[0], 0, 0, pixels)
    if len(given) > 3:
        params.squeezed, params.expanded = given[3].shape[0], given[5].shape[0]
    return params


def _empty_logits(x: Tensor, outputs: int) -> Tensor:
    size = x.shape[0], outputs, *x.shape[2:]
    return torch.empty(size, dtype=x.dtype, memory_format=layout(x))
