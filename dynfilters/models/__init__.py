"""Networks with a place for any filter of the zoo."""

from dynfilters.models.registry import create_model, list_models, register_model
from dynfilters.models.small_resnet import SmallResNet

__all__ = ["SmallResNet", "create_model", "list_models", "register_model"]
