"""The result of `swap_filters`: the replacements, their cost, and how to undo them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import nn


class Replacement(NamedTuple):
    """A module that was replaced, at one of its paths.

    Attributes:
        path: for `get_submodule`.
        old, new: the module there before and now.
    """

    path: str
    old: nn.Module
    new: nn.Module


class Skipped(NamedTuple):
    """A module that was not replaced, and why."""

    path: str
    module: nn.Module
    reason: str


class Replacements(list[Replacement]):
    """The replacements in the model's order, one per path; printed as a table.

    Attributes:
        model: with the replaced modules.
        filter: the name of the filter.
        skipped: the modules that the default selection left out; empty if `where` was given.
        dry_run: whether the model was left as it is; the new modules are then on the meta device.
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
        """Puts the new modules into the model."""
        put(self.model, {one.path: one.new for one in self})

    def undo(self) -> None:
        """Puts the old modules back, in the training or evaluation mode of the new ones.

        `RuntimeError` if one of the new modules is not where the swap has put it: the model was
        changed since, the swap undone already, or it was a dry run. The model then stays as it is.
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
    """Replaces the modules at existing paths, and keeps the order of their parents' modules."""
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        # A model may override setattr, which could then fail half-way.
        model.get_submodule(parent)._modules[name] = module


def describe(module: nn.Module | None) -> str:
    """Describes a module in one line: its class and its `extra_repr`."""
    return "nothing" if module is None else f"{type(module).__name__}({module.extra_repr()})"


def _at(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _count(model: nn.Module, exchanged: Mapping[int, nn.Module]) -> int:
    """Counts the parameters of `model`, each once, with some modules, by id, exchanged."""
    parts = _walk(model, exchanged)
    return sum({id(p): p.numel() for part in parts for p in _own_parameters(part)}.values())


def _walk(module: nn.Module, exchanged: Mapping[int, nn.Module]) -> Iterator[nn.Module]:
    module = exchanged.get(id(module), module)
    yield module
    for child in module.children():
        yield from _walk(child, exchanged)


def _own_parameters(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module._parameters.values() if p is not None]


def _change(what: str, before: int, after: int) -> str:
    share = f" ({after / before - 1:+.1%})" if before else ""
    return f"{what} {before:,} → {after:,}{share}"
