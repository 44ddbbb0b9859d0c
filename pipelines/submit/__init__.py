"""Submits runs to a cluster: checks versions, packs the code, and follows a job to its end."""
