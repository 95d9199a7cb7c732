"""The files that an installed package has."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from toolbox import PATIENCE

from dynfilters.native import toolchain

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[1]
SHIPPED = ("dynfilters", "conf", "csrc", "experiments", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, by the setuptools that torch brings, without a network."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    program = "from setuptools import build_meta as b; print(b.build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=copy, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = copy.glob("*.whl")
    return found


def test_the_sources_of_the_kernels_are_in_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """All of them: the installed copy hashes to the same recipe as the checkout."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = (
        "from dynfilters.native import toolchain as t\n"
        "print(t.sources(), t.recipe('cpu'), t.recipe('cuda'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    expected = [str(tmp_path / "dynfilters" / "csrc"), *map(toolchain.recipe, ("cpu", "cuda"))]
    assert done.stdout.split() == expected


def test_the_wheel_has_every_module_the_configuration_and_the_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "dynfilters").rglob("*.py")}
    settings = {f"dynfilters/{p.relative_to(ROOT)}" for p in (ROOT / "conf").rglob("*.yaml")}
    experiments = {f"dynfilters/{p.relative_to(ROOT)}" for p in (ROOT / "experiments").rglob("*.*")}
    experiments = {name for name in experiments if "__pycache__" not in name}
    assert modules | settings | experiments <= names
    assert not {name for name in names if name.endswith((".so", ".pyc")) or "tests/" in name}
    assert {re.sub(r"-.*", "", name.split("/")[0]) for name in names} == {"dynfilters"}
    (entries,) = (name for name in names if name.endswith("entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(archive.read(entries).decode())
    assert parser["console_scripts"]["dynfilters"] == "dynfilters.cli:main"
