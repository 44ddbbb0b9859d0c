"""Ratios measured in one run; what they gave is in README.md."""
