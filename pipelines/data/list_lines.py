"""The lines of a text file, with a bound on the length of a row."""

import io
from collections.abc import Iterator
from typing import IO

from pipelines.data.list_columns import MAX_BYTES
from pipelines.data.list_errors import ListContentError

BYTES_PER_CHAR = 4  # at most, in UTF-8


class Lines(Iterator[str]):
    """Iterates over the lines of a file, with their line breaks, and counts them.

    A row may take several lines. Its reader calls `start_row` before each row. Bytes that are not
    valid in the encoding become lone surrogates, so that the fault can be reported with its row.
    """

    max_row_chars = MAX_BYTES // BYTES_PER_CHAR

    def __init__(self, source: IO[bytes], encoding: str) -> None:
        encoding = "utf-8-sig" if encoding == "utf-8" else encoding  # without byte order mark
        self._text = io.TextIOWrapper(source, encoding, errors="surrogateescape", newline="")
        self.number = 0  # of lines read
        self.chars = 0  # read
        self.row_line = 1  # the line where the row starts
        self._row_start = 0  # in characters

    def start_row(self) -> None:
        """Say that the next line starts a row."""
        self.row_line, self._row_start = self.number + 1, self.chars

    def __next__(self) -> str:
        """The next line. Raises `ListContentError` if the row is longer than `max_row_chars`."""
        line = self._text.readline(self.max_row_chars + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.chars += len(line)
        if self.chars - self._row_start > self.max_row_chars:
            raise ListContentError(
                f"starts a row of more than {self.max_row_chars:,} characters",
                "Check for a quote that is not closed, or take the row out.",
                place=f"line {self.row_line}",
            )
        return line
