"""Who may agree on a key with whom."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from edge_runtime.errors import AuthenticityError, ConfigError
from edge_runtime.fleet.authority import Authority, new_key
from edge_runtime.process.agreement import Agreement
from edge_runtime.process.tls import TlsFiles
from tests.identity.site import make_identity

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("authority")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority.create(
        fleet="f", certificate_path=folder / "ca.pem", key_path=folder / "ca.key"
    )


@pytest.fixture(scope="module")
def side(folder: Path, authority: Authority) -> Callable[[str], TlsFiles]:
    return lambda name: make_identity(
        authority, folder / name, name, lifetime=timedelta(days=3650)
    )[0]


def test_both_sides_have_the_same_key_and_nobody_else_has(
    side: Callable[[str], TlsFiles],
) -> None:
    aggregator, a, b = (Agreement(tls=side(name), fleet="f") for name in ("aggregator", "a", "b"))
    at = {"now_unix_s": NOW}
    up = aggregator.agree(a.certificate, name="a", device="a", **at)
    down = a.agree(aggregator.certificate, name="aggregator", device="a", **at)
    assert up.key == down.key
    assert len(up.key) == 32
    other = aggregator.agree(b.certificate, name="b", device="b", **at)
    between = b.agree(a.certificate, name="a", device="a", **at)
    elsewhere = Agreement(tls=side("a"), fleet="g").agree(
        aggregator.certificate, name="aggregator", device="a", **at
    )
    # A new key and certificate for the same name.
    later = a.agree(Agreement(tls=side("aggregator"), fleet="f").certificate,
                    name="aggregator", device="a", **at)  # fmt: skip
    assert len({up.key, other.key, between.key, elsewhere.key, later.key}) == 5


def test_the_key_is_what_the_protocol_says(side: Callable[[str], TlsFiles]) -> None:
    """HKDF by hand (RFC 5869), as docs/protocol.md describes it."""
    import hashlib  # noqa: PLC0415
    import hmac  # noqa: PLC0415

    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_pem_private_key,
    )

    mine, theirs = side("aggregator"), side("a")
    own = load_pem_private_key(mine.key.read_bytes(), None)
    other = x509.load_pem_x509_certificate(theirs.certificate.read_bytes())
    secret = own.exchange(ec.ECDH(), other.public_key())
    extracted = hmac.digest(bytes(32), secret, hashlib.sha256)
    info = b"edge-runtime message key 1\0f\0a"
    expected = hmac.digest(extracted, info + b"\x01", hashlib.sha256)
    found = Agreement(tls=mine, fleet="f").agree(
        other.public_bytes(Encoding.DER), name="a", device="a", now_unix_s=NOW
    )
    assert found == (expected, other.not_valid_after_utc.timestamp(), other.serial_number)


def der(authority: Authority, key: EllipticCurvePublicKey, name: str, days: float = 3650) -> bytes:
    made = authority.issue_client(key, name, lifetime=timedelta(days=days))
    return made.public_bytes(Encoding.DER)


def test_nobody_else_is_agreed_with(
    folder: Path, authority: Authority, side: Callable[[str], TlsFiles]
) -> None:
    own = Agreement(tls=side("aggregator"), fleet="f")
    foreign = Authority.create(
        fleet="f", certificate_path=folder / "2.pem", key_path=folder / "2.key"
    )
    key = new_key(folder / "any.key").public_key()
    right = der(authority, key, "a")
    server = authority.issue_server(key, ["a"]).public_bytes(Encoding.DER)
    ca = authority.certificate.public_bytes(Encoding.DER)
    p384 = der(authority, ec.generate_private_key(ec.SECP384R1()).public_key(), "a")
    flipped = bytearray(right)
    flipped[-20] ^= 1  # in the signature
    assert own.agree(right, name="a", device="a", now_unix_s=NOW).key
    cases = {
        "another fleet": (der(foreign, key, "a"), "another fleet"),
        "another name": (der(authority, key, "b"), "another name"),
        "the aggregator's own": (own.certificate, "another name"),
        "expired": (der(authority, key, "a", days=1), "expired"),
        "a broker's": (server, "not one for clients"),
        "the authority's": (ca, "cannot be read"),
        "another curve": (p384, "another kind"),
        "changed": (bytes(flipped), "another fleet"),
        "cut off": (right[:-1], "cannot be read"),
        "longer": (right + b"\0", "cannot be read"),
        "nothing": (b"", "cannot be read"),
    }
    for name, (data, words) in cases.items():
        with pytest.raises(AuthenticityError) as raised:
            own.agree(data, name="a", device="a", now_unix_s=NOW)
        assert words in str(raised.value), name
    with pytest.raises(AuthenticityError, match="not valid yet"):
        own.agree(right, name="a", device="a", now_unix_s=0.0)


def test_files_that_do_not_belong_together_are_refused(
    tmp_path: Path, side: Callable[[str], TlsFiles]
) -> None:
    tls, other = side("a"), side("b")
    for wrong in (
        TlsFiles(ca=tls.ca, certificate=tls.certificate, key=other.key),
        TlsFiles(ca=tls.ca, certificate=tls.key, key=tls.key),
        TlsFiles(ca=tmp_path / "none", certificate=tls.certificate, key=tls.key),
        TlsFiles(ca=tls.ca),
    ):
        with pytest.raises(ConfigError):
            Agreement(tls=wrong, fleet="f")


def test_the_newest_list_of_the_authority_is_heeded(
    side: Callable[[str], TlsFiles], authority: Authority, tmp_path: Path
) -> None:
    own, other, third = (Agreement(tls=side(n), fleet="f") for n in ("own", "other", "third"))
    foreign = Authority.create(
        fleet="f", certificate_path=tmp_path / "ca.pem", key_path=tmp_path / "ca.key"
    )
    before = datetime.now(UTC) - timedelta(days=1)

    def listed(by: Authority, after: datetime, *sides: Agreement) -> bytes:
        pem = by.revocation_list([(one.serial, after) for one in sides], after=after)
        return x509.load_pem_x509_crl(pem).public_bytes(Encoding.DER)

    def agrees(with_whom: Agreement, name: str) -> bool:
        try:
            return bool(
                own.agree(with_whom.certificate, name=name, device=name, now_unix_s=NOW).key
            )
        except AuthenticityError as error:
            return str(error) != f"a certificate of {name!r} was revoked"

    first = listed(authority, before, other)
    assert agrees(other, "other")
    own.heed(first)
    assert (agrees(other, "other"), agrees(third, "third")) == (False, True)
    assert (own.is_revoked(other.serial), own.is_revoked(third.serial)) == (True, False)
    # In the lists that are not taken nobody is, or somebody else.
    second = listed(authority, datetime.now(UTC), third)
    for wrong, words in {
        listed(foreign, datetime.now(UTC)): "another fleet",
        second[:-1] + bytes([second[-1] ^ 1]): "another fleet|cannot be read",
        second[:-1]: "cannot be read",
        b"": "cannot be read",
        own.certificate: "cannot be read",
        first: "not newer than the one in force",
    }.items():
        with pytest.raises(AuthenticityError, match=words):
            own.heed(wrong)
        assert (agrees(other, "other"), agrees(third, "third")) == (False, True)
    own.heed(second)
    assert (agrees(other, "other"), agrees(third, "third")) == (True, False)
    with pytest.raises(AuthenticityError, match="not newer"):
        own.heed(first)
