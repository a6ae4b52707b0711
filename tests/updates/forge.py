"""A fleet's repository, and metadata that it would never publish."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from edge_runtime.device.files import write_durably
from edge_runtime.updates import Envelope, Target, Trusted, Verdict, decode_envelope
from edge_runtime.updates.keys import load_roots, load_signer, make_roots, rotate_roots
from edge_runtime.updates.repository import Repository
from edge_runtime.updates.trust import Question
from edge_runtime.updates.verify import verify

TYPES: dict[str, Any] = {"timestamp": Timestamp, "snapshot": Snapshot, "targets": Targets}


def write(path: Path, data: bytes, mode: int) -> None:
    write_durably(path, data, mode=mode)


def target(data: bytes, role: str) -> Target:
    return Target(role=role, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())  # type: ignore[arg-type]


class Forge:
    """Holds the keys, so that a test can sign whatever it likes."""

    def __init__(self, directory: Path) -> None:
        self.root_key = directory / "root.key"
        self.online = directory / "online"
        self.online.mkdir(parents=True)
        make_roots(root_key=self.root_key, online=self.online, write=write)
        self.repository = Repository(online=self.online, last=None)
        self.now = time.time()

    @property
    def first_root(self) -> str:
        return load_roots(self.online)[1]

    def rotate(self, *, root_too: bool = False) -> None:
        rotate_roots(root_key=self.root_key, online=self.online, write=write, root_too=root_too)

    def publish(self, **files: bytes) -> Envelope:
        """Sign files, each under its role's name."""
        self.now += 1
        targets = {name: target(data, name) for name, data in files.items()}
        assert self.repository.sign(targets, now_unix_s=self.now)
        assert self.repository.message is not None
        return decode_envelope(self.repository.message)

    def sign_anew(
        self, envelope: Envelope, role: str, change: Callable[[Any], None],
        *, key: CryptoSigner | None = None,
    ) -> Envelope:  # fmt: skip
        """Return the message with one file changed and signed, by its own key if none is given."""
        signed = Metadata[TYPES[role]].from_bytes(getattr(envelope, role).encode()).signed
        change(signed)
        roots = load_roots(self.online)
        root = Metadata[Root].from_bytes(roots[max(roots)].encode()).signed
        metadata = Metadata(signed)
        metadata.sign(key or load_signer(self.online, root, role))
        text = metadata.to_bytes(JSONSerializer(compact=True)).decode()
        return msgspec.structs.replace(envelope, **{role: text})


def expire(signed: Any) -> None:
    signed.expires = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)


class Client:
    """A device's view: what it trusts now."""

    def __init__(self, root: str, directory: Path) -> None:
        self.root = root
        self.directory = directory
        self.trusted: Trusted | None = None
        self._count = 0

    def offer(self, envelope: Envelope, *, now_unix_s: float = 0.0) -> Verdict:
        self._count += 1
        place = self.directory / str(self._count)
        place.mkdir(parents=True)
        verdict = verify(
            Question(
                root=self.root,
                trusted=None if self.trusted is None else self.trusted.envelope,
                offered=envelope,
                now_unix_s=now_unix_s,
            ),
            place,
        )
        self.root = verdict.root
        if verdict.trusted is not None:
            self.trusted = verdict.trusted
        return verdict
