"""Tries the wheel where nothing but its dependencies is installed; run outside the checkout.

python tests/installed.py    # `make package` does, with a new environment's python
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

import dynfilters

EXTRAS = ("hydra", "sklearn", "matplotlib", "tqdm", "pytest", "onnx", "kornia")


def main() -> None:
    home = Path(dynfilters.__file__).resolve().parent
    assert Path(__file__).resolve().parents[1] / "dynfilters" != home, "this is the checkout"
    found = [name for name in EXTRAS if importlib.util.find_spec(name)]
    assert not found, f"expected an environment without extras, found {found}"
    for part in ("py.typed", "conf/filter/ddf.yaml", "csrc/cpu/forward.cpp"):
        assert (home / part).is_file(), f"{part} is missing"
    for name in dynfilters.list_filters():
        x = torch.randn(2, 32, 9, 7, requires_grad=True)
        dynfilters.create_filter(name, 32)(x).square().mean().backward()
        assert x.grad.isfinite().all(), name
    print(f"{len(dynfilters.list_filters())} filters, kernels: {dynfilters.ops.backend('cpu')}")


if __name__ == "__main__":
    main()
