"""Training at scale: what `python -m experiments.train` is made of.

settings: refuses what cannot run, before anything starts · launch: processes and signals ·
sources, images, loading: batches · augment: what happens to them on the device ·
engine: steps, evaluation · checkpoint: what stays on the disk · run: all of it.
training and data are the small engine of a sweep's jobs.
"""
