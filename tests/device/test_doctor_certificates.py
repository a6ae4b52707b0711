"""Certificates made for the test, each wrong in one way."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edge_runtime.device.doctor.certificates import examine_certificates

pytest.importorskip("cryptography")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)


class Signer(NamedTuple):
    """A name and its key."""

    name: x509.Name
    key: Any

    @classmethod
    def make(cls, name: str) -> Signer:
        named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return cls(named, ec.generate_private_key(ec.SECP256R1()))

    def sign(
        self, other: Signer, *, begins: datetime, ends: datetime, authority: bool = False
    ) -> bytes:
        made = (
            x509.CertificateBuilder()
            .subject_name(other.name)
            .issuer_name(self.name)
            .public_key(other.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


class Files:
    """What `[broker.tls]` names."""

    def __init__(self, directory: Path) -> None:
        self.ca = directory / "ca.pem"
        self.certificate = directory / "certificate.pem"
        self.key = directory / "key.pem"
        self.authority, self.device = Signer.make("fleet"), Signer.make("board-17")
        now = datetime.now(UTC)
        self.ca.write_bytes(
            self.authority.sign(
                self.authority, begins=now - _DAY, ends=now + 900 * _DAY, authority=True
            )
        )
        self.issue(begins=now - _DAY, ends=now + 90 * _DAY)
        self.key.write_bytes(self.device.key_pem())
        self.key.chmod(0o600)

    def issue(self, *, begins: datetime, ends: datetime) -> None:
        self.certificate.write_bytes(self.authority.sign(self.device, begins=begins, ends=ends))

    def problems(self, *, now_unix_s: float | None = None) -> dict[str, str]:
        rows = examine_certificates(
            ca=self.ca,
            certificate=self.certificate,
            key=self.key,
            now_unix_s=time.time() if now_unix_s is None else now_unix_s,
        )
        found = {}
        for row in rows:
            if row.problem:
                assert row.fix
                found[row.check] = row.problem
        return found


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_sound_ones_are_sound(files: Files) -> None:
    assert files.problems() == {}
    alone = examine_certificates(ca=files.ca, certificate=None, key=None, now_unix_s=time.time())
    assert [row.check for row in alone] == ["tls ca", "authority"]


def test_a_key_that_others_can_read(files: Files) -> None:
    files.key.chmod(0o640)
    assert files.problems() == {"tls key": "mode 0640: other users can get at it"}


def test_a_missing_file(files: Files) -> None:
    files.certificate.unlink()
    assert files.problems() == {"tls certificate": "cannot be read (No such file or directory)"}


def test_dates_are_judged_by_the_time_given(files: Files) -> None:
    now = datetime.now(UTC)
    files.issue(begins=now + 2 * _DAY, ends=now + 3 * _DAY)
    assert "not valid before" in files.problems()["certificate"]
    # The clock of a board without a battery is behind; the minimum time is not.
    assert files.problems(now_unix_s=(now + 2.5 * _DAY).timestamp()) == {}
    assert "expired" in files.problems(now_unix_s=(now + 4 * _DAY).timestamp())["certificate"]


def test_another_fleets_authority(files: Files) -> None:
    stranger = Signer.make("another fleet")
    now = datetime.now(UTC)
    files.ca.write_bytes(
        stranger.sign(stranger, begins=now - _DAY, ends=now + _DAY * 30, authority=True)
    )
    assert list(files.problems()) == ["issuer"]


def test_a_key_of_another_certificate(files: Files) -> None:
    files.key.write_bytes(Signer.make("another").key_pem())
    assert "cannot be used together" in files.problems()["tls pair"]


def test_what_is_no_certificate(files: Files) -> None:
    files.certificate.write_text("no PEM")
    assert files.problems() == {"certificates": "not certificates in PEM form"}
