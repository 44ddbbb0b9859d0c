"""The metrics, one module for each subject."""
