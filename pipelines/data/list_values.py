"""Conversions of a list's columns: text, numbers, digests. A fault names its row."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from pipelines.data.list_errors import ListContentError, shown

DIGEST = r"^([0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{128})$"
INCONVERTIBLE = (pa.ArrowInvalid, pa.ArrowNotImplementedError)

Place = Callable[[int], str]  # position in an array → "line 7" or "row 7"
Convert = Callable[[pa.Array], pa.Array]


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type are lists."""
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def text(array: pa.Array, name: str, place: Place) -> pa.Array:
    """An array of strings; numbers become text. Raises `ListContentError`."""
    if types.is_nested(array.type):
        raise ListContentError(
            f"has {array.type} in the column {name!r}, not text", "Name another column."
        )
    return _converted(
        array,
        _valid_text,
        place,
        problem=lambda _: f"has text that is not UTF-8 in the column {name!r}",
        hint="Write the file again as UTF-8.",
    )


def optional_text(array: pa.Array, name: str, place: Place) -> pa.Array:
    """Text whose empty strings are null, as a CSV does not distinguish them."""
    given = text(array, name, place)
    return pc.if_else(pc.equal(given, ""), None, given)


def _valid_text(array: pa.Array) -> pa.Array:
    converted = array.cast(pa.string())
    converted.validate(full=True)  # strings in Parquet files may hold any bytes
    return converted


def numbers(array: pa.Array, name: str, place: Place) -> pa.Array:
    """An array of float64; blank text and NaN become null. Raises `ListContentError`."""
    kind = array.type.value_type if types.is_dictionary(array.type) else array.type
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)):
        array = no_blanks(text(array, name, place))
    converted = _converted(
        array,
        lambda part: part.cast(pa.float64(), safe=False),
        place,
        problem=lambda bad: (
            f"has {shown(bad[0].as_py())} in the column {name!r}, which is not a number"
        ),
        hint=f"Correct the value, or declare the column as text: source.columns.{name}=text.",
    )
    return pc.if_else(pc.is_nan(converted), None, converted)


def digests(array: pa.Array, name: str, place: Place) -> pa.Array:
    """Hexadecimal digests in lower case; blank ones become null. Raises `ListContentError`."""
    given = no_blanks(pc.utf8_lower(text(array, name, place)))
    wrong = pc.index(pc.match_substring_regex(given, DIGEST), False).as_py()
    if wrong >= 0:
        raise ListContentError(
            f"has {shown(given[wrong].as_py())} in the column {name!r}, which is not the "
            "hexadecimal digest of a file by md5, sha1, sha256 or sha512 (32, 40, 64 or 128 "
            "digits)",
            "Correct the value, or leave hash_column out.",
            place=place(wrong),
        )
    return given


def no_blanks(array: pa.Array) -> pa.Array:
    """Trimmed text; what is blank becomes null."""
    trimmed = pc.utf8_trim_whitespace(array)
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)


def _converted(
    array: pa.Array,
    convert: Convert,
    place: Place,
    *,
    problem: Callable[[pa.Array], str],
    hint: str,
) -> pa.Array:
    """The converted array, or a `ListContentError` about the first row that cannot be converted."""
    try:
        return convert(array)
    except INCONVERTIBLE:
        row = next((row for row in range(len(array)) if _fails(convert, array, row)), None)
        if row is None:
            raise
        raise ListContentError(problem(array.slice(row, 1)), hint, place=place(row)) from None


def _fails(convert: Convert, array: pa.Array, row: int) -> bool:
    try:
        convert(array.slice(row, 1))
    except INCONVERTIBLE:
        return True
    return False
