"""What a table is: the public schema, typed tables, the census, and the codec of rows to codes."""

from __future__ import annotations

from edge_runtime.schema.census import (
    Census,
    cell_codes,
    cells_behind,
    census_cells,
    census_counts,
    clean_census,
    count_cells,
    label_codes,
    merge_census,
)
from edge_runtime.schema.codec import Codec, Encoded
from edge_runtime.schema.coded import Coded
from edge_runtime.schema.columns import Column, format_timestamp, parse_timestamp
from edge_runtime.schema.constraints import Combinations, Constraint, Order, Sum
from edge_runtime.schema.decoding import BlockDecoder
from edge_runtime.schema.holding import broken_rows
from edge_runtime.schema.infer import infer_schema
from edge_runtime.schema.reading import iter_tables, read_open, read_table
from edge_runtime.schema.rules import Kept, Rules
from edge_runtime.schema.schema import Schema
from edge_runtime.schema.sequence import Sequence
from edge_runtime.schema.steps import (
    census_of,
    census_schema,
    census_sensitivity_squared,
    check_fleet,
    following,
    long_schema,
    steps_of_windows,
)
from edge_runtime.schema.table import Table
from edge_runtime.schema.values import MISSING_TOKENS
from edge_runtime.schema.watermark import WATERMARK, marked_metadata, marked_of, refuse_synthetic
from edge_runtime.schema.windows import (
    Windows,
    grid_slots,
    long_codec,
    merge_steps,
    series_table,
    shared_codec,
    to_windows,
)
from edge_runtime.schema.writing import TableWriter, write_table

__all__ = [
    "MISSING_TOKENS",
    "WATERMARK",
    "BlockDecoder",
    "Census",
    "Codec",
    "Coded",
    "Column",
    "Combinations",
    "Constraint",
    "Encoded",
    "Kept",
    "Order",
    "Rules",
    "Schema",
    "Sequence",
    "Sum",
    "Table",
    "TableWriter",
    "Windows",
    "broken_rows",
    "cell_codes",
    "cells_behind",
    "census_cells",
    "census_counts",
    "census_of",
    "census_schema",
    "census_sensitivity_squared",
    "check_fleet",
    "clean_census",
    "count_cells",
    "following",
    "format_timestamp",
    "grid_slots",
    "infer_schema",
    "iter_tables",
    "label_codes",
    "long_codec",
    "long_schema",
    "marked_metadata",
    "marked_of",
    "merge_census",
    "merge_steps",
    "parse_timestamp",
    "read_open",
    "read_table",
    "refuse_synthetic",
    "series_table",
    "shared_codec",
    "steps_of_windows",
    "to_windows",
    "write_table",
]
