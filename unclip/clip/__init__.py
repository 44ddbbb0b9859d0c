"""CLIP: its configs (`config`), their checks (`check`), the frozen model (`frozen`) and training.

The package exports only the configs, because the other modules import open_clip, which takes
seconds.
"""

from unclip.clip.config import ClipArchitecture, ClipConfig

__all__ = ["ClipArchitecture", "ClipConfig"]
