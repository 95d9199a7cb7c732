"""Benchmarks: every candidate is checked against float64 first, then timed (`benchmarks.run`)."""
