"""Columns of vectors and numpy arrays."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.core.tables import to_column, to_numpy

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize(
    "column",
    [
        to_column(VECTORS),
        pa.chunked_array([to_column(VECTORS)]),
        pa.chunked_array([to_column(VECTORS[:1]), to_column(VECTORS[1:])]),
        pa.chunked_array([pa.concat_arrays([to_column(VECTORS[:2])] * 2)]).slice(2, 2),
        to_column(VECTORS).slice(1, 2),
        pa.array(VECTORS.astype(np.float64).tolist(), pa.list_(pa.float64(), 3)),
    ],
)
def test_a_column_and_its_array_hold_the_same_vectors(column: pa.Array | pa.ChunkedArray) -> None:
    array = to_numpy(column)
    assert array.dtype == np.float32
    assert array.tolist() == column.to_pylist()


@pytest.mark.parametrize("chunks", [[], [to_column(VECTORS[:0])]])
def test_an_empty_column_keeps_its_width(chunks: list[pa.Array]) -> None:
    assert to_numpy(pa.chunked_array(chunks, pa.list_(pa.float32(), 3))).shape == (0, 3)


def test_numbers_are_one_axis() -> None:
    assert to_numpy(pa.chunked_array([[1, 2], [3]])).tolist() == [1.0, 2.0, 3.0]


def test_a_column_takes_arrays_of_any_layout_and_number_type() -> None:
    transposed = np.asfortranarray(VECTORS.astype(np.float64))
    assert to_column(transposed).type == pa.list_(pa.float32(), 3)
    assert to_column(transposed).to_pylist() == VECTORS.tolist()
