"""Arithmetic on CLIP embeddings: principal components and quantisation."""
