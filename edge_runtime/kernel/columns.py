"""Columns of codes: to values, and to counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import KernelError
from edge_runtime.kernel._call import check, column, lib, output, pointer

__all__ = ["count_codes", "count_pairs", "decode_linear", "decode_timestamp"]

_DECIMALS_LIMIT = 15


def decode_linear(
    codes: NDArray[np.int32],
    u: NDArray[np.float32],
    knots: NDArray[np.float64],
    out: NDArray[Any],
    *,
    decimals: int | None = None,
) -> None:
    """Turn codes into values: piecewise-linear through the knots of each code's bin.

    Parameters
    ----------
    codes : int32 [n]
        0 to K - 1, or K for a missing value. May be a strided view (a column of a table).
    u : float32 [n]
        Position inside the bin, in [0, 1); may be strided.
    knots : float64 [K, Q]
        Each row nondecreasing and finite; Q = 1 makes every bin a single value.
    out : float32, float64 or int64 [n]
        Contiguous. Missing values become NaN, or 0 in int64 (the caller has the mask). int64
        rounds half to even and stays between the integers inside the bin, where there are any.
    decimals : int, optional
        -15 to 15: round half to even to so many decimals, then clamp to the bin. Floats only.

    Raises
    ------
    KernelError
        If a code, a `u` or a knot is outside what is allowed; `out` is then worthless.
    """
    output(out, "decode_linear", np.float32, np.float64, np.int64)
    rows = out.shape[0]
    code_pointer, code_stride, codes = column(codes, "decode_linear", np.int32, rows)
    u_pointer, u_stride, u = column(u, "decode_linear", np.float32, rows)
    if knots.ndim != 2 or knots.dtype != np.float64:
        raise KernelError("decode_linear: knots must be float64 [bins, knots per bin]")
    knots = np.ascontiguousarray(knots)
    bins, per_bin = knots.shape
    columns = (code_pointer, code_stride, u_pointer, u_stride)
    arguments = (pointer(out), rows, *columns, pointer(knots), bins, per_bin)
    if out.dtype == np.int64:
        if decimals not in (None, 0):
            raise KernelError(f"decode_linear: {decimals} decimals of an integer column")
        code = lib.er_decode_i64(*arguments)
    else:
        if decimals is not None and not -_DECIMALS_LIMIT <= decimals <= _DECIMALS_LIMIT:
            raise KernelError(f"decode_linear: decimals {decimals} are outside -15..15")
        places = lib.ER_NO_ROUNDING if decimals is None else decimals
        function = lib.er_decode_f64 if out.dtype == np.float64 else lib.er_decode_f32
        code = function(*arguments, places)
    check(code, "decode_linear")


def decode_timestamp(
    codes: NDArray[np.int32],
    u: NDArray[np.float32],
    knots: NDArray[np.float64],
    out: NDArray[Any],
    *,
    origin: int = 0,
    step: int = 1,
    missing: int = -(1 << 63),
) -> None:
    """Turn codes into timestamps, or other integers on a grid: origin + step * integer.

    Parameters
    ----------
    codes, u, knots
        As for `decode_linear`; knots count steps from `origin`, so that a float64 holds them
        exactly whatever the date.
    out : int64 or datetime64 [n]
        Contiguous; in the unit of `origin` and `step`.
    origin, step : int
        In units of `out`; step is at least 1.
    missing : int
        What a missing value becomes; by default the one that datetime64 calls NaT.

    Raises
    ------
    KernelError
        If a code, a `u` or a knot is outside what is allowed, or a bin reaches beyond 64 bits;
        `out` is then worthless.
    """
    name = "decode_timestamp"
    if isinstance(out, np.ndarray) and out.dtype.kind == "M" and out.dtype.isnative:
        out = out.view(np.int64)
    output(out, name, np.int64)
    rows = out.shape[0]
    code_pointer, code_stride, codes = column(codes, name, np.int32, rows)
    u_pointer, u_stride, u = column(u, name, np.float32, rows)
    if knots.ndim != 2 or knots.dtype != np.float64:
        raise KernelError(f"{name}: knots must be float64 [bins, knots per bin]")
    limit = 1 << 63
    if not (-limit <= origin < limit and 1 <= step < limit and -limit <= missing < limit):
        raise KernelError(f"{name}: origin {origin}, step {step} or missing {missing} is no int64")
    knots = np.ascontiguousarray(knots)
    bins, per_bin = knots.shape
    columns = (code_pointer, code_stride, u_pointer, u_stride)
    grid = (origin, step, missing)
    code = lib.er_decode_grid(pointer(out), rows, *columns, pointer(knots), bins, per_bin, *grid)
    check(code, name)


def count_codes(codes: NDArray[np.int32], cardinality: int) -> NDArray[np.int64]:
    """Count how often each code occurs.

    Parameters
    ----------
    codes : int32 [n]
        0 to cardinality - 1; may be a strided view.
    cardinality : int
        1 to 2^24.

    Returns
    -------
    int64 [cardinality]

    Raises
    ------
    KernelError
        If a code or the cardinality is out of range.
    """
    _cardinality(cardinality, "count_codes")
    data, stride, codes = column(codes, "count_codes", np.int32)
    counts = np.empty(cardinality, np.int64)
    check(
        lib.er_count_codes(pointer(counts), cardinality, data, codes.shape[0], stride),
        "count_codes",
    )
    return counts


def count_pairs(a: NDArray[np.int32], b: NDArray[np.int32], ka: int, kb: int) -> NDArray[np.int64]:
    """Count how often each pair of codes occurs.

    Parameters
    ----------
    a, b : int32 [n]
        Codes of two columns; may be strided views.
    ka, kb : int
        Their cardinalities; ka * kb at most 2^24.

    Returns
    -------
    int64 [ka, kb]

    Raises
    ------
    KernelError
        If a code or a cardinality is out of range, or the lengths differ.
    """
    _cardinality(ka * kb if ka > 0 and kb > 0 else 0, "count_pairs")
    a_pointer, a_stride, a = column(a, "count_pairs", np.int32)
    b_pointer, b_stride, b = column(b, "count_pairs", np.int32, a.shape[0])
    counts = np.empty((ka, kb), np.int64)
    code = lib.er_count_pairs(
        pointer(counts), ka, kb, a_pointer, a_stride, b_pointer, b_stride, a.shape[0]
    )
    check(code, "count_pairs")
    return counts


def _cardinality(cells: int, function: str) -> None:
    if not 1 <= cells <= lib.ER_CATEGORIES_MAX:
        raise KernelError(f"{function}: {cells} cells are outside 1..{lib.ER_CATEGORIES_MAX}")
