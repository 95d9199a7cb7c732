"""A library built by `build`, its global memory, and launches on it."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SHARED_H100, SHARED_SMALLEST = 232448, 101376  # bytes a block may have: sm_90, and sm_86
ORDERS = ("ascending", "descending", "random")
MAPPED, ELEMENT, WRITABLE, WRITTEN = 1, 2, 4, 8  # see memory.h
GUARD = 512  # unmapped bytes around each operand


class ShimError(RuntimeError):
    """Something that a kernel did and must not do."""


@dataclass(frozen=True)
class Mode:
    """How unkind the device is.

    Attributes:
        order: that of blocks, of warps and of lanes; `seed` is for "random".
        late: asynchronous copies land when they are waited for, else at once.
        shared_limit: bytes that a block may ask for.
        offset: elements by which every operand is off a boundary of 256 bytes.
        apart: strides for inputs of these names, however large.
    """

    order: str = "ascending"
    seed: int = 0
    late: bool = True
    shared_limit: int = SHARED_H100
    offset: int = 0
    apart: tuple[tuple[str, tuple[int, ...]], ...] = ()


@dataclass
class Operand:
    """A tensor in the device's memory: `values` is a view of it, `uses` of the map of uses."""

    name: str
    begin: int
    bytes: int
    values: Tensor
    uses: Tensor
    address: int


class Device:
    """Runs one function of the library at a time, on fresh memory."""

    def __init__(self, library: Path) -> None:
        self.path = library
        self.library = ctypes.CDLL(str(library))
        for name in ("shim_global", "shim_uses", "shim_global_bytes"):
            getattr(self.library, name).restype = ctypes.c_size_t
        self.library.shim_failure.restype = ctypes.c_char_p
        self.base = self.library.shim_global()
        if not self.base:
            raise MemoryError("the shim's device needs 120 GB of address space, hardly any memory")
        size = self.library.shim_global_bytes()
        self.memory, self.uses = (
            torch.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype=torch.uint8)
            for address in (self.base, self.library.shim_uses())
        )
        self.mode = Mode()
        self.operands: list[Operand] = []

    def reset(self, mode: Mode) -> None:
        """No operands; `mode` from now on."""
        order = ORDERS.index(mode.order)
        seed, limit = ctypes.c_uint64(mode.seed), ctypes.c_size_t(mode.shared_limit)
        self.library.shim_reset(order, seed, mode.late, limit)
        self.mode, self.operands = mode, []

    def place(
        self, name: str, tensor: Tensor, writable: bool = False, offset: int | None = None
    ) -> Operand:
        """The tensor on the device, with its strides or those of `Mode.apart`, and `offset` in
        place of that of the mode.

        Memory that no element covers holds NaN, and an output holds nothing but NaN.
        """
        width = tensor.element_size()
        apart = dict(self.mode.apart).get(name)
        strides = apart or tensor.stride()
        last = self.operands[-1] if self.operands else None
        after = GUARD if last is None else last.begin + last.bytes + GUARD
        offset = self.mode.offset if offset is None else offset
        begin = -(-after // 256) * 256 + offset * width
        reach = sum((n - 1) * s for n, s in zip(tensor.shape, strides, strict=True)) + 1
        end = begin + (reach * width if tensor.numel() else 0)
        if end + GUARD > self.memory.numel():
            raise MemoryError(f"{name}: the shim has no room for {end - begin} bytes")
        if not apart:  # else there is too much between its elements to be touched
            self.memory[begin - GUARD : end + GUARD] = 0xFF
            self.uses[begin:end] = MAPPED
        uses = self.uses[begin:end].as_strided(
            (*tensor.shape, width), [*(s * width for s in strides), 1]
        )
        uses.fill_(MAPPED | ELEMENT | (WRITABLE if writable else 0))
        values = self.memory[begin:end].view(tensor.dtype).as_strided(tensor.shape, strides)
        if not writable:
            values.copy_(tensor)
        self.operands.append(Operand(name, begin, end - begin, values, uses, self.base + begin))
        return self.operands[-1]

    @property
    def launches(self) -> int:
        """How many since `reset`."""
        return self.library.shim_launches()

    def check(self) -> None:
        """Raises what went wrong since `reset`."""
        failure = self.library.shim_failure()
        if failure is not None:
            raise ShimError(self._explain(failure.decode()))

    def result(self, operand: Operand) -> Tensor:
        """A copy of an output, every element of which must have been written."""
        missing = (operand.uses & WRITTEN) == 0
        if missing.any():
            first = missing.nonzero()[0].tolist()[:-1]
            count = int(missing[..., 0].sum())
            raise ShimError(f"{operand.name}: {count} elements were not written, first {first}")
        return operand.values.clone()

    def _explain(self, message: str) -> str:
        """The message with the operand that the byte is near to, and the line of source."""
        if "global" in message or "operand" in message or "output" in message:
            for at in map(int, re.findall(r"at byte (-?\d+)", message)[:1]):
                near = min(self.operands, key=lambda o: max(o.begin - at, at - o.begin - o.bytes))
                message += f"; near {near.name}, byte {at - near.begin} of {near.bytes}"
        if (place := re.search(r"; at (0x\w+)", message)) and shutil.which("addr2line"):
            command = ["addr2line", "-i", "-s", "-e", str(self.path), place[1]]
            lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            lines = " in ".join(line.split()[0] for line in lines.splitlines()[:4])
            message = message.replace(place[0], f"; at {lines}")
        return message
