"""Judges: representations of images that had no part in training the models.

A distance between generated and real images says something only if the features that it compares
were not optimised by the training. `load_judge` gives such features. The package exports only the
config, because the networks take seconds to import.
"""

from unclip.judges.config import JudgeConfig

__all__ = ["JudgeConfig"]
