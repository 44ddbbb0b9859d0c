"""Benchmarks that compare implementations within one run; README.md has the results."""
