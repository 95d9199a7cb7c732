"""The version, for modules that are imported before the package is whole."""

__version__ = "0.1.0"
