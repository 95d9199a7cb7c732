"""A candidate made ready to run on the operands of a case, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.candidates import CANDIDATES, Candidate
from benchmarks.cases import Case, Operands


class Program:
    """One candidate on one case.

    Args:
        name: of the candidate, a key of `CANDIDATES`.
        operands: the tensors; several sets of them for `forward(i)` and `train(i)` to take in
            turn, so that a run does not find the last one's in the cache.
    """

    def __init__(self, name: str, case: Case, operands: list[Operands]) -> None:
        self.candidate: Candidate = CANDIDATES[name]
        self.name, self.case = name, case
        self.fn = self.candidate.build(case)
        taken = [[o[key] for key in self.candidate.operands[case.kind]] for o in operands]
        self._inputs, parameters = taken, []
        if isinstance(self.fn, nn.Module):
            first = operands[0]
            self.fn.to(first.device, first.dtype, memory_format=first.layout)
            parameters = list(self.fn.parameters())
        self.leaves = [[*tensors, *parameters] for tensors in taken]
        self._grads: list[Tensor] = []

    @property
    def sets(self) -> int:
        """How many sets of operands there are."""
        return len(self.leaves)

    @property
    def y_shape(self) -> tuple[int, ...]:
        fine = self.case.grid * self.case.scale
        return self.case.batch, self.case.channels, fine, fine

    @property
    def x_bytes(self) -> int:
        return _bytes(self.leaves[0][0])

    def forward(self, i: int = 0) -> Tensor:
        with torch.no_grad():
            return self.fn(*self._inputs[i])

    def forward_train(self, i: int = 0) -> Tensor:
        """y with its graph."""
        return self.fn(*self._inputs[i])

    def backward(self, y: Tensor, i: int = 0) -> tuple[Tensor, ...]:
        """Gradients of all leaves for `grad`."""
        return torch.autograd.grad(y, self.leaves[i], self.grad(y, i))

    def train(self, i: int = 0) -> tuple[Tensor, ...]:
        """y and the gradients of all leaves."""
        y = self.forward_train(i)
        return y, *self.backward(y, i)

    def grad(self, y: Tensor, i: int = 0) -> Tensor:
        """The gradient of y: drawn once, laid out as y is."""
        while len(self._grads) <= i:
            generator = torch.Generator(y.device).manual_seed(len(self._grads))
            drawn = torch.randn(y.shape, generator=generator, device=y.device)
            # Not y's strides themselves, which may be those of a view.
            layout = torch.channels_last if _is_channels_last(y) else torch.contiguous_format
            self._grads.append(drawn.to(y.dtype).contiguous(memory_format=layout))
        return self._grads[i]

    def bytes_moved(self, which: str) -> int:
        """What a pass must read and write at least: operands, y, and their gradients."""
        forward = self.operand_bytes + self._y_bytes
        backward = forward + self.operand_bytes
        return {"forward": forward, "backward": backward, "both": forward + backward}[which]

    def result_bytes(self, which: str) -> int:
        """Of y, and with "both" of the gradients."""
        return self._y_bytes + (self.operand_bytes if which == "both" else 0)

    @property
    def operand_bytes(self) -> int:
        return sum(_bytes(t) for t in self.leaves[0])

    @property
    def _y_bytes(self) -> int:
        return self.x_bytes * self.case.scale**2


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _is_channels_last(y: Tensor) -> bool:
    last = y.is_contiguous(memory_format=torch.channels_last)
    return last and not y.is_contiguous()
