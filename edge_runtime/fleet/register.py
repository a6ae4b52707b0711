"""The fleet's register: every token and every certificate there ever was, in one SQLite file.

It holds no secret: a token's secret follows from the fleet's enrolment key and the token's id.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edge_runtime.errors import FleetError

__all__ = ["CertificateEntry", "Register", "TokenEntry"]

_TABLES = """
create table if not exists tokens (
    id text primary key,
    device text not null,             -- empty: whichever device asks first
    created_s integer not null,
    expires_s integer not null,
    revoked_s integer,
    public_key text not null default '',    -- SHA-256 of the key that it was used for
    certificate text not null default ''    -- what that key was answered
);
create table if not exists certificates (
    serial text primary key,          -- hexadecimal; SQLite's integers are too short
    name text not null,               -- the common name: a device, or a service of the fleet
    service integer not null,         -- whether a service
    issued_s integer not null,
    expires_s integer not null,
    revoked_s integer
);
create index if not exists certificates_by_name on certificates (name);
"""
_TOKENS = "select id, device, created_s, expires_s, revoked_s, public_key, certificate from tokens"


class TokenEntry(NamedTuple):
    """A token; times are seconds since 1970."""

    id: str
    device: str
    created_s: int
    expires_s: int
    revoked_s: int | None
    public_key: str
    certificate: str

    @property
    def state(self) -> str:
        """`used`, `revoked`, `expired` or `open`."""
        if self.certificate:
            return "used"
        if self.revoked_s is not None:
            return "revoked"
        return "expired" if self.expires_s <= time.time() else "open"


class CertificateEntry(NamedTuple):
    """A certificate; times are seconds since 1970."""

    serial: str
    name: str
    service: bool
    issued_s: int
    expires_s: int
    revoked_s: int | None

    @property
    def state(self) -> str:
        """`revoked`, `expired` or `valid`."""
        if self.revoked_s is not None:
            return "revoked"
        return "expired" if self.expires_s < time.time() else "valid"


class Register:
    """The register in a file, which is made when missing.

    Raises
    ------
    FleetError
        It cannot be opened; from every method: it cannot be read or written to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # Who is in a fleet is its operator's to know, whatever the umask.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            # Verbs and the enrolment service write at the same time now and then, and briefly.
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
            self._db.executescript(_TABLES)
        except (OSError, sqlite3.Error) as error:
            raise FleetError(f"{path} cannot be opened ({error})") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Register:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside, or nothing; nobody else writes meanwhile."""
        self._run("begin immediate")
        try:
            yield
            self._run("commit")
        except BaseException:
            # After some errors, such as a full disk, SQLite has done so itself.
            if self._db.in_transaction:
                self._run("rollback")
            raise

    def add_token(self, *, token: str, device: str, expires_s: int) -> None:
        """Note a new token."""
        self._run(
            "insert into tokens (id, device, created_s, expires_s) values (?, ?, ?, ?)",
            (token, device, int(time.time()), expires_s),
        )

    def use_token(self, token: str, *, public_key: str, certificate: str) -> None:
        """Note for which key a token was used, and what was answered."""
        self._run(
            "update tokens set public_key = ?, certificate = ? where id = ?",
            (public_key, certificate, token),
        )

    def token(self, token: str) -> TokenEntry | None:
        """Return a token, or None when there never was one of this id."""
        found = self._run(f"{_TOKENS} where id = ?", (token,)).fetchone()
        return None if found is None else TokenEntry(*found)

    def tokens(self) -> list[TokenEntry]:
        """Return all tokens, oldest first."""
        return [TokenEntry(*row) for row in self._run(f"{_TOKENS} order by created_s, id")]

    def add_certificate(
        self, *, serial: int, name: str, service: bool, issued_s: int, expires_s: int
    ) -> None:
        """Note a certificate that was signed."""
        self._run(
            "insert into certificates (serial, name, service, issued_s, expires_s)"
            " values (?, ?, ?, ?, ?)",
            (f"{serial:x}", name, service, issued_s, expires_s),
        )

    def certificates(self, name: str | None = None) -> list[CertificateEntry]:
        """Return all certificates, or those of one name, oldest first."""
        rows = self._run(
            "select serial, name, service, issued_s, expires_s, revoked_s from certificates"
            " where ?1 is null or name = ?1 order by name, issued_s, serial",
            (name,),
        )
        return [CertificateEntry(r[0], r[1], bool(r[2]), *r[3:]) for r in rows]

    def revoke(self, name: str, *, but: int | None = None) -> int:
        """Revoke all certificates and tokens of a name; return how many there were.

        Parameters
        ----------
        name : str
            A device or service.
        but : int, optional
            Serial number of the certificate that takes their place and stays.
        """
        now = int(time.time())
        with self.transaction():
            changed = self._run(
                "update certificates set revoked_s = ?"
                " where name = ? and serial <> ? and revoked_s is null",
                (now, name, "" if but is None else f"{but:x}"),
            ).rowcount
            changed += self._run(
                "update tokens set revoked_s = ? where device = ? and revoked_s is null",
                (now, name),
            ).rowcount
        return changed

    def is_revoked(self, serial: int) -> bool:
        """Return whether the certificate of a serial number was revoked."""
        found = self._run(
            "select 1 from certificates where serial = ? and revoked_s is not null",
            (f"{serial:x}",),
        )
        return found.fetchone() is not None

    def shut_out(self) -> list[str]:
        """Return the names that had a certificate and have none that was not revoked."""
        return [
            row[0]
            for row in self._run(
                "select name from certificates group by name"
                " having count(*) = count(revoked_s) order by name"
            )
        ]

    def _run(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise FleetError(
                f"the fleet's register {self._path} cannot be used ({error}); look for a full or "
                "read-only disk"
            ) from error
