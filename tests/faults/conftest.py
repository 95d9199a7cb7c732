"""The sweep as it should be, and a small disk of its own for the tests that harm one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from disturbed import SWEEP, table
from sweeps import run_main


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Results of the sweep when nothing disturbs it."""
    directory = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        assert run_main(patch, directory, *SWEEP, f"hydra.sweep.dir={directory}/sweep") == 0
    return table(directory / "sweep")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(place)]
    mounted = os.getuid() == 0 and not subprocess.run(command, capture_output=True).returncode
    if not mounted:
        pytest.skip("only root may mount a small disk, and not in every container")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
