"""The one place where Python meets C: pointers to arrays, and error codes to `KernelError`."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import KernelError
from edge_runtime.kernel._native import ffi, lib

__all__ = ["check", "column", "ffi", "key_bytes", "lib", "matrix", "output", "pointer"]

_Scalar = TypeVar("_Scalar", bound=np.generic)

_MEANING = {
    lib.ER_NULL: "an array is missing",
    lib.ER_SIZE: "a size or stride is outside what the kernel allows",
    lib.ER_RANGE: "a code lies outside its column; codes run from 0 to the cardinality - 1",
    lib.ER_VALUE: "a number is not finite or outside its domain",
    lib.ER_ORDER: "the knots of a bin decrease; sort each row of knots",
    lib.ER_MEMORY: "there is no memory",
    lib.ER_ISA: "this processor does not have that instruction set",
}

_POINTERS = {
    "f": "float *",
    "d": "double *",
    "i": "int32_t *",
    "l": "int64_t *",
    "q": "int64_t *",
    "L": "uint64_t *",
    "Q": "uint64_t *",
    "B": "uint8_t *",
}
# the same as buffers, which cffi takes from an array in a tenth of the time of an address
_BUFFERS = {char: name.replace(" *", "[]") for char, name in _POINTERS.items()}


def check(code: int, function: str) -> None:
    """Raise `KernelError` for an error code of the kernel.

    Parameters
    ----------
    code : int
        What the C function returned.
    function : str
        Name of the public function, for the message.
    """
    if code != lib.ER_OK:
        raise KernelError(f"{function}: {_MEANING.get(code, f'error {code}')}")


def pointer(array: NDArray[Any]) -> Any:
    """Return a C pointer to the first element; the caller keeps the array alive."""
    if array.flags.c_contiguous:
        return ffi.from_buffer(_BUFFERS[array.dtype.char], array)
    return ffi.cast(_POINTERS[array.dtype.char], array.ctypes.data)


def output(array: NDArray[_Scalar], function: str, *dtypes: type[np.generic]) -> NDArray[_Scalar]:
    """Check an array that C will write into.

    Parameters
    ----------
    array : ndarray [n]
        One-dimensional, C-contiguous, writable, of one of `dtypes`.
    function : str
        Name of the public function, for the message.

    Raises
    ------
    KernelError
        If it is anything else.
    """
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.type not in dtypes:
        wanted = " or ".join(dtype.__name__ for dtype in dtypes)
        raise KernelError(
            f"{function}: a one-dimensional {wanted} array is needed, {_shown(array)}"
        )
    if not (array.flags.c_contiguous and array.flags.writeable):
        raise KernelError(f"{function}: the array to fill must be contiguous and writable")
    return array


def column(
    array: NDArray[_Scalar], function: str, dtype: type[np.generic], rows: int | None = None
) -> tuple[Any, int, NDArray[_Scalar]]:
    """Return pointer, stride in elements, and the array to keep alive during the call.

    A view with a nonnegative whole stride, such as one column of a table, is read in place.

    Raises
    ------
    KernelError
        If it is not one-dimensional, of another dtype, or of another length than `rows`.
    """
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.type is not dtype:
        raise KernelError(
            f"{function}: a one-dimensional {dtype.__name__} array is needed, {_shown(array)}"
        )
    if rows is not None and array.shape[0] != rows:
        raise KernelError(f"{function}: {array.shape[0]} values for {rows} rows")
    stride, rest = divmod(array.strides[0], array.itemsize)
    if rest != 0 or stride < 0 or not array.flags.aligned or not array.dtype.isnative:
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
        stride = 1
    return pointer(array), stride, array


def matrix(
    array: NDArray[_Scalar],
    function: str,
    dtype: type[np.generic],
    columns: int,
    rows: int | None = None,
) -> tuple[Any, int, NDArray[_Scalar]]:
    """Return pointer, elements between rows, and the array to keep alive during the call.

    A view whose rows are contiguous, such as some columns of a table, is read in place.

    Raises
    ------
    KernelError
        If it is not [rows, columns] of the dtype.
    """
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.type is not dtype:
        raise KernelError(
            f"{function}: a two-dimensional {dtype.__name__} array is needed, {_shown(array)}"
        )
    if array.shape[1] != columns or (rows is not None and array.shape[0] != rows):
        wanted = f"[{'n' if rows is None else rows}, {columns}]"
        raise KernelError(f"{function}: an array of shape {wanted} is needed, {_shown(array)}")
    if array.shape[0] < 2:  # numpy leaves the stride between rows undefined
        contiguous = np.require(array, dtype, ("C", "A"))
        return pointer(contiguous), columns, contiguous
    stride, rest = divmod(array.strides[0], array.itemsize)
    inside = columns <= stride <= lib.ER_CATEGORIES_MAX and rest == 0
    inside = inside and (columns == 1 or array.strides[1] == array.itemsize)
    if not (inside and array.flags.aligned and array.dtype.isnative):
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
        stride = array.strides[0] // array.itemsize
    return pointer(array), stride, array


def key_bytes(key: bytes, function: str) -> bytes:
    """Check a key of 32 bytes."""
    if not isinstance(key, bytes | bytearray | memoryview) or len(key) != lib.ER_KEY_BYTES:
        raise KernelError(f"{function}: a key is {lib.ER_KEY_BYTES} bytes")
    return bytes(key)


def _shown(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"not {value.dtype} of shape {value.shape}"
    return f"not {type(value).__name__}"
