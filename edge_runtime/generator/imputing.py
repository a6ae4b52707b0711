"""Missing cells of given rows, filled by the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import SamplingError
from edge_runtime.generator.bundle import Bundle
from edge_runtime.generator.layout import F64, I32
from edge_runtime.generator.posterior import Posterior, RowPosterior
from edge_runtime.schema import Rules, Table, broken_rows

__all__ = ["Imputation", "impute"]

#: draws of a row until its cells keep the constraints
_TRIES = 8
#: streams of the key lie apart: of tables, of the draws for one, of settling them (`Rules`)
_NEXT_TRY, _SETTLING = 1 << 14, 1 << 18

Mask = npt.NDArray[np.bool_]


class Imputation(NamedTuple):
    """Filled rows.

    Attributes
    ----------
    tables : list of Table
        One of the most likely values, or one per draw. Cells that were there are as they were.
    cells : int
        Missing cells that were filled, in each table.
    rows : int
        Rows that had missing cells.
    exact : int
        Those of them whose distribution is exact; of the others it is sampled.
    unmet : int
        Rows left as they were, in some table: what is known of them and the constraints of the
        schema left no value.
    """

    tables: list[Table]
    cells: int
    rows: int
    exact: int
    unmet: int


def impute(bundle: Bundle, table: Table, *, draws: int, key: bytes, first: int = 0) -> Imputation:
    """Fill the missing cells of rows.

    Parameters
    ----------
    bundle : Bundle
        The generator.
    table : Table
        Of the bundle's schema; any cell may be missing, whether or not its column is nullable.
    draws : int
        0: each cell gets the most likely category or the median number. Else so many tables, each
        with missing cells drawn together from their distribution given the known ones.
    key : bytes
        32 public bytes.
    first : int
        Number of the first row: rows filled in parts equal rows filled at once.

    Returns
    -------
    Imputation

    Raises
    ------
    SamplingError
        For a negative number of draws.
    DataError
        A category that is not among a column's values.
    """
    if draws < 0:
        raise SamplingError(f"cannot make {draws} tables: ask for 0 (the likeliest) or more draws")
    if draws >= _NEXT_TRY:
        raise SamplingError(f"cannot make {draws} tables at once: at most {_NEXT_TRY - 1}")
    if not table.rows:
        return Imputation([table] * max(draws, 1), 0, 0, 0, 0)
    codec, names = bundle.codec, bundle.schema.names
    rules = Rules(codec)
    missing = np.stack([table.missing[name] for name in names], axis=1)
    codes = _codes(bundle, table, missing)
    posterior = Posterior(bundle, possible=lambda tried: rules.possible(tried, computing=False))
    tables = max(draws, 1)
    # Of each row some draws more than tables: where one leaves no value, another one may.
    spare = _TRIES - 1
    found = list(posterior.of(codes, missing, draws=tables + spare, key=key, first=first))
    made: list[Table] = []
    met = np.ones(table.rows, np.bool_)
    for number in range(tables):
        filled, waiting = table, np.ones(table.rows, np.bool_)
        for attempt in range(_TRIES):
            stream = number + attempt * _NEXT_TRY
            if draws or attempt:
                at = number if not attempt else tables + (number + attempt) % spare
                tried = np.stack([row.draws[at] for row in found])
                values = codec.decode(tried, key=key, stream=stream, offset=first)
            else:
                tried, values = _likeliest(bundle, codes, found, rules)
            settled, kept = rules.settle(
                _merged(table, values, missing),
                tried,
                key=key,
                stream=_SETTLING + stream,
                offset=first,
                free={name: missing[:, d] for d, name in enumerate(names)},
            )
            fits = np.zeros(table.rows, np.bool_)
            fits[kept] = waiting[kept]
            for constraint in bundle.schema.constraints:
                fits[kept] &= ~broken_rows(settled, constraint)
            filled = _merged(filled, settled.take(fits[kept]), missing & fits[:, None], fits)
            waiting &= ~fits
            if not waiting.any():
                break
        met &= ~waiting
        made.append(filled)
    asked = missing.any(axis=1)
    exact = [np.isinf(row.effective) for row in found]
    return Imputation(
        tables=made,
        cells=int(missing[met].sum()),
        rows=int(asked.sum()),
        exact=int((asked & np.array(exact, np.bool_)).sum()),
        unmet=int((asked & ~met).sum()),
    )


def _merged(table: Table, values: Table, cells: Mask, rows: Mask | slice = slice(None)) -> Table:
    """Return a table with the given cells, bool [n, D], from `values`, which has some `rows`."""
    columns: dict[str, Any] = {}
    missing: dict[str, Mask] = {}
    for d, name in enumerate(table.schema.names):
        taken, gone = np.array(table.columns[name]), table.missing[name].copy()
        mine = cells[rows, d]
        taken[cells[:, d]] = values.columns[name][mine]
        gone[cells[:, d]] = values.missing[name][mine]
        columns[name], missing[name] = taken, gone
    return Table(
        schema=table.schema,
        columns=columns,
        missing=missing,
        file=table.file,
        first_row=table.first_row,
    )


def _codes(bundle: Bundle, table: Table, missing: Mask) -> I32:
    """Codes of the known cells; 0 in the missing ones."""
    columns: dict[str, Any] = {}
    for d, column in enumerate(bundle.schema.columns):
        values = np.array(table.columns[column.name])
        if missing[:, d].any():
            values[missing[:, d]] = column.labels[0] if column.kind == "category" else 0
        columns[column.name] = values
    known = Table(schema=bundle.schema, columns=columns, file=table.file, first_row=table.first_row)
    codes = bundle.codec.encode(known).codes
    codes[missing] = 0
    return codes


def _likeliest(
    bundle: Bundle, codes: I32, found: Sequence[RowPosterior], rules: Rules
) -> tuple[I32, Table]:
    """Codes of the likeliest categories and median numbers, and their values."""
    filled = codes.copy()
    places = np.full(codes.shape, 0.5, np.float32)
    for row, result in enumerate(found):
        for column, shares in result.shares.items():
            if bundle.schema.columns[column].numeric:
                filled[row, column], places[row, column] = _median(shares)
            else:
                filled[row, column] = int(shares.argmax())
    # What is likeliest cell by cell may be impossible together.
    for clash in np.flatnonzero(~rules.possible(filled, computing=False)).tolist():
        filled[clash], places[clash] = found[clash].best, 0.5
    values = bundle.codec.decode(filled, key=bytes(32))
    columns: dict[str, Any] = {name: values.columns.held(name) for name in values.columns}
    for d, declared in enumerate(bundle.schema.columns):
        if declared.numeric:
            own = np.ascontiguousarray(filled[:, d])
            bins = bundle.codec.bins[declared.name]
            columns[declared.name] = bins.place(own, places[:, d].copy())
    return filled, Table(schema=bundle.schema, columns=columns, missing=values.missing)


def _median(shares: F64) -> tuple[int, float]:
    """Code of the bin in which the median lies, and its place there, 0 to below 1."""
    edges = np.cumsum(shares)
    code = int(np.searchsorted(edges, edges[-1] / 2, side="right"))
    before = edges[code - 1] if code else 0.0
    return code, float(min((edges[-1] / 2 - before) / shares[code], 1.0 - 2.0**-24))
