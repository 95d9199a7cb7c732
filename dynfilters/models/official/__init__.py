"""Loads weights of published implementations, by the keys of their code."""

from dynfilters.models.official.loading import OfficialWeightsError, check_official, load_official
from dynfilters.models.official.sources import SOURCES

__all__ = ["SOURCES", "OfficialWeightsError", "check_official", "load_official"]
