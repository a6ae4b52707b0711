"""Signing what the aggregator publishes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from edge_runtime.errors import ConfigError
from edge_runtime.updates.envelope import Envelope, Target, decode_envelope, encode_envelope
from edge_runtime.updates.keys import ONLINE_ROLES, load_roots, load_signer, read_root

__all__ = ["Repository"]

#: How long a device believes that it has heard the latest: an aggregator that is away for longer
#: leaves it with what it has.
TIMESTAMP_LIFE = timedelta(days=7)
#: the timestamp is signed again when it is older than this
RENEW_AFTER = timedelta(days=1)
#: of the two others, which are signed again with every change and in time before this
_CONTENT_LIFE = timedelta(days=90)
_CONTENT_RENEW = timedelta(days=45)


class Repository:
    """Makes the message that devices verify.

    Parameters
    ----------
    online : Path
        The directory of online keys and roots; see `keys`. It is looked at again whenever
        something is signed, so that a rotation needs no restart.
    last : bytes or None
        The message that was published last, or None before the first.

    Raises
    ------
    ConfigError
        A root or key is missing.

    Notes
    -----
    Versions are the time of signing in Unix seconds, or one more than the last where that is not
    ahead: so they also grow when an aggregator goes on from a backup.
    """

    def __init__(self, *, online: Path, last: bytes | None) -> None:
        self._online = online
        self.message = last
        self._parts: tuple[Targets, Snapshot, Timestamp] | None = None
        self._signed_by: int | None = None
        if last is not None:
            envelope = decode_envelope(last)
            self._parts = (
                Metadata[Targets].from_bytes(envelope.targets.encode()).signed,
                Metadata[Snapshot].from_bytes(envelope.snapshot.encode()).signed,
                Metadata[Timestamp].from_bytes(envelope.timestamp.encode()).signed,
            )
            self._signed_by = max((int(version) for version in envelope.roots), default=1)
        root = self._root(load_roots(online))
        for role in ONLINE_ROLES:
            load_signer(online, root, role)

    def sign(self, targets: Mapping[str, Target], *, now_unix_s: float) -> bool:
        """Bring `message` up to date.

        Parameters
        ----------
        targets : mapping of str to Target
            All that is in force: ``schema``, ``plan``, ``bundle/<digest>``.
        now_unix_s : float
            The wall clock.

        Returns
        -------
        bool
            Whether there is a new message: the targets or the root changed, or it is time.
        """
        roots = load_roots(self._online)
        now = datetime.fromtimestamp(int(now_unix_s), UTC)
        old = self._parts
        files = {
            path: TargetFile(target.bytes, {"sha256": target.sha256}, path,
                             {"custom": {"role": target.role}})
            for path, target in targets.items()
        }  # fmt: skip
        rotated = self._signed_by != max(roots)
        changed = (
            old is None
            or rotated
            or old[0].targets != files
            or not _CONTENT_RENEW <= old[0].expires - now <= _CONTENT_LIFE
        )
        # What lives longer was signed while the clock was ahead: nobody would see it held back.
        if (
            not changed
            and old is not None
            and TIMESTAMP_LIFE - RENEW_AFTER < old[2].expires - now <= TIMESTAMP_LIFE
        ):
            return False
        version = max([int(now_unix_s), *(part.version + 1 for part in old or ())])
        if changed or old is None:
            content, snapshot = (
                Targets(version=version, expires=now + _CONTENT_LIFE, targets=files),
                Snapshot(version=version, expires=now + _CONTENT_LIFE),
            )
        else:
            content, snapshot, _ = old
        timestamp = Timestamp(version=version, expires=now + TIMESTAMP_LIFE)
        root = self._root(roots)
        targets_text = self._text(content, root)
        snapshot.meta["targets.json"] = _meta(content.version, targets_text)
        snapshot_text = self._text(snapshot, root)
        timestamp.snapshot_meta = _meta(snapshot.version, snapshot_text)
        self.message = encode_envelope(
            Envelope(
                roots={str(number): text for number, text in roots.items() if number > 1},
                timestamp=self._text(timestamp, root),
                snapshot=snapshot_text,
                targets=targets_text,
            )
        )
        self._parts, self._signed_by = (content, snapshot, timestamp), root.version
        return True

    def _root(self, roots: Mapping[int, str]) -> Root:
        root = read_root(roots[max(roots)], self._online)
        if root.is_expired():
            raise ConfigError(
                f"root {root.version} of the fleet's update keys expired at {root.expires}; make "
                "the next one with: edge-runtime fleet rotate DIRECTORY updates"
            )
        return root

    def _text(self, signed: Targets | Snapshot | Timestamp, root: Root) -> str:
        # Ed25519 signatures are deterministic: the same content is the same file.
        metadata = Metadata[Any](signed)
        metadata.sign(load_signer(self._online, root, signed.type))
        return metadata.to_bytes(JSONSerializer(compact=True)).decode()


def _meta(version: int, text: str) -> MetaFile:
    return MetaFile.from_data(version, text.encode(), ["sha256"])
