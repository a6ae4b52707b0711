"""What the reception needs to know: where the broker is, who it is there, what it holds at most."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_runtime.process.tls import TlsFiles

__all__ = ["AggregatorTls", "LimitSettings", "ReceptionSettings"]


class AggregatorTls(TlsFiles, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[broker.tls] of an aggregator: the files of `TlsFiles`, and one more.

    Parameters
    ----------
    revoked : Path, optional
        The fleet's list of revoked certificates (PEM), as `edge-runtime fleet` keeps it in
        aggregator/crl.pem. What is sealed with a certificate in it is dropped, and devices are
        handed it. It is read again when it has changed.
    """

    revoked: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.revoked is not None and self.certificate is None:
            raise ValueError("revoked is for messages that are sealed; certificate is missing")


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[limits]: what an aggregator holds at most.

    Parameters
    ----------
    queue_messages, queue_bytes : int
        What waits between the link and the inbox. More waits at the broker; where there is no
        place within a second it is dropped and sent again by its device, that of the device with
        most first.
    device_bytes_per_s, device_burst_bytes : int
        What one device may send over time, and at once: by default an outbox full. A message
        counts as 16 kB at least. More is not answered, so that its device sends it again later,
        and the device is named in `aggregator status`.
    quarantine_bytes : int
        Bytes of rejected messages kept on disk for inspection; later ones are only catalogued.
    """

    queue_messages: int = 1024
    queue_bytes: int = 64 * 2**20
    device_bytes_per_s: int = 2**20
    device_burst_bytes: int = 64 * 2**20
    quarantine_bytes: int = 64 * 2**20


class ReceptionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that the aggregator tells its reception before it starts.

    Parameters
    ----------
    fleet : str
        The segment of the topics.
    host, port, username, password, keepalive_s, tls
        As [broker] of aggregator.toml has them.
    client_id : str
        At the broker.
    will : bytes
        The status that the broker publishes when the aggregator is gone without a word.
    limits : LimitSettings
        What is held at most.
    log_level : str
        The lowest level that is logged.
    """

    fleet: str
    host: str
    port: int
    client_id: str
    will: bytes
    username: str | None = None
    password: str | None = None
    keepalive_s: int = 30
    tls: AggregatorTls | None = None
    limits: LimitSettings = LimitSettings()
    log_level: str = "INFO"
