"""Checks of captions, made before anything is loaded, and how messages show them."""

from collections.abc import Sequence

from unclip.config import ConfigError

MAX_CHARS = 1500  # of a caption; the 77 tokens of most CLIPs are some 350
SHOWN = 60  # letters of a caption in a message or a label


def beginning(caption: str) -> str:
    """The caption, or its first letters if it has more than `SHOWN`."""
    return caption if len(caption) <= SHOWN else f"{caption[:SHOWN].rstrip()}…"


def check_caption(caption: object) -> str:
    """The caption; raises `ConfigError` if it is empty, too long, or not text."""
    if not isinstance(caption, str):
        raise ConfigError(
            f"a caption is {caption!r}, which is not text; give a str, or several in a list"
        )
    if not caption.strip():
        raise ConfigError('a caption is empty; give one, such as "a red heart"')
    if len(caption) > MAX_CHARS:
        raise ConfigError(
            f"a caption has {len(caption)} characters, and no model reads more than {MAX_CHARS}; "
            f"shorten it: {caption[:40]!r}…"
        )
    if "\0" in caption or any("\ud800" <= letter <= "\udfff" for letter in caption):
        raise ConfigError(
            f"a caption is not text: {caption[:40]!r} has bytes that are no characters; write it "
            "in UTF-8"
        )
    return caption


def check_captions(captions: str | Sequence[str]) -> list[str]:
    """One caption or several, as a list; raises `ConfigError` if one of them cannot be used."""
    several: object = [captions] if isinstance(captions, str) else captions
    if not isinstance(several, Sequence) or isinstance(several, bytes):
        raise ConfigError(f"captions={captions!r} is not text; give a str, or several in a list")
    if not several:
        raise ConfigError('there is no caption; give one, such as "a red heart"')
    return [check_caption(caption) for caption in several]


def check_count(num_images: object) -> None:
    """Raise `ConfigError` unless this is a number of images above 0."""
    if not isinstance(num_images, int) or num_images < 1:
        raise ConfigError(f"num_images={num_images!r} must be a whole number of at least 1")
