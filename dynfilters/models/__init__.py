"""Networks with a place for any filter of the zoo."""

from dynfilters.models.registry import create_model, list_models, register_model
from dynfilters.models.small_resnet import SmallResNet
from dynfilters.models.upsampler import UpsamplingNet

__all__ = ["SmallResNet", "UpsamplingNet", "create_model", "list_models", "register_model"]
