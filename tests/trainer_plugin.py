"""A network without batch norm for the tests of training at scale, and ways for a run to die.

DIE=forward:N kills the process at the network's N-th forward pass in training, DIE=replace:N at
the N-th time that a file is about to take its place: as nothing in the process can prevent.
DIE=warned:N sends SIGTERM to it and its readers, as a scheduler does, at the N-th forward pass.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import wraps

from torch import Tensor, nn

from dynfilters.models import register_model


def die_at(call: str, function: Callable) -> Callable:
    """`function`, which kills the process at the call that the environment names."""
    where, _, number = os.environ.get("DIE", ":").partition(":")
    if where != call:
        return function
    left = int(number)

    @wraps(function)
    def mortal(*arguments, **keywords):
        nonlocal left
        left -= 1
        if left == 0 and call == "warned":
            os.killpg(0, signal.SIGTERM)
        elif left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)

    return mortal


@register_model("plugged_in")
class PluggedIn(nn.Module):
    """Two convolutions and a classifier; what one image gives does not depend on the others."""

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_chans, 6, 3, stride=2), nn.Tanh(), nn.Conv2d(6, 8, 3), nn.Tanh()
        )
        self.head = nn.Linear(8, num_classes)
        self.run = die_at("warned", die_at("forward", self._run))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x) if self.training else self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


os.replace = die_at("replace", os.replace)
