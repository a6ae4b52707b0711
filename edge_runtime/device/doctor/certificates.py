"""Whether the files of `[broker.tls]` are there, belong together, and are valid now."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.device.clock import MINIMUM_TIME_FILE, MinimumTime, utc
from edge_runtime.device.doctor.finding import Finding

if TYPE_CHECKING:
    # At run time it would bring the kernel, and one that fails is a finding.
    from edge_runtime.device.config import DeviceConfig

__all__ = ["CHECKS", "examine_certificates"]

_ENROL = "enrol the device again"
#: a certificate that ends sooner than this is worth a word (seconds)
_SOON_S = 14 * 86_400


def _configured(config: DeviceConfig) -> Iterator[Finding]:
    tls = getattr(config.broker, "tls", None)
    if tls is None:
        yield Finding(check="certificates", found="none: the link is not encrypted")
        return
    yield from examine_certificates(
        ca=tls.ca,
        certificate=tls.certificate,
        key=tls.key,
        now_unix_s=MinimumTime(config.state_dir / MINIMUM_TIME_FILE).now(),
    )


def examine_certificates(
    *, ca: Path, certificate: Path | None, key: Path | None, now_unix_s: float
) -> Iterator[Finding]:
    """Check the files of a link, each a PEM file.

    Parameters
    ----------
    ca : Path
        Who may sign the broker's certificate and, in a fleet of this project, the device's.
    certificate, key : Path or None
        The device's own; None where it has none.
    now_unix_s : float
        The time to judge by.
    """
    readable = True
    for name, path in (("ca", ca), ("certificate", certificate), ("key", key)):
        if path is None:
            continue
        problem = _unreadable(path, secret=name == "key")
        readable = readable and not problem
        fix = (
            f"chmod 600 {path}" if "mode" in problem else _ENROL + f", or correct broker.tls.{name}"
        )
        yield Finding(
            check=f"tls {name}", found=str(path), problem=problem, fix=fix if problem else ""
        )
    if not readable:
        return
    try:
        from cryptography import x509  # noqa: PLC0415 - only enrolment needs it otherwise
    except ModuleNotFoundError:
        yield Finding(
            check="certificates",
            found="dates and issuer not looked at: the package cryptography is not installed",
        )
        return
    try:
        authorities = x509.load_pem_x509_certificates(ca.read_bytes())
        own = (
            None
            if certificate is None
            else x509.load_pem_x509_certificate(certificate.read_bytes())
        )
    except ValueError:
        yield Finding(
            check="certificates",
            found=f"{ca}, {certificate}",
            problem="not certificates in PEM form",
            fix=_ENROL,
        )
        return
    for authority in authorities:
        yield _dates("authority", authority, now_unix_s)
    if own is not None:
        yield _dates("certificate", own, now_unix_s)
        yield _issuer(own, authorities)
    if certificate is not None and key is not None:
        yield _pair(certificate, key)


def _unreadable(path: Path, *, secret: bool) -> str:
    try:
        with path.open("rb"):
            mode = path.stat().st_mode & 0o777
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return f"mode {mode:04o}: other users can get at it" if secret and mode & 0o077 else ""


def _dates(check: str, certificate: Any, now_unix_s: float) -> Finding:
    now = datetime.fromtimestamp(now_unix_s, UTC)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    name = certificate.subject.rfc4514_string()
    found = f"{name}, until {utc(ends.timestamp())}"
    if now < begins:
        problem = f"not valid before {utc(begins.timestamp())}"
        return Finding(
            check=check, found=found, problem=problem, fix="set the clock: timedatectl set-ntp true"
        )
    if now > ends:
        # Both ways: a clock that runs ahead looks the same.
        clock = utc(time.time())
        return Finding(
            check=check, found=found, problem=f"expired; the clock says {clock}", fix=_ENROL
        )
    if (ends - now).total_seconds() < _SOON_S:
        return Finding(check=check, found=f"{found}: renew it soon")
    return Finding(check=check, found=found)


def _issuer(own: Any, authorities: list[Any]) -> Finding:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    for authority in authorities:
        try:
            own.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return Finding(check="issuer", found=authority.subject.rfc4514_string())
    return Finding(
        check="issuer",
        found=own.issuer.rfc4514_string(),
        problem="no authority in broker.tls.ca has issued the certificate",
        fix=_ENROL,
    )


def _pair(certificate: Path, key: Path) -> Finding:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        # An empty password: OpenSSL would ask a terminal for one.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except ssl.SSLError as error:
        return Finding(
            check="tls pair",
            found=f"{certificate.name} and {key.name}",
            problem=f"cannot be used together ({error.reason})",
            fix=_ENROL,
        )
    return Finding(check="tls pair", found="certificate and key belong together")


CHECKS: tuple[Callable[[DeviceConfig], Iterator[Finding]], ...] = (_configured,)
