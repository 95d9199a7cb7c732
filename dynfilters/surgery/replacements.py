"""What `swap_filters` did to a model, what that cost or saved, and how to take it back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import nn


class Replacement(NamedTuple):
    """A module that was replaced, at one of its places.

    Attributes:
        path: of the place, as `get_submodule` takes it.
        old, new: what stood there before and what does now.
    """

    path: str
    old: nn.Module
    new: nn.Module


class Skipped(NamedTuple):
    """A module that was left as it is, and why."""

    path: str
    module: nn.Module
    reason: str


class Replacements(list[Replacement]):
    """The replacements in the model's order, one for each place; printed, they are a table.

    Attributes:
        model: whose modules they are.
        filter: the name of the filter.
        skipped: what the default selection left, and why; empty if `where` was given.
        dry_run: whether nothing was replaced; the new modules are then on the meta device.
        params_before, params_after: parameters of the whole model.
        macs_before, macs_after: its multiply-accumulates; None unless an input size was given.
    """

    def __init__(
        self,
        model: nn.Module,
        filter: str,
        replaced: Iterable[Replacement],
        skipped: Iterable[Skipped] = (),
        dry_run: bool = False,
        macs: tuple[int | None, int | None] = (None, None),
    ) -> None:
        super().__init__(replaced)
        self.model, self.filter, self.dry_run = model, filter, dry_run
        self.skipped = list(skipped)
        self.params_before = _count(model, {})
        self.params_after = _count(model, {id(one.old): one.new for one in self})
        self.macs_before, self.macs_after = macs

    def place(self) -> None:
        """Puts the new modules in their places."""
        put(self.model, {one.path: one.new for one in self})

    def undo(self) -> None:
        """Puts the old modules back, as they were, in the new ones' training or evaluation mode.

        `RuntimeError` if one of the new modules is not where the swap has put it, because the
        model was changed since, or undone already, or it was a dry run; the model then stays as
        it is.
        """
        for path, _, new in self:
            if _at(self.model, path) is not new:
                raise RuntimeError(
                    f"{path}: expected the filter that the swap put there, found "
                    f"{describe(_at(self.model, path))}; nothing was put back"
                )
        for _, old, new in self:
            if old.training != new.training:
                old.train(new.training)
        put(self.model, {one.path: one.old for one in self})

    def __repr__(self) -> str:
        rows = [(path, describe(old), "→", describe(new)) for path, old, new in self]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines += [f"{path}  left: {reason}" for path, _, reason in self.skipped]
        lines.append(_change("parameters", self.params_before, self.params_after))
        if self.macs_before is not None:
            lines.append(_change("MACs", self.macs_before, self.macs_after))
        return "\n".join(lines)


def put(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Puts modules at paths that exist, in the order of their parents' other modules."""
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        # Not setattr, which a model may have made its own, and which could fail half-way.
        model.get_submodule(parent)._modules[name] = module


def describe(module: nn.Module | None) -> str:
    """A module in one line: its class and what it says of itself."""
    return "nothing" if module is None else f"{type(module).__name__}({module.extra_repr()})"


def _at(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _count(model: nn.Module, exchanged: Mapping[int, nn.Module]) -> int:
    """Parameters of `model`, each once, with some of its modules exchanged for others, by id."""
    found = {id(p): p.numel() for module in _walk(model, exchanged) for p in _own(module)}
    return sum(found.values())


def _walk(module: nn.Module, exchanged: Mapping[int, nn.Module]) -> Iterator[nn.Module]:
    module = exchanged.get(id(module), module)
    yield module
    for child in module.children():
        yield from _walk(child, exchanged)


def _own(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module._parameters.values() if p is not None]


def _change(what: str, before: int, after: int) -> str:
    share = f" ({after / before - 1:+.1%})" if before else ""
    return f"{what} {before:,} → {after:,}{share}"
