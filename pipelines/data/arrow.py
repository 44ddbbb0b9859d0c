"""Arrow columns of vectors to numpy arrays, and back.

N rows, D components.
"""

import numpy as np
import pyarrow as pa


def to_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column of fixed-size lists as (N, D) float32, or one of numbers as (N,) float32."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_fixed_size_list(whole.type):
        return np.asarray(whole, dtype=np.float32)
    return np.asarray(whole.flatten(), dtype=np.float32).reshape(len(whole), whole.type.list_size)


def to_column(vectors: np.ndarray) -> pa.FixedSizeListArray:
    """(N, D) numbers as a column of fixed-size lists of D float32."""
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel(), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
