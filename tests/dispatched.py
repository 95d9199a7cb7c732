"""Which ops of ours ran, as the dispatcher sees them."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchedOps(TorchDispatchMode):
    """Notes the name of every `torch.ops.dynfilters` op that runs inside the `with` block."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "dynfilters":
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))
