"""The CUDA kernels of `filter2d`, `filter2d_activated` and gradients, on the shim's device."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from comparison import Activations
from torch import Tensor

from cuda_shim.build import SHIM, build, kernels
from cuda_shim.device import Device, Mode, Operand
from dynfilters.ops.reference import Geometry, layout

STORAGES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
KINDS = ("identity", "sigmoid", "tanh", "softmax", "filter_norm")  # csrc/activation.h
NONE = Activations()


def _fields(text: str, kind: type) -> list[tuple]:
    """ctypes fields of one kind, `name` or `name:length`."""
    pairs = (word.partition(":") for word in text.split())
    return [(name, kind * int(length) if length else kind) for name, _, length in pairs]


class Filter2dParams(ctypes.Structure):
    """csrc/filter2d.h."""

    _fields_ = (
        *_fields("batch channels height width groups kh kw stride dilation scale", ctypes.c_int64),
        *_fields("rows cols channel_phases", ctypes.c_int64),
        ("combine", ctypes.c_int32),
        *_fields("xs:4 ys:4 gs:4 ss:5 cs:4", ctypes.c_int64),
    )


class Activation(ctypes.Structure):
    """csrc/activation.h."""

    _fields_ = (("kind", ctypes.c_int), *_fields("gain eps", ctypes.c_double))


class Operands(ctypes.Structure):
    """csrc/cuda/kernels.h."""

    _fields_ = (
        *_fields("x spatial channel grad y grad_x", ctypes.c_void_p),
        *_fields("grad_spatial grad_channel workspace", ctypes.c_void_p),
        *_fields("spatial_activation channel_activation", Activation),
        ("channel_std", ctypes.c_void_p),
        ("std_phases", ctypes.c_int64),
        *_fields("grad_std spatial_statistics channel_statistics", ctypes.c_void_p),
    )


class Kernels:
    """One build of the kernels."""

    def __init__(self) -> None:
        units = [SHIM / "entry.cpp", *kernels()]
        self.device = Device(build("kernels", units))
        library = self.device.library
        for name in ("forward_workspace", "backward_workspace", "params_bytes", "operands_bytes"):
            getattr(library, f"shim_{name}").restype = ctypes.c_size_t
        ours = ctypes.sizeof(Filter2dParams), ctypes.sizeof(Operands)
        if ours != (library.shim_params_bytes(), library.shim_operands_bytes()):
            raise RuntimeError("Filter2dParams or Operands is not what the headers say")

    def forward(
        self,
        geometry: Geometry,
        x: Tensor,
        spatial: Tensor | None,
        channel: Tensor | None,
        mode: Mode,
        how: Activations = NONE,
    ) -> Tensor:
        """y, as the op gives it."""
        params, operands = self._prepare(geometry, x, spatial, channel, mode, how)
        size = (*x.shape[:2], *(geometry.centres(n) * geometry.scale for n in x.shape[2:]))
        y = self.device.place("y", _empty(size, x), writable=True)
        operands.y, params.ys[:] = y.address, y.values.stride()
        self._call("forward", params, x.dtype, operands)
        return self.device.result(y)

    def backward(
        self,
        geometry: Geometry,
        grad: Tensor,
        x: Tensor,
        spatial: Tensor | None,
        channel: Tensor | None,
        mode: Mode,
        wanted: Sequence[bool] = (True, True, True),
        how: Activations = NONE,
    ) -> list[Tensor | None]:
        """The gradients of x, spatial, channel and std that are wanted, as many as `wanted` has."""
        params, operands = self._prepare(geometry, x, spatial, channel, mode, how)
        given = self.device.place("grad", grad)
        operands.grad, params.ys[:] = given.address, given.values.stride()
        found = [
            self._output(name, x, like, operands) if want and like is not None else None
            for name, like, want in zip(
                ("grad_x", "grad_spatial", "grad_channel", "grad_std"),
                (x, spatial, channel, how.std),
                wanted,
                strict=False,
            )
        ]
        if found[0]:
            params.gs[:] = found[0].values.stride()
        self._call("backward", params, x.dtype, operands)
        return [operand and self.device.result(operand) for operand in found]

    def _output(self, name: str, x: Tensor, like: Tensor, operands: Operands) -> Operand:
        empty = _empty(x.shape, x) if like is x else torch.empty(like.shape, dtype=x.dtype)
        placed = self.device.place(name, empty, writable=True)
        setattr(operands, name, placed.address)
        return placed

    def _prepare(self, geometry, x, spatial, channel, mode, how) -> tuple[Filter2dParams, Operands]:
        self.device.reset(mode)
        operands, params = Operands(), params_of(geometry, x, spatial, channel)
        inputs = ("x", x, "xs"), ("spatial", spatial, "ss"), ("channel", channel, "cs")
        for name, tensor, strides in inputs:
            if tensor is not None:
                placed = self.device.place(name, tensor)
                setattr(operands, name, placed.address)
                getattr(params, strides)[: tensor.dim()] = placed.values.stride()
        if spatial is not None:
            kind = KINDS.index(how.spatial)
            operands.spatial_activation = Activation(kind, how.spatial_gain, how.eps)
        if channel is not None:
            kind = KINDS.index(how.channel)
            operands.channel_activation = Activation(kind, how.channel_gain, how.eps)
        if how.std is not None:
            operands.channel_std = self.device.place("channel_std", how.std).address
            operands.std_phases = how.std.shape[2] if how.std.dim() == 3 else 1
        return params, operands

    def _call(
        self, name: str, params: Filter2dParams, dtype: torch.dtype, operands: Operands
    ) -> None:
        """`shim_forward` or `shim_backward`, in a workspace that the device aligns as CUDA does."""
        call = ctypes.byref(params), STORAGES.index(dtype), ctypes.byref(operands)
        count = getattr(self.device.library, f"shim_{name}_workspace")(*call)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        space = self.device.place("workspace", torch.empty(count, dtype=wide), True, offset=0)
        operands.workspace = space.address
        getattr(self.device.library, f"shim_{name}")(*call)
        self.device.check()


def params_of(
    geometry: Geometry, x: Tensor, spatial: Tensor | None, channel: Tensor | None
) -> Filter2dParams:
    """All of one call but the strides."""
    params = Filter2dParams(*x.shape)
    params.groups = 1 if spatial is None else spatial.shape[1]
    params.kh, params.kw = geometry.kernel_size
    params.stride, params.dilation = geometry.stride, geometry.dilation
    params.scale = geometry.scale
    params.rows, params.cols = map(geometry.centres, x.shape[2:])
    params.channel_phases = channel.shape[3] if channel is not None and channel.dim() == 4 else 1
    kinds = ("mul", "add", "spatial", "channel")
    kind = "channel" if spatial is None else "spatial" if channel is None else geometry.combine
    params.combine = kinds.index(kind)
    return params


def _empty(size: Sequence[int], x: Tensor) -> Tensor:
    return torch.empty(size, dtype=x.dtype, memory_format=layout(x))
