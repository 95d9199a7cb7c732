"""The operations that apply generated filters."""

from dynfilters.ops.activated import filter2d_activated
from dynfilters.ops.conv2d import conv2d_per_sample
from dynfilters.ops.ddf_generate import ddf_generate, pool_project
from dynfilters.ops.filter2d import backend, filter2d
from dynfilters.ops.reference import filter2d_reference

__all__ = [
    "backend",
    "conv2d_per_sample",
    "ddf_generate",
    "filter2d",
    "filter2d_activated",
    "filter2d_reference",
    "pool_project",
]
