"""Scenes that a program draws from a caption, and checks."""
