"""Memory of a computation: what it keeps for backward, and its peak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef


@dataclass(frozen=True)
class Memory:
    """`saved_bytes` kept for backward; `peak_bytes` allocated at once, None if not measured."""

    saved_bytes: int
    peak_bytes: int | None


def measure_memory(fn: Callable[[], object]) -> Memory:
    """Measures the bytes that `fn()` saves for backward, and those it allocates at its peak.

    ```python
    measure_memory(lambda: layer(x)).saved_bytes
    ```

    `saved_bytes` counts what the autograd graph holds on to, by storage: a tensor that several
    operations save counts once, and so do views of one storage that overlap. Of a storage it
    counts the bytes between the first and the last element of what was saved (so that a batch
    that is a slice of a data set counts as the batch). Inputs count if an operation saves them;
    parameters, and views of them, do not, because they are there anyway. Copies of
    parameters, such as autocast makes, do. The figure is the same on every device. If `fn` runs
    backward too, all that was saved on the way counts, as if it had been kept together.

    `peak_bytes` is the growth of the allocated memory of the current CUDA device at its highest,
    None where `fn` allocates nothing there: PyTorch does not count allocations on the CPU. Resets
    `torch.cuda.max_memory_allocated`.

    `ValueError` if `fn` is not callable.
    """
    if not callable(fn):
        raise ValueError(f"fn: expected a function without arguments, got {type(fn).__name__}")
    saved = _SavedExtents()
    start = _cuda_start()
    # Bound to a name, because the graph hangs on the result.
    with saved_tensors_hooks(saved.pack, lambda packed: packed):
        result = fn()
    peak = _cuda_peak(start)
    del result
    return Memory(saved.total(), peak)


class _SavedExtents:
    """Saved parts of each storage, as extents in bytes: (first, last + 1)."""

    def __init__(self) -> None:
        # A weak reference leaves the memory free to go, but keeps its identity from being used
        # again for another storage, which an address would be.
        self._extents: dict[StorageWeakRef, list[tuple[int, int]]] = {}
        self._parameters: set[StorageWeakRef] = set()

    def pack(self, tensor: Tensor) -> Tensor:
        storage = StorageWeakRef(tensor.untyped_storage())
        if isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter):
            self._parameters.add(storage)
        self._extents.setdefault(storage, []).append(_extent(tensor))
        # The tensor itself would be a cycle where an operation saves its own output.
        return tensor.detach()

    def total(self) -> int:
        kept = (e for storage, e in self._extents.items() if storage not in self._parameters)
        return sum(_union(extents) for extents in kept)


def _extent(tensor: Tensor) -> tuple[int, int]:
    if tensor.numel() == 0:
        return 0, 0
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    first = tensor.storage_offset() * tensor.element_size()
    return first, first + (last + 1) * tensor.element_size()


def _union(extents: list[tuple[int, int]]) -> int:
    """Returns the number of bytes that lie in at least one extent."""
    total = reached = 0
    for first, end in sorted(extents):
        total += max(0, end - max(first, reached))
        reached = max(reached, end)
    return total


def _cuda_start() -> int:
    if not torch.cuda.is_initialized():
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _cuda_peak(start: int) -> int | None:
    if not torch.cuda.is_initialized():
        return None
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - start) or None
