"""Options and reports shared by all tests."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requirements
import torch
from toolbox import FakeCompiler

from dynfilters.filters import registry as filter_registry
from dynfilters.models import registry
from dynfilters.native import loader, toolchain

DTYPES = {"float64": torch.float64, "float32": torch.float32}


# Nothing is left in the user's own cache; processes that a test starts look here too.
os.environ.setdefault("DYNFILTERS_CACHE", str(Path(__file__).parents[1] / "build" / "native"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what cannot run on this machine, and puts what lasts long first."""
    left_out = [item for item in items if requirements.unmet(item)]
    config.hook.pytest_deselected(items=left_out)
    left = set(left_out)
    items[:] = [item for item in items if item not in left]
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compiles the native kernels before the first test that computes: not in its time, nor into
    the output that it captures. Of several processes one compiles, and the others wait."""
    if hasattr(getattr(item, "module", None), "torch"):
        with warnings.catch_warnings():
            warnings.simplefilter("always")  # not an error, which would be that of this test
            loader.select_backend("cpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where tests of layers and ops run")
    parser.addoption("--integrations", type=Path, help="write the capability matrix here")
    parser.addoption("--dtype", default="float64", choices=sorted(DTYPES))


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return DTYPES[request.config.getoption("--dtype")]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Filters that a test registers are gone after it: others look at all names."""
    before = dict(filter_registry._filters._entries)
    yield
    filter_registry._filters._entries.clear()
    filter_registry._filters._entries.update(before)


@pytest.fixture
def fake_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    """A stand-in for g++ and nvcc, an empty cache, and a temporary directory of the test's own."""
    fake = FakeCompiler(tmp_path, toolchain.TORCH / "lib" / "libtorch_global_deps.so")
    for name, value in fake.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DYNFILTERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return fake


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    _golden_cases(terminalreporter)
    _capability_matrix(terminalreporter, config.getoption("--integrations"))


def _capability_matrix(terminalreporter, path: Path | None) -> None:
    """Filters against capabilities, printed if any were tested and written to `path` if given."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    found = [value for r in reports for key, value in r.user_properties if key == "capability"]
    if not found:
        return
    from dynfilters.experiments.site import (
        integrations,  # it brings torch's compiler, which others do without
    )

    cells = integrations.collect(found)
    terminalreporter.write_line(integrations.table(cells))
    for reason in integrations.reasons(cells):
        terminalreporter.write_line(reason)
    if path is not None:
        integrations.save(cells, path)


def _golden_cases(terminalreporter) -> None:
    """How many of the golden cases agree, by data type."""
    counts: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            if "test_golden_case[" in report.nodeid and report.when == "call":
                counts[report.nodeid.rpartition("-")[2].rstrip("]"), outcome] += 1
    for kind in sorted({kind for kind, _ in counts}):
        agree = counts[kind, "passed"]
        total = agree + counts[kind, "failed"] + counts[kind, "error"]
        terminalreporter.write_line(f"golden cases that agree in {kind}: {agree} of {total}")


@pytest.fixture
def plugged_in() -> Iterator[None]:
    """For a test that imports `trainer_plugin`: afterwards its model is gone from all lists."""
    yield
    registry._models._entries.pop("plugged_in", None)
    sys.modules.pop("trainer_plugin", None)
