"""Old import paths lead to the same objects as the new ones."""

from __future__ import annotations

import importlib
import pickle

import pytest

from dynfilters import _moved


@pytest.fixture
def rows(monkeypatch):
    """Rows of the test's own: a module that is gone, a package that is gone, a renamed class."""
    new = ("dynfilters.nn.layers", "dynfilters.nn.linear")
    monkeypatch.setitem(_moved.MOVED, "dynfilters.gone", new)
    monkeypatch.setitem(_moved.MOVED, "dynfilters.gone.inner", new[1:])
    monkeypatch.setitem(_moved.RENAMED, "Dense", "GroupedLinear")


def test_names_are_found_where_they_are_now(rows) -> None:
    from dynfilters.gone import Dense, GroupedLinear, Taps
    from dynfilters.gone.inner import GroupedLinear as inner
    from dynfilters.nn import layers, linear

    assert Taps is layers.Taps
    assert Dense is GroupedLinear is inner is linear.GroupedLinear


def test_pickles_that_name_an_old_path_load(rows) -> None:
    from dynfilters.nn.linear import GroupedLinear

    assert pickle.loads(b"cdynfilters.gone.inner\nDense\n.") is GroupedLinear


def test_what_is_nowhere_is_said_to_be(rows) -> None:
    with pytest.raises(ImportError, match="nothing_of_the_kind"):
        from dynfilters.gone import nothing_of_the_kind  # noqa: F401
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("dynfilters.never_was")


@pytest.mark.parametrize("old", sorted(_moved.MOVED))
def test_every_row_leads_to_modules_that_exist(old: str) -> None:
    importlib.import_module(old)
    for new in _moved.MOVED[old]:
        assert importlib.import_module(new).__name__ == new
