"""Networks with a place for any filter of the zoo."""

import importlib
from typing import Any

from dynfilters.models import variants
from dynfilters.models.backbone import Backbone, FeatureInfo, FeatureMaps, Stage
from dynfilters.models.checkpoints import CheckpointError, read_checkpoint
from dynfilters.models.pretrained import (
    from_pretrained,
    load_model,
    push_to_hub,
    save_model,
    save_pretrained,
)
from dynfilters.models.registry import create_model, list_models, model_summary, register_model
from dynfilters.models.resnet import ResNet
from dynfilters.models.shufflenet import ShuffleNetV2
from dynfilters.models.small_resnet import SmallResNet
from dynfilters.models.upsampler import UpsamplingNet

__all__ = [
    "Backbone",
    "CheckpointError",
    "FeatureInfo",
    "FeatureMaps",
    "ResNet",
    "ShuffleNetV2",
    "SmallResNet",
    "Stage",
    "UpsamplingNet",
    "create_model",
    "from_pretrained",
    "list_models",
    "load_model",
    "model_summary",
    "push_to_hub",
    "read_checkpoint",
    "register_model",
    "save_model",
    "save_pretrained",
    "variants",
]


def __getattr__(name: str) -> Any:
    """Looks up names that moved to `dynfilters.surgery`."""
    if name in ("Replacement", "Replacements", "Skipped", "swap_filters"):
        return getattr(importlib.import_module("dynfilters.surgery"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
