"""A kind of job: its settings, their check, their canonical form, and its run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dynfilters
from dynfilters.filters.registry import options_without_effect


@dataclass(frozen=True)
class Task:
    """One kind of job, in `jobs.TASKS` under the name that `task=` chooses.

    `sections`: the groups of settings that belong to it, and to no other task.
    `canonical(settings)`: its settings as plain data, less whatever cannot change the result.
    `check(settings, canonical)`: `ValueError` if the settings as given, or in canonical form,
    cannot run.
    `run(canonical, directory, progress)`: parts of the result, each as soon as it is known.
    """

    sections: frozenset[str]
    canonical: Callable[[Mapping[str, Any]], dict[str, Any]]
    check: Callable[[Mapping[str, Any], Mapping[str, Any]], None]
    run: Callable[[Mapping[str, Any], Path, bool | None], Iterator[dict[str, Any]]]


def canonical_filter(options: Mapping[str, Any]) -> dict[str, Any]:
    """The canonical form of `create_filter`'s keywords. `KeyError` if the name is unknown."""
    info = dynfilters.filter_info(options["name"])
    idle = options_without_effect(options["name"])
    full = {**info.options, **{key: value for key, value in options.items() if key not in idle}}
    given = {key: full.pop(key) for key in list(full) if key.endswith("activation")}
    if info.default_activation is not None:
        own = given.pop("activation", None) or info.default_activation
        branches = {key: given[key] or own for key in given.keys() - idle}
        # Where all branches have another one, it is as if that had been asked for.
        own = branches.popitem()[1] if len(set(branches.values())) == 1 else own
        full.update({key: given[key] or own for key in given}, activation=own)
    size = full.get("kernel_size")
    if isinstance(size, list) and len(set(size)) == 1:
        full["kernel_size"] = size[0]
    return dict(sorted(full.items()))
