"""Building blocks: taps, activations, branches, and the base of every filter."""

from dynfilters.nn.activations import (
    FilterNorm,
    check_activations,
    create_activation,
    list_activations,
    nonlinearity_gain,
    register_activation,
)
from dynfilters.nn.attentions import AttentionsBranch
from dynfilters.nn.branches import (
    BottleneckBranch,
    EncoderBranch,
    ExpertsBranch,
    GroupedFCBranch,
    PointwiseBranch,
    SqueezeExciteBranch,
    TapsBranch,
)
from dynfilters.nn.layers import DenseFilter, DepthwiseFilter, DynamicFilter
from dynfilters.nn.taps import Taps

__all__ = [
    "AttentionsBranch",
    "BottleneckBranch",
    "DenseFilter",
    "DepthwiseFilter",
    "DynamicFilter",
    "EncoderBranch",
    "ExpertsBranch",
    "FilterNorm",
    "GroupedFCBranch",
    "PointwiseBranch",
    "SqueezeExciteBranch",
    "Taps",
    "TapsBranch",
    "check_activations",
    "create_activation",
    "list_activations",
    "nonlinearity_gain",
    "register_activation",
]
