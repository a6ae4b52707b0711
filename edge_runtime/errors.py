"""Every error this package raises on purpose, each naming the value, the place and the way out.

All derive from `EdgeRuntimeError`, so that a caller can catch one type. Lower layers raise them,
the command line prints them without a traceback, and the device agent logs only what
`EdgeRuntimeError.public` returns: an error text may quote a real value, a device's log may not.
"""

from __future__ import annotations

import re

__all__ = [
    "AggregatorError",
    "AuthenticityError",
    "BudgetError",
    "BundleError",
    "CatalogueError",
    "CodecError",
    "ConfigError",
    "DamagedStoreError",
    "DataError",
    "DigestError",
    "EdgeRuntimeError",
    "EngineError",
    "EnrolmentError",
    "EvaluationError",
    "ExpiredError",
    "FleetError",
    "KernelError",
    "LedgerBusyError",
    "LedgerError",
    "LinkError",
    "MessageError",
    "MissingExtraError",
    "MixError",
    "ModelImportError",
    "OutboxFullError",
    "PlanError",
    "RangeError",
    "RollbackError",
    "SamplingError",
    "SchemaError",
    "ShapeError",
    "SignatureError",
    "SizeError",
    "StoreError",
    "TrainingError",
    "UpdateError",
    "VersionError",
]


_MOST_CHARS = 4000


class EdgeRuntimeError(Exception):
    """Base of all errors of this package."""

    #: process exit code of the command line when this error ends a command
    exit_code = 1

    def __str__(self) -> str:
        """Return the message, its middle left out where it is longer than a log should hold.

        It may quote what came from outside, such as ten thousand names of columns.
        """
        text = super().__str__()
        if len(text) <= _MOST_CHARS:
            return text
        return f"{text[: _MOST_CHARS // 2]} ... {text[-_MOST_CHARS // 4 :]}"

    @property
    def public(self) -> str:
        """The message without anything that could quote a real row."""
        return str(self)


class ConfigError(EdgeRuntimeError):
    """A configuration file or option is missing, malformed or contradictory."""

    exit_code = 2

    @classmethod
    def invalid(cls, file: object, problem: Exception, *, hint: str) -> ConfigError:
        """Say what a validator found in a file in the words of who wrote the file.

        Parameters
        ----------
        file : object
            Its path.
        problem : Exception
            A `msgspec.ValidationError`: a sentence, and the place as a JSON path.
        hint : str
            Where to read what is allowed.
        """
        text, _, place = str(problem).partition(" - at `$")
        section = place.rstrip("`").lstrip(".")
        found = re.fullmatch(r"Object (contains unknown|missing required) field `(.+)`", text)
        if found is None:
            name = section or "the file"
            words = f"{name}: {text[:1].lower()}{text[1:]}".replace("`", "")
        else:
            name = f"{section}.{found[2]}" if section else found[2]
            unknown = "is no setting of this release: misspelt, or of another version"
            words = f"{name} {'is missing' if found[1].startswith('missing') else unknown}"
        return cls(f"{file}: {words} (what is allowed: {hint})")


class MissingExtraError(EdgeRuntimeError):
    """An optional dependency is not installed.

    Parameters
    ----------
    package : str
        The package that could not be imported.
    extra : str
        The extra of edge-runtime that brings it.
    """

    exit_code = 3

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; it comes with: pip install 'edge-runtime[{extra}]'"
        )
        self.package = package
        self.extra = extra


class KernelError(EdgeRuntimeError):
    """The C kernel refused its arguments or ran out of a resource."""


class SchemaError(EdgeRuntimeError):
    """A schema is malformed or contradicts itself."""

    exit_code = 4


class CodecError(EdgeRuntimeError):
    """Codes or bins do not fit the codec."""


class DataError(EdgeRuntimeError):
    """A table has a value that its schema does not allow.

    Parameters
    ----------
    problem : str
        What is wrong, without the value.
    file, column : str
        Where; `row` counts data rows from 1.
    value : object
        The offending value. It is part of `str(error)` but never of `error.public`.
    detail : str
        What more there is to say of the problem and follows from the file's content, such as what
        its first line holds. Like row and value it is never part of `error.public`.
    hint : str
        The way out.
    """

    exit_code = 5

    def __init__(
        self,
        problem: str,
        *,
        file: str,
        row: int | None = None,
        column: str | None = None,
        value: object = None,
        detail: str = "",
        hint: str = "",
    ) -> None:
        place = f"{file}" + (f", row {row}" if row is not None else "")
        place += f", column {column!r}" if column is not None else ""
        shown = f": {value!r}" if value is not None else ""
        super().__init__(f"{place}: {problem}{detail}{shown}" + (f"; {hint}" if hint else ""))
        self.file, self.row, self.column, self.value = file, row, column, value
        self._public = (
            f"{file}"
            + (f", column {column!r}" if column is not None else "")
            + f": {problem}"
            + (f"; {hint}" if hint else "")
        )

    @property
    def public(self) -> str:
        """The message without row and value."""
        return self._public[:_MOST_CHARS]


class BudgetError(EdgeRuntimeError):
    """A release would exceed the privacy budget; nothing was spent.

    Parameters
    ----------
    what : str
        The release that was refused.
    needed : float
        Epsilon after the release, had it been made.
    spent, limit : float
        Epsilon spent so far and the limit, at the same delta.
    """

    exit_code = 6

    def __init__(self, what: str, *, needed: float, spent: float, limit: float) -> None:
        super().__init__(
            f"{what} would bring epsilon to {needed:.4g}, the limit is {limit:.4g} and "
            f"{spent:.4g} is spent (left: {max(0.0, limit - spent):.4g}); ask for less, or raise "
            "the limit in the device's own configuration"
        )
        self.needed, self.spent, self.limit = needed, spent, limit


class LedgerError(EdgeRuntimeError):
    """The ledger is damaged or was asked for something it must not do."""


class EngineError(EdgeRuntimeError):
    """An engine cannot load or run a generator."""


class BundleError(EdgeRuntimeError):
    """A bundle is damaged, incomplete or of another format."""

    exit_code = 7


class ModelImportError(EdgeRuntimeError):
    """A model of another project cannot become a bundle."""

    exit_code = 10


class SamplingError(EdgeRuntimeError):
    """Rows that meet a condition cannot be drawn."""


class TrainingError(EdgeRuntimeError):
    """Training cannot start or became numerically unusable."""


class MessageError(EdgeRuntimeError):
    """Bytes from outside are not a valid message."""


class VersionError(MessageError):
    """The message is of a format version this release does not read."""


class DigestError(MessageError):
    """A digest does not match what it names."""


class ShapeError(MessageError):
    """Columns, rows or tensors are not those announced."""


class RangeError(MessageError):
    """A value lies outside what the schema or the format allows."""


class AuthenticityError(MessageError):
    """A message or a certificate is not from whom its topic or its name says."""


class SizeError(MessageError):
    """The message, or what it decompresses to, is larger than allowed."""


class UpdateError(MessageError):
    """Signed metadata, or a schema, plan or bundle, that must not be taken; nothing was changed."""


class SignatureError(UpdateError):
    """Not signed, or not by the keys that the fleet's root names."""


class RollbackError(UpdateError):
    """Older than what was accepted before."""


class ExpiredError(UpdateError):
    """Past its expiry: somebody may be holding newer metadata back."""


class MixError(UpdateError):
    """Parts that were never published together."""


class PlanError(EdgeRuntimeError):
    """A plan cannot be carried out by this device."""


class LinkError(EdgeRuntimeError):
    """The broker cannot be reached or refused the connection."""

    exit_code = 8


class EnrolmentError(EdgeRuntimeError):
    """A device cannot be given its identity."""

    exit_code = 9


class StoreError(EdgeRuntimeError):
    """The local store is damaged, full or of another version."""


class OutboxFullError(StoreError):
    """Messages that nobody acknowledges fill the outbox: nothing to do with the real rows."""


class DamagedStoreError(StoreError):
    """The local store is damaged, which does not pass: only a person can mend it."""


class LedgerBusyError(LedgerError, StoreError):
    """The ledger cannot be written now, as on a full disk; nothing is wrong with what it says."""


class AggregatorError(EdgeRuntimeError):
    """The aggregator cannot carry on, and says what an operator can do."""


class CatalogueError(AggregatorError):
    """The aggregator's database does not answer now: it is away, locked, or its disk is full."""


class EvaluationError(EdgeRuntimeError):
    """Two tables cannot be compared."""


class FleetError(EdgeRuntimeError):
    """A local fleet (broker, aggregator, devices) could not be started or ended early."""
