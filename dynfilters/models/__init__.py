"""Networks with a place for any filter of the zoo."""

from dynfilters.models import variants
from dynfilters.models.backbone import Backbone, FeatureInfo, FeatureMaps, Stage
from dynfilters.models.registry import create_model, list_models, model_summary, register_model
from dynfilters.models.resnet import ResNet
from dynfilters.models.shufflenet import ShuffleNetV2
from dynfilters.models.small_resnet import SmallResNet

__all__ = [
    "Backbone",
    "FeatureInfo",
    "FeatureMaps",
    "ResNet",
    "ShuffleNetV2",
    "SmallResNet",
    "Stage",
    "create_model",
    "list_models",
    "model_summary",
    "register_model",
    "variants",
]
