"""Generated parts of this repository's own README and documentation."""
