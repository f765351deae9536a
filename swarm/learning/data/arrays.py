"""What a plan gives as data, as plain numpy arrays of numbers; no torch.

Lists, numpy arrays of any byte order, and columns or frames of pandas, polars and the like, which
narwhals reads (it is needed only where a frame is given). What is no number is refused by place,
because a guess would change somebody's data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.errors import PlanError

_FRAMES = ("pandas", "polars", "pyarrow", "modin", "cudf", "dask", "duckdb", "ibis", "pyspark")


def as_array(value: Any) -> NDArray[Any]:
    """`value` as an array of numbers or booleans, in native byte order, gaps of frames as NaN.

    Raises PlanError naming the first row (or the column) that holds anything else.
    """
    if is_frame(value):
        value = _from_frame(value)
    if isinstance(value, np.ma.MaskedArray):
        value = _unmasked(value)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise PlanError(
            f"it is a {type(value).__name__} that makes no array ({_short(error)}): give all rows "
            "one shape"
        ) from None
    if array.dtype.kind == "O":
        array = _from_objects(array, value)
    if array.dtype.kind not in "biuf":
        first = repr(array.reshape(-1)[0]) if array.size else str(array.dtype)
        raise PlanError(f"it holds {first:.80}, which is no number: code it as numbers")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:  # torch has none so wide
        array = array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def is_frame(value: Any) -> bool:
    """Whether `value` is a frame or a column of one of the libraries that narwhals reads."""
    return type(value).__module__.partition(".")[0] in _FRAMES


def columns_of(frame: Any) -> dict[str, list[Any]]:
    """The columns of a frame by name, a gap as None or NaN. Raises PlanError for what is none."""
    if not is_frame(frame):
        raise PlanError(
            f"it is a {type(frame).__name__}: give a frame of pandas or polars, or a dict of "
            "columns"
        )
    read = _read_frame(frame)
    if not hasattr(read, "iter_columns"):
        raise PlanError(f"it is one column, {read.name!r}: give a frame")
    return {
        column.name: [
            None if gap else value
            for value, gap in zip(column.to_list(), column.is_null().to_list(), strict=True)
        ]
        for column in read.iter_columns()
    }


def frame_like(frame: Any, columns: dict[str, NDArray[Any]]) -> Any:
    """Columns as a frame of the same library, of pandas with the same index."""
    import narwhals

    read = _read_frame(frame)
    made = narwhals.from_dict(columns, backend=read.implementation).to_native()
    index = narwhals.maybe_get_index(read)
    if index is not None:
        made.index = index
    return made


def part_of(columns: Any, rows: NDArray[np.int64]) -> Any:
    """Some rows, in this order, of what `Data` takes: an array, a tensor, a frame, or a tuple or a
    dict of them. In the same form."""
    if isinstance(columns, dict):
        return {name: part_of(column, rows) for name, column in columns.items()}
    if isinstance(columns, tuple):
        return tuple(part_of(column, rows) for column in columns)
    if is_frame(columns):
        return _read_frame(columns)[rows].to_native()
    return [columns[row] for row in rows] if isinstance(columns, list) else columns[rows]


def _read_frame(frame: Any) -> Any:
    """A frame or a column as narwhals reads it."""
    try:
        import narwhals
    except ImportError:
        raise PlanError(
            f"it is a {type(frame).__name__}, which needs narwhals: pip install narwhals, or give "
            "frame.to_numpy()"
        ) from None
    try:
        return narwhals.from_native(frame, eager_only=True, allow_series=True)
    except TypeError as error:
        raise PlanError(
            f"it is a {type(frame).__module__}.{type(frame).__name__} ({_short(error)}): collect "
            "it to a frame in memory first"
        ) from None


def _from_frame(frame: Any) -> Any:
    """A frame as an array [rows, columns], a column as an array [rows]."""
    read = _read_frame(frame)
    if not hasattr(read, "iter_columns"):
        return _column(read)
    columns = [_column(column) for column in read.iter_columns()]
    return np.stack(columns, axis=1) if columns else np.zeros((len(read), 0), np.float32)


def _column(column: Any) -> NDArray[Any]:
    """One column; a gap in it becomes NaN, and the column float64."""
    if not (column.dtype.is_numeric() or str(column.dtype) == "Boolean"):
        raise PlanError(
            f"its column {column.name!r} is {column.dtype}, which is no number: code it as numbers"
        )
    if column.null_count():
        pairs = zip(column.to_list(), column.is_null().to_list(), strict=True)
        return np.array([np.nan if gap else float(value) for value, gap in pairs])
    array: NDArray[Any] = column.to_numpy()
    return array.astype(np.float64) if array.dtype.kind == "O" else array


def _from_objects(array: NDArray[Any], value: Any) -> NDArray[Any]:
    """An array of Python objects, if all are numbers."""
    if array.ndim == 0:
        raise PlanError(
            f"it is a {type(value).__name__}, not numbers: give arrays or tensors, or a torch "
            "Dataset with a length"
        )
    for index, item in np.ndenumerate(array):
        if not isinstance(item, (bool, int, float, np.number, np.bool_)):
            raise PlanError(
                f"it holds {item!r:.80} in row {index[0]}, which is no number: code it as numbers, "
                "a gap as NaN"
            )
    return array.astype(np.float64)


def _unmasked(array: Any) -> NDArray[Any]:
    """Masked values as NaN: numpy itself would show what lies under the mask."""
    if not np.ma.is_masked(array):
        return np.asarray(array)
    return np.asarray(array.astype(np.float64).filled(np.nan))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
