"""Verification with python-tuf: a question on standard input, a verdict on standard output.

The workflow of the specification (root, timestamp, snapshot, targets) is python-tuf's `Updater`,
untouched; it is given files that were trusted before and fetches the others from the message.
"""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from edge_runtime.errors import (
    EdgeRuntimeError,
    ExpiredError,
    MixError,
    RollbackError,
    SignatureError,
    SizeError,
    UpdateError,
)
from edge_runtime.updates.envelope import ENVELOPE_BYTES, Envelope, Target
from edge_runtime.updates.trust import Question, Trusted, Verdict

__all__ = ["verify"]

_FILES = ("timestamp", "snapshot", "targets")
#: python-tuf says so of files that belong to different publications; every other wrong version
#: is older than one that was seen
_MIXED = re.compile(r"Expected (snapshot version|targets v)\d")
#: for hostile metadata; an ordinary verification takes a tenth of both
_MEMORY_BYTES, _CPU_S = 1 << 30, 30


class _FromMessage(FetcherInterface):
    """Fetches from a message instead of a server."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope

    def _fetch(self, url: str) -> Iterator[bytes]:
        text = self._envelope.file(url.rpartition("/")[2])
        if text is None:
            # For roots that is how the chain ends.
            raise DownloadHTTPError(f"{url} is not in the message", 404)
        return iter([text.encode()])


def verify(question: Question, directory: Path) -> Verdict:
    """Verify metadata.

    Parameters
    ----------
    question : Question
        What is trusted and what is offered.
    directory : Path
        An empty one, for python-tuf's files; of no use afterwards.
    """
    for name in _FILES if question.trusted is not None else ():
        (directory / f"{name}.json").write_text(getattr(question.trusted, name), encoding="utf-8")
    root = question.root
    try:
        updater = Updater(
            str(directory),
            "mqtt:/",
            fetcher=_FromMessage(question.offered),
            config=UpdaterConfig(
                root_max_length=ENVELOPE_BYTES,
                timestamp_max_length=ENVELOPE_BYTES,
                snapshot_max_length=ENVELOPE_BYTES,
                targets_max_length=ENVELOPE_BYTES,
            ),
            bootstrap=root.encode(),
        )
        try:
            updater.refresh()
        finally:
            root = (directory / "root.json").read_text(encoding="utf-8")
        trusted = _read(directory, question)
    except EdgeRuntimeError as error:
        return Verdict(root=root, error=type(error).__name__, reason=str(error))
    except (RepositoryError, DownloadError) as error:
        return Verdict(root=root, error=_kind(error).__name__, reason=str(error)[:500])
    except (OSError, MemoryError) as error:
        reason = f"metadata cannot be verified: {type(error).__name__}"
        return Verdict(root=question.root, error="UpdateError", reason=reason, failed=True)
    except Exception as error:  # noqa: BLE001 - whatever hostile metadata raises is a refusal
        return Verdict(root=root, error="UpdateError", reason=f"metadata: {type(error).__name__}")
    return Verdict(root=root, trusted=trusted)


def _kind(error: Exception) -> type[EdgeRuntimeError]:
    match error:
        case UnsignedMetadataError():
            return SignatureError
        case BadVersionNumberError():
            return MixError if _MIXED.match(str(error)) else RollbackError
        case ExpiredMetadataError():
            return ExpiredError
        case LengthOrHashMismatchError():
            return MixError
        case DownloadLengthMismatchError():
            return SizeError
    return UpdateError


def _read(directory: Path, question: Question) -> Trusted:
    """Read what python-tuf has accepted, and hold its expiry against the latest time known."""
    texts = {
        name: (directory / f"{name}.json").read_text(encoding="utf-8") for name in ("root", *_FILES)
    }
    root = Metadata[Root].from_bytes(texts["root"].encode()).signed
    timestamp = Metadata[Timestamp].from_bytes(texts["timestamp"].encode()).signed
    snapshot = Metadata[Snapshot].from_bytes(texts["snapshot"].encode()).signed
    targets = Metadata[Targets].from_bytes(texts["targets"].encode()).signed
    now = datetime.fromtimestamp(question.now_unix_s, UTC)
    for signed in (root, timestamp, snapshot, targets):
        # python-tuf goes by the clock alone, which may have been set back.
        if signed.is_expired(now):
            raise ExpiredError(f"{signed.type}.json expired at {signed.expires}")
    return Trusted(
        envelope=Envelope(
            timestamp=texts["timestamp"], snapshot=texts["snapshot"], targets=texts["targets"]
        ),
        root=root.version,
        version=timestamp.version,
        expires_unix_s=min(
            signed.expires.timestamp() for signed in (root, timestamp, snapshot, targets)
        ),
        targets={
            path: msgspec.convert(
                {
                    "role": target.unrecognized_fields.get("custom", {}).get("role"),
                    "bytes": target.length,
                    "sha256": target.hashes.get("sha256"),
                },
                Target,
            )
            for path, target in targets.targets.items()
        },
    )


def main(arguments: list[str]) -> int:
    """Answer one question; the only argument is the directory."""
    with contextlib.suppress(OSError):
        # Where memory runs out it is this process that goes, and not the agent.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    sys.stdout.buffer.write(msgspec.json.encode(verify(question, Path(arguments[0]))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
