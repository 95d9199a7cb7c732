"""Building blocks: taps, activations, branches, and the base of every filter."""

from dynfilters.nn.activations import (
    FilterNorm,
    check_activations,
    create_activation,
    list_activations,
    nonlinearity_gain,
    register_activation,
)
from dynfilters.nn.branches import (
    AttentionsBranch,
    BottleneckBranch,
    EncoderBranch,
    ExpertsBranch,
    GroupedFCBranch,
    PointwiseBranch,
    SqueezeExciteBranch,
    TapsBranch,
)
from dynfilters.nn.layers import DenseFilter, DepthwiseFilter, DynamicFilter, Taps

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
