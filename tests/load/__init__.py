"""A stress test of the experiments' tools: thousands of jobs, a million recorded values."""
