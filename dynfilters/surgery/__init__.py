"""Exchanges modules of any model for filters of the zoo."""

from dynfilters.surgery.geometry import CannotReplaceError
from dynfilters.surgery.replacements import Replacement, Replacements, Skipped
from dynfilters.surgery.swap import swap_filters

__all__ = ["CannotReplaceError", "Replacement", "Replacements", "Skipped", "swap_filters"]
