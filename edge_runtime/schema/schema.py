"""The schema: the public declaration of a table, its file format and its digest."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge_runtime.errors import SchemaError
from edge_runtime.schema.columns import Column, format_timestamp, parse_timestamp, repeats
from edge_runtime.schema.constraints import Constraint, check_constraints, constraint_from_entry
from edge_runtime.schema.sequence import (
    Sequence,
    check_sequence,
    repeated,
    windowed_columns,
    windowed_constraints,
)

if TYPE_CHECKING:
    from edge_runtime.schema.sources import Source

__all__ = ["Schema"]

_FORMAT = "edge-runtime-schema"
_VERSION = 1

#: 65,535 categories with long names have 2 MB
_MOST_BYTES = 4 << 20
#: A generator has 1,024 at most; the rest is for tables that are only compared.
_MOST_COLUMNS = 4096
_MOST_CONSTRAINTS = 1024


class Schema(msgspec.Struct, frozen=True, kw_only=True):
    """The public declaration of a table.

    Parameters
    ----------
    name : str
        What the table is, for people.
    columns : tuple of Column
        Condition columns first: a generator can only be asked for the values of leading columns.
    privacy_unit : str
        What one unit of the privacy budget protects; ``"row"`` means one row more or less.
    constraints : tuple of Order, Sum or Combinations
        What holds between columns in every row, real or drawn.
    sequence : Sequence, optional
        How rows follow each other, where they do.

    Raises
    ------
    SchemaError
        No columns, a name twice, a condition column behind another one, or a constraint that does
        not fit the columns.
    """

    name: str
    columns: tuple[Column, ...]
    privacy_unit: str = "row"
    constraints: tuple[Constraint, ...] = ()
    sequence: Sequence | None = None

    def __post_init__(self) -> None:
        if not self.columns:
            raise SchemaError(f"schema {self.name!r} has no columns")
        for what, listed, most in (
            ("columns", self.columns, _MOST_COLUMNS),
            # a window has those of each of its steps
            ("constraints", self.constraints, _MOST_CONSTRAINTS * self._window_steps),
        ):
            if len(listed) > most:
                raise SchemaError(
                    f"schema {self.name!r}: {len(listed)} {what}; at most {most} are possible"
                )
        # Names that only differ in how an accent is encoded cannot be told apart by eye.
        twice = repeats(unicodedata.normalize("NFC", name) for name in self.names)
        if twice:
            raise SchemaError(f"schema {self.name!r}: columns {twice} are listed twice")
        seen_other = ""
        for column in self.columns:
            if not column.condition:
                seen_other = seen_other or column.name
            elif seen_other:
                raise SchemaError(
                    f"schema {self.name!r}: condition column {column.name!r} stands behind "
                    f"{seen_other!r}; condition columns come first (Schema.ordered sorts them)"
                )
        try:
            check_constraints(self.columns, self.constraints)
            if self.sequence is not None:
                check_sequence(self.columns, self.sequence)
        except SchemaError as error:
            raise SchemaError(f"schema {self.name!r}: {error}") from error

    @classmethod
    def ordered(
        cls,
        *,
        name: str,
        columns: Iterable[Column],
        privacy_unit: str = "row",
        constraints: Iterable[Constraint] = (),
        sequence: Sequence | None = None,
    ) -> Schema:
        """Make a schema with its condition columns moved to the front, else in the given order.

        Parameters
        ----------
        name, privacy_unit, constraints, sequence
            As in `Schema`.
        columns : iterable of Column
            In any order.

        Returns
        -------
        Schema
        """
        listed = sorted(columns, key=lambda column: not column.condition)
        return cls(
            name=name,
            columns=tuple(listed),
            privacy_unit=privacy_unit,
            constraints=tuple(constraints),
            sequence=sequence,
        )

    @classmethod
    def infer(
        cls, source: Source, *, name: str | None = None, conditions: Iterable[str] = ()
    ) -> Schema:
        """Draft a schema from a table; see `infer_schema`, which also returns its doubts.

        Parameters
        ----------
        source : path or frame
            As for `read_table`.
        name : str, optional
            The schema's name; by default the file's.
        conditions : iterable of str
            Names of condition columns.

        Returns
        -------
        Schema
        """
        from edge_runtime.schema.infer import infer_schema  # noqa: PLC0415 - infer builds schemas

        return infer_schema(source, name=name, conditions=conditions)[0]

    def windowed(self) -> Schema:
        """Return the schema of this one's windows, see `edge_runtime.schema.sequence`.

        Raises
        ------
        SchemaError
            The schema declares no sequence, or is one of windows already.
        """
        sequence = self.sequence
        if sequence is None or sequence.columns:
            raise SchemaError(f"schema {self.name!r} declares no sequence of rows")
        changing = tuple(column.name for column in repeated(self.columns, sequence))
        return Schema(
            name=self.name,
            columns=windowed_columns(self.columns, sequence),
            privacy_unit=f"window of {sequence.steps} rows",
            constraints=windowed_constraints(self.constraints, sequence),
            sequence=msgspec.structs.replace(sequence, columns=changing),
        )

    @property
    def learnt(self) -> Schema:
        """The schema of what is learnt: of the windows of ordered rows, else this one."""
        return self if self.sequence is None or self.sequence.columns else self.windowed()

    @property
    def _window_steps(self) -> int:
        windowed = self.sequence is not None and self.sequence.columns
        return self.sequence.steps if self.sequence is not None and windowed else 1

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(column.name for column in self.columns)

    @property
    def conditions(self) -> tuple[int, ...]:
        """Indices of the condition columns; always 0 .. n-1."""
        return tuple(index for index, column in enumerate(self.columns) if column.condition)

    def index(self, name: str) -> int:
        """Return the position of a column.

        Parameters
        ----------
        name : str
            The column's name.

        Returns
        -------
        int

        Raises
        ------
        SchemaError
            There is no such column.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise SchemaError(
                f"schema {self.name!r} has no column {name!r}; it has {', '.join(self.names)}"
            ) from None

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, defaults left out.

        Returns
        -------
        bytes
            UTF-8; equal schemas give equal bytes.
        """
        return msgspec.json.encode(self._document(), order="deterministic")

    def to_text(self) -> str:
        """Return the same JSON indented and in reading order, for people to edit.

        Returns
        -------
        str
            Ends without a newline; `from_json` reads it.
        """
        return msgspec.json.format(msgspec.json.encode(self._document()), indent=2).decode()

    def _document(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "format": _FORMAT,
            "version": _VERSION,
            "name": self.name,
            "privacy_unit": self.privacy_unit,
            "columns": [_to_entry(column) for column in self.columns],
        }
        if self.constraints:  # left out, so that schemas without any keep their digest
            document["constraints"] = msgspec.to_builtins(self.constraints)
        if self.sequence is not None:
            document["sequence"] = msgspec.to_builtins(self.sequence)
        return document

    @classmethod
    def from_json(cls, data: bytes | str) -> Schema:
        """Read a schema; unknown keys, wrong types and contradictions are refused.

        Parameters
        ----------
        data : bytes or str
            JSON as `to_json` or `save` write it.

        Returns
        -------
        Schema

        Raises
        ------
        SchemaError
            The JSON is not a valid schema of this version.
        """
        if len(data) > _MOST_BYTES:
            raise SchemaError(f"not a schema file: {len(data)} bytes; at most {_MOST_BYTES} are")
        try:
            document = _DOCUMENT.decode(data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise SchemaError(f"not a schema file: {error}") from error
        if document.format != _FORMAT or document.version != _VERSION:
            raise SchemaError(
                f"schema format {document.format!r} version {document.version} is not "
                f"{_FORMAT!r} version {_VERSION}, which this release reads"
            )
        return cls(
            name=document.name,
            columns=tuple(_from_entry(entry) for entry in document.columns),
            privacy_unit=document.privacy_unit,
            constraints=tuple(
                constraint_from_entry(entry, number=number)
                for number, entry in enumerate(document.constraints, start=1)
            ),
            sequence=document.sequence,
        )

    def save(self, path: str | Path) -> None:
        """Write the schema as `to_text` shows it.

        Parameters
        ----------
        path : str or Path
            The file; replaced when it exists.
        """
        Path(path).write_text(self.to_text() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Read a schema file.

        Parameters
        ----------
        path : str or Path
            A file as `save` writes it.

        Returns
        -------
        Schema

        Raises
        ------
        SchemaError
            The file cannot be read or is not a schema.
        """
        try:
            with Path(path).open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise SchemaError(f"schema file {path}: {error.strerror}") from error
        try:
            return cls.from_json(data)
        except SchemaError as error:
            raise SchemaError(f"schema file {path}: {error}") from error


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    version: int
    name: str
    columns: list[dict[str, Any]]
    privacy_unit: str = "row"
    constraints: list[dict[str, Any]] = []
    sequence: Sequence | None = None


# Made once, before there are threads: msgspec's description of a type that two threads begin at the
# same time ends the process.
_DOCUMENT = msgspec.json.Decoder(_Document)
_DEFAULTS = msgspec.to_builtins(msgspec.convert({"name": "x", "kind": "boolean"}, type=Column))


def _to_entry(column: Column) -> dict[str, Any]:
    """Return the JSON object: defaults left out, whole bounds as integers, moments as ISO."""
    entry = {
        key: value
        for key, value in msgspec.to_builtins(column).items()
        if key in ("name", "kind") or value != _DEFAULTS[key]
    }
    for key in ("low", "high"):
        if key in entry:
            if column.kind == "timestamp":
                entry[key] = format_timestamp(int(entry[key]))
            elif float(entry[key]).is_integer():
                entry[key] = int(entry[key])
    return entry


def _from_entry(entry: dict[str, Any]) -> Column:
    name = entry.get("name", "?")
    entry = dict(entry)
    if entry.get("kind") == "timestamp":
        for key in ("low", "high"):
            if isinstance(entry.get(key), str):
                try:
                    entry[key] = float(parse_timestamp(entry[key]))
                except ValueError as error:
                    raise SchemaError(f"column {name!r}: {key} is not ISO 8601: {error}") from error
            elif key in entry:
                raise SchemaError(f"column {name!r}: {key} of a timestamp is ISO 8601 text")
    try:
        return msgspec.convert(entry, type=Column)
    except msgspec.ValidationError as error:
        raise SchemaError(f"column {name!r}: {error}") from error
