"""Benchmarks: `make bench-NAME` runs one, with its peer on the same work in the same run."""
