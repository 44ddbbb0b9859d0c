"""Evaluation: generate images for captions, and measure how good they are."""
