"""Around the jobs of a sweep: composing, checking, naming, locking, running."""
