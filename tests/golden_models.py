"""The published networks, by the numbers of `golden/model_*.json`.

Each holds the keys of the official state dict, a formula for its weights, and what the official
code gives for them. `golden/README.md` describes the format.
"""

from __future__ import annotations

import json
import math

import numpy as np
import torch
from golden_cases import FOLDER
from torch import Tensor, nn

import dynfilters

NAMES = sorted(path.stem.removeprefix("model_") for path in FOLDER.glob("model_*.json"))
SOURCES = {"ddf": "ddfnet", "rednet": "involution", "resn": "timm"}  # by how the name begins


class Golden:
    """One published network: its facts (`data`), and their reading as tensors."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.data = json.loads((FOLDER / f"model_{name}.json").read_text())
        self.source = next(s for start, s in SOURCES.items() if name.startswith(start))
        self.num_classes = 0 if "headless" in self.data else 1000

    def state_dict(self) -> dict[str, Tensor]:
        """The deterministic weights under the official keys, float32."""
        gain = self.data["weights"]["gain"]
        return {
            key: torch.from_numpy(weight(tuple(shape), dtype, kind, index, gain))
            for key, shape, dtype, kind, index in self.data["state_dict"]
        }

    def model(self) -> nn.Module:
        """Ours, with the official weights loaded, in float64 and evaluation mode."""
        model = dynfilters.create_model(self.name, num_classes=self.num_classes)
        dynfilters.load_official(model, self.state_dict(), self.source)
        return model.double().eval()

    def image(self) -> Tensor:
        shape = self.data["input"]["shape"]
        return torch.arange(math.prod(shape), dtype=torch.float64).mul(0.01).cos().reshape(shape)

    def output(self) -> Tensor:
        found = self.data["output"]
        return torch.tensor(found["values"], dtype=torch.float64).reshape(found["shape"])


def weight(
    shape: tuple[int, ...], dtype: str, kind: str, index: int | None, gain: float
) -> np.ndarray:
    """The values of one tensor: hashed places, scaled by what the tensor is."""
    constant = {"running_mean": 0, "num_batches_tracked": 0, "running_var": 1}
    if kind in constant:
        return np.full(shape, constant[kind], dtype)
    with np.errstate(over="ignore"):  # modulo 2^32 is meant
        x = np.arange(math.prod(shape), dtype=np.uint32) + np.uint32(index * 2654435769 % 2**32)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x7FEB352D)
        x ^= x >> np.uint32(15)
        x *= np.uint32(0x846CA68B)
        x ^= x >> np.uint32(16)
    u = x / 2.0**31 - 1
    values = {
        "matrix": lambda: gain * math.sqrt(3 / math.prod(shape[1:])) * u,
        "norm_weight": lambda: 1 + 0.1 * u,
        "bias": lambda: 0.1 * u,
        "filter_norm_std": lambda: math.sqrt(2 / 3) * u,
    }
    return values[kind]().reshape(shape).astype(dtype)


def statistics(feature_map: Tensor) -> dict[str, object]:
    """Of one stage, as the files have them."""
    return {
        "shape": list(feature_map.shape),
        "mean": feature_map.mean().item(),
        "std_unbiased": feature_map.std().item(),
        "abs_max": feature_map.abs().max().item(),
        "first_sample_channel_means_0_to_7": feature_map[0, :8].mean((1, 2)).tolist(),
    }
