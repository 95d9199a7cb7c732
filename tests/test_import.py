"""Importing the package is quick, and has no side effects."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toolbox import PATIENCE

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[1]
OPTIONAL = [
    "hydra",
    "omegaconf",
    "sklearn",
    "skimage",
    "pandas",
    "matplotlib",
    "scipy",
    "torchvision",
    "timm",
    "tqdm",
    "PIL",
    "lightning_fabric",
    "kornia",
    "webdataset",
    "safetensors",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "huggingface_hub",
]

SCRIPT = """
import json, sys, time
import torch
before = set(sys.modules)
events = []
started = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.fork")
sys.addaudithook(lambda event, args: events.append(event) if event in started else None)
for name in sys.argv[1:]:
    sys.modules.setdefault(name, None)  # as if not installed
wall, cpu = time.perf_counter(), time.process_time()
import dynfilters
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({
    "wall": wall,
    "cpu": cpu,
    "filters": dynfilters.list_filters(),
    "added": sorted({name.partition(".")[0] for name in set(sys.modules) - before}),
    "compilers": [n for n in ("torch.utils.cpp_extension", "torch._inductor.codecache", "triton")
                  if n in set(sys.modules) - before],
    "started": events,
    "cuda": torch.cuda.is_initialized(),
}))
"""


def _import(*without: str) -> dict:
    """Imports the package in its own interpreter, without some modules; returns what it saw."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, *without],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def imports() -> list[dict]:
    return [_import() for _ in range(3)]


def test_it_takes_less_than_0_3_s_beyond_torch(imports: list[dict]) -> None:
    """Of processor time, which other processes on a busy machine do not lengthen much."""
    assert min(one["cpu"] for one in imports) < 0.3


def test_it_needs_no_extra() -> None:
    assert len(_import(*OPTIONAL)["filters"]) >= 13


def test_it_brings_nothing_but_itself_and_its_dependencies(imports: list[dict]) -> None:
    foreign = set(imports[0]["added"]) - set(sys.stdlib_module_names)
    assert foreign <= {"dynfilters", "einops", "numpy", "torch"}


def test_it_compiles_nothing_and_starts_no_cuda(imports: list[dict]) -> None:
    for one in imports:
        assert one["compilers"] == [] and one["started"] == []
        assert not one["cuda"]
