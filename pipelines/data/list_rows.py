"""Parsers of the text formats of URL lists: from lines to rows, one at a time.

Python's parsers are used. Arrow's streaming parser of CSV reads ahead in threads, which abort the
process if it exits before they end, and refuses rows that are longer than its block.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.data.list_columns import MAX_ROWS, check_columns
from pipelines.data.list_errors import ListContentError, shown
from pipelines.data.list_lines import Lines

DELIMITERS = ";\t,|"  # to suggest for a header of one field
QUOTE_HINT = "Write a quote inside a quoted field twice, and close every quote."

Row = tuple[int, Sequence[Any]]  # the line where it starts; per column str, list of str or None


@dataclass(frozen=True)
class ListOptions:
    """How the files of a list are read."""

    names: tuple[str, ...]  # of the columns
    delimiter: str | None = None  # of CSV and TSV; None: by the suffix
    encoding: str = "utf-8"  # of text files
    batch_rows: int = MAX_ROWS


def csv_rows(lines: Lines, options: ListOptions, *, delimiter: str) -> Iterator[Row]:
    """The rows below the header, each with as many fields. Raises `ListContentError`.

    delimiter: if the options name none.
    """
    records = _records(lines, options.delimiter or delimiter)
    _, header = next(records, (0, None))
    if header is None:
        raise ListContentError("is empty", "Give a list with a header line and at least one row.")
    _check_header(header, options.names)
    positions = [header.index(name) for name in options.names]
    for line, record in records:
        if len(record) != len(header):
            plural = "" if len(record) == 1 else "s"
            raise ListContentError(
                f"has {len(record)} field{plural}, but the header has {len(header)}",
                "Put a field that contains the delimiter, a quote or a line break into quotes.",
                place=f"line {line:,}",
            )
        yield line, [record[position] for position in positions]


def _records(lines: Lines, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The line where each row starts and its fields, without blank rows."""
    # Python's default refuses long captions.
    csv.field_size_limit(max(csv.field_size_limit(), lines.max_row_chars))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.start_row()
        try:
            record = next(reader, None)
        except csv.Error as error:
            place = f"line {lines.row_line:,}"
            raise ListContentError(f"is malformed: {error}", QUOTE_HINT, place=place) from None
        if record is None:
            return
        if len(record) > 1 or "".join(record).strip():
            yield lines.row_line, record


def _check_header(header: Sequence[str], names: Sequence[str]) -> None:
    """Raise `ListContentError` if a column is missing; suggest a delimiter for a single field."""
    other = next((sign for sign in DELIMITERS if len(header) == 1 and sign in header[0]), None)
    if other and not set(names) <= set(header):
        raise ListContentError(
            f"has the single column {shown(header[0])}",
            f"If {other!r} separates its columns, set source.delimiter to {json.dumps(other)}.",
        )
    check_columns(header, names)


def json_rows(lines: Lines, options: ListOptions) -> Iterator[Row]:
    """One row for each line, None for a column that the line lacks. Raises `ListContentError`."""
    missing, record = set(options.names), None
    for line in lines:
        if not line.isspace():
            record = _object(line, lines.number)
            missing -= record.keys()
            values = [_plain(record.get(name), name, lines.number) for name in options.names]
            yield lines.number, values
        lines.start_row()
    if record is not None and missing:
        check_columns(tuple(record), [name for name in options.names if name in missing])


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        problem = f"is not valid JSON ({error.msg} at character {error.pos + 1})"
    except (ValueError, RecursionError):
        problem = "is no JSON that can be read (it nests too deeply, or has too long a number)"
    else:
        if isinstance(record, dict):
            return record
        problem = "is not a JSON object"
    raise ListContentError(
        f"{problem}: {shown(line.strip())}",
        "Write one JSON object in each line.",
        place=f"line {number:,}",
    )


def _plain(value: Any, name: str, line: int) -> Any:
    """A string, a list of strings, or None. Other scalars become text, as they are in CSV."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        return [_plain(item, name, line) for item in value]
    raise ListContentError(
        f"has {shown(value)} in the column {name!r}, which is neither text nor a list of texts",
        "Name another column, or write the value as a string.",
        place=f"line {line:,}",
    )
