"""Weights of the published implementations, under the keys that their code gives them."""

from dynfilters.models.official.loading import OfficialWeightsError, check_official, load_official
from dynfilters.models.official.sources import SOURCES

__all__ = ["SOURCES", "OfficialWeightsError", "check_official", "load_official"]
