"""Drafting a schema from rows, and saying what a person must decide about it."""

from __future__ import annotations

from collections.abc import Iterable

from edge_runtime.schema.schema import Schema
from edge_runtime.schema.sources import Source

__all__ = ["infer_schema"]


def infer_schema(
    source: Source, *, name: str | None = None, conditions: Iterable[str] = ()
) -> tuple[Schema, tuple[str, ...]]:
    raise NotImplementedError
