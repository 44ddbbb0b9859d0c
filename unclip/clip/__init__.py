"""CLIP: its configs (`config`), the frozen model (`frozen`) and its training (`training`).

The package itself exports only the configs: the other two import open_clip, which takes seconds.
"""

from unclip.clip.config import ClipArchitecture, ClipConfig

__all__ = ["ClipArchitecture", "ClipConfig"]
