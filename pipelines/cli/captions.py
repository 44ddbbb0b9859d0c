"""The captions of `unclip generate`: arguments, a file, or standard input."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.core.errors import PipelineError
from unclip.captions import check_caption
from unclip.config import UnclipError

STDIN = "-"
CONFIG_SUFFIXES = (".yaml", ".yml")


def split_config(words: Sequence[str], *, more: bool) -> tuple[list[str], str | None]:
    """The captions, and the configuration if the last word names one.

    more: whether captions come from elsewhere too, so that the only word can be a configuration.
    """
    if words and (more or len(words) > 1) and _names_config(words[-1]):
        return list(words[:-1]), words[-1]
    return list(words), None


def read_captions(words: Sequence[str], file: str | None) -> list[str]:
    """The words, with those of standard input for "-", then the lines of the file.

    Blank lines are skipped. Raises `PipelineError` if a caption cannot be used, or there is none.
    """
    captions: list[str] = []
    for word in words:
        captions += _lines(_read_stdin(), "standard input") if word == STDIN else [_checked(word)]
    if file is not None:
        captions += _lines(_read_file(file), file)
    if not captions:
        raise PipelineError('There is no caption. Give one, such as "a red heart", or a file.')
    return captions


def _names_config(word: str) -> bool:
    from pipelines.config.files import PACKAGED

    return word.endswith(CONFIG_SUFFIXES) or word in {path.stem for path in PACKAGED.glob("*.yaml")}


def _read_stdin() -> bytes:
    return sys.stdin.buffer.read()


def _read_file(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise PipelineError(
            f"The file of captions {name} cannot be read: {error.strerror}. Give a text file with "
            "one caption in each line."
        ) from error


def _lines(content: bytes, where: str) -> list[str]:
    """The captions in the lines of a text."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise PipelineError(
            f"{where}, line {line}: byte {content[error.start]:#04x} is not UTF-8. Save the "
            "captions as UTF-8, one in each line."
        ) from error
    lines = enumerate(text.splitlines(), 1)
    captions = [_checked(line, f"{where}, line {n}: ") for n, line in lines if line.strip()]
    if not captions:
        raise PipelineError(f"{where} has no caption. Write one in each line.")
    return captions


def _checked(caption: str, where: str = "") -> str:
    try:
        return check_caption(caption.strip() or caption)
    except UnclipError as error:
        raise PipelineError(f"{where}{error}.") from error
