"""The zoo, one file a paper."""

from dynfilters.filters.carafe import Carafe, CarafeUp
from dynfilters.filters.condconv import CondConv, DwCondConv
from dynfilters.filters.ddf import DDF, DDFChannel, DDFSpatial, DDFUp
from dynfilters.filters.involution import Involution
from dynfilters.filters.odconv import DwODConv, ODConv
from dynfilters.filters.registry import (
    FilterInfo,
    create_filter,
    filter_info,
    list_filters,
    register_filter,
)
from dynfilters.filters.static import Conv, DwConv
from dynfilters.filters.weightnet import DwWeightNet, WeightNet

__all__ = [
    "DDF",
    "Carafe",
    "CarafeUp",
    "CondConv",
    "Conv",
    "DDFChannel",
    "DDFSpatial",
    "DDFUp",
    "DwCondConv",
    "DwConv",
    "DwODConv",
    "DwWeightNet",
    "FilterInfo",
    "Involution",
    "ODConv",
    "WeightNet",
    "create_filter",
    "filter_info",
    "list_filters",
    "register_filter",
]
