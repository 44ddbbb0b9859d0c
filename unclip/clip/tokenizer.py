"""CLIP's byte-pair tokenizer, without the seconds that the import of open_clip takes."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unclip.captions import MAX_CHARS

Tokenizer = Callable[[list[str]], Tensor]

ENDS = 2  # tokens that mark the start and the end of a caption
CACHED_CAPTIONS = 20_000  # whose tokens are remembered, in about 20 MB
CACHED_WORDS = 100_000  # whose tokens open_clip's tokenizer remembers


def simple_tokenizer(context_length: int) -> Tokenizer:
    """open_clip's `SimpleTokenizer`: captions to tokens (B, L) int64, padded with 0.

    It remembers captions, because open_clip takes 60 µs for one, and other threads wait meanwhile.
    """
    vocabulary = _vocabulary()

    @lru_cache(CACHED_CAPTIONS)
    def tokens_of(caption: str) -> Tensor:
        tokens: Tensor = vocabulary(caption, context_length)[0]
        return tokens

    return lambda captions: torch.stack([tokens_of(caption) for caption in captions])


class Cut(NamedTuple):
    """A caption that is too long for a text encoder."""

    tokens: int  # of the whole caption, without its ends
    read: int  # the first of them
    left_out: str  # the text of the others, in lower case


def cut(caption: str, context_length: int) -> Cut | None:
    """What a text encoder reads of a caption; None if it reads all."""
    tokenizer, read = _vocabulary(), context_length - ENDS
    tokens = tokenizer.encode(shortened(caption))
    if len(tokens) <= read:
        return None
    left_out = tokenizer.decode(tokens[read:]).strip(" \ufffd")  # of letters of several bytes
    return Cut(len(tokens), read, left_out)


@cache
def _vocabulary() -> Any:
    """open_clip's `SimpleTokenizer`, which takes a tenth of a second to make."""
    return with_bounded_cache(_module().SimpleTokenizer())


def shortened(caption: str) -> str:
    """The beginning of a caption, without the white space that tokenizers ignore.

    They read a whole caption before they truncate it, in a time that grows with the square of its
    longest word: a word of 10,000 letters takes ten seconds, one of a million takes a day.
    """
    return " ".join(caption.split())[:MAX_CHARS]


def with_bounded_cache(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer; open_clip's own would remember every word that it ever meets."""
    if isinstance(words := getattr(tokenizer, "cache", None), dict):
        tokenizer.cache = _FirstWords(words)  # type: ignore[attr-defined]
    return tokenizer


class _FirstWords(dict[str, str]):
    """Keeps the first words that it is given: common ones come early."""

    def __setitem__(self, word: str, tokens: str) -> None:
        if len(self) < CACHED_WORDS:
            super().__setitem__(word, tokens)


@cache
def _module() -> ModuleType:
    """open_clip/tokenizer.py, loaded by its path unless the package is imported already.

    The file imports nothing of its package, whose __init__ would import torchvision, timm and
    transformers.
    """
    if "open_clip" in sys.modules:
        return importlib.import_module("open_clip.tokenizer")
    package = importlib.util.find_spec("open_clip")
    assert package is not None
    assert package.origin is not None  # a dependency of this package
    file = Path(package.origin).with_name("tokenizer.py")
    spec = importlib.util.spec_from_file_location("unclip.clip._open_clip_tokenizer", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
