"""Training at scale: what `python -m experiments.train` is made of.

settings → what is wrong is said first; launch → processes; folder, shards, images, order, loading,
readers → batches; augment, recipe → what a step does; engine → steps; evaluation;
checkpoint, journal → what stays on the disk; run → one run from beginning to end.
"""
