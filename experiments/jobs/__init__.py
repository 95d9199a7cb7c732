"""The tasks of a sweep: what one job trains or measures, and its data."""
