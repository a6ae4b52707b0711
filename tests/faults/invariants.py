"""What must hold after every schedule, read from the files while the fleet goes on.

Everything is compared with what the tap in the network has seen: the messages as they left the
devices, the acknowledgements as they left the aggregator.
"""

from __future__ import annotations

import io
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from edge_runtime.errors import FleetError
from edge_runtime.messages import Header
from edge_runtime.privacy import Entry, read_entries
from tests.faults.fleet import Fleet
from tests.faults.node import Node

__all__ = ["Books"]

_DELTA = 1e-5
#: the part of a plan that pays for a kind of message
_PAID_BY = {"batch": "training"}
_DEVICE_FILES = re.compile(
    r"lock|minimum-time|enrolment\.lock|device\.sqlite(-wal|-shm)?|bundles/[0-9a-f]{64}\.(bundle|trials)"
    r"|identity/(ca\.pem|certificate\.pem|key\.pem|token|root\.json|minimum-time)"
)
_AGGREGATOR_FILES = re.compile(
    r"lock|updates\.json|catalogue\.sqlite(-wal|-shm)?|quarantine/[^/]+/[0-9a-f]+\.(bin|json|parquet|zst)"
)


@dataclass
class Books:
    """What was found wrong in one fleet, and what was looked at before."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    unpaid: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    in_the_clear: list[str] = field(default_factory=list)
    _compared: set[str] = field(default_factory=set)
    _suspects: dict[str, set[tuple[str, tuple[int, int]]]] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """All of it, in words."""
        return [*self.lost, *self.duplicated, *self.unpaid, *self.left_behind, *self.in_the_clear]

    def check(self, fleet: Fleet) -> None:
        """Check all invariants.

        Raises
        ------
        FleetError
            When one does not hold.
        """
        self.in_the_clear = list(fleet.network.in_the_clear)
        if fleet.secured is not None:
            fleet.secured.check_words()
        self._check_pool(fleet)
        for node in fleet.devices:
            self._check_device(fleet, node)
        if self.problems:
            raise FleetError("\n".join(self.problems))

    def check_files(self, fleet: Fleet) -> None:
        """Look for files that nobody needs; one that is there twice in a row was left behind.

        The same file, not one of the same name: metadata is verified in files that are made anew.

        Raises
        ------
        FleetError
        """
        for node in fleet.nodes.values():
            found = {
                (name, mark)
                for name in self._strays(node)
                if (mark := _mark(node.state / name)) is not None
            }
            stayed = sorted(name for name, _ in found & self._suspects.get(node.name, set()))
            self._suspects[node.name] = found
            self.left_behind += [f"left behind by {node.name}: {name}" for name in stayed]
        if self.left_behind:
            raise FleetError("\n".join(self.left_behind))

    def _check_pool(self, fleet: Fleet) -> None:
        state = fleet.aggregator.state
        # In this order: what was acknowledged before the catalogue is read must be in it.
        acknowledged, sent = fleet.acknowledged(), fleet.sent
        records = _catalogue(state)
        by_sha: dict[str, list[tuple[str, str, str, str]]] = {}
        for sha, kind, status, path, place in records:
            by_sha.setdefault(sha, []).append((kind, status, path, place))
        for sha, ack in acknowledged.items():
            if ack.status in ("accepted", "duplicate") and sha not in by_sha:
                self.lost.append(f"acknowledged and not in the catalogue: message {ack.id}")
        places: dict[str, str] = {}
        for sha, found in by_sha.items():
            if len(found) > 1:
                self.duplicated.append(f"{len(found)} times in the catalogue: {sha}")
            kind, status, path, place = found[0]
            if status != "accepted" or kind != "batch":
                continue
            if place in places:
                self.duplicated.append(f"{path} holds the same part as {places[place]}: {place}")
            places[place] = path
            file = state / path
            if not file.exists():
                self.lost.append(f"accepted and not in the pool: {path}")
            elif sha not in self._compared and sha in sent:
                self._compare(file, sent[sha][1].id, sent[sha][2])
                self._compared.add(sha)

    def _compare(self, file: Path, message_id: str, payload: bytes) -> None:
        """Rows of the pool against the message as it left the device; others share its file."""
        message = pa.ipc.open_stream(_decompressed(payload)).read_all()
        try:
            kept = pq.ParquetFile(file).read()
            kept = kept.filter(pc.equal(kept.column("message"), message_id))
        except (OSError, pa.ArrowException) as error:
            self.lost.append(f"accepted and damaged in the pool: {file}: {error}")
            return
        names = [name for name in kept.column_names if name.startswith("code_")]
        same = len(kept) == len(message) and all(
            kept.column(name).to_pylist() == message.column(name.removeprefix("code_")).to_pylist()
            for name in names
        )
        if not same:
            self.lost.append(f"accepted and other rows in the pool: {file}")

    def _check_device(self, fleet: Fleet, node: Node) -> None:
        # First what has left: whatever is in the ledger later cannot be less.
        left = fleet.left_of(node.name)
        with closing(_open(node.state / "device.sqlite")) as connection:
            entries = {entry.key: entry for entry in read_entries(connection, delta=_DELTA)}
            numbered = int(
                next(
                    iter(
                        connection.execute(
                            "SELECT value FROM meta WHERE key = 'outbox.sequence'"
                        ).fetchall()
                    ),
                    (b"0",),
                )[0]
            )
            waiting = {
                row[0] for row in connection.execute("SELECT sequence FROM outbox").fetchall()
            }
        spent = max((entry.epsilon_after for entry in entries.values()), default=0.0)
        releases: dict[tuple[str, str, int], str] = {}
        for sha, header, _ in left:
            self._check_paid(node, header, entries, spent)
            release = (header.plan_id, header.kind, header.part)
            if releases.setdefault(release, sha) != sha:
                self.unpaid.append(
                    f"{node.name} released {header.kind} {header.part} of plan {header.plan_id} "
                    "twice, with other noise, and paid once"
                )
        answered = _sequences(fleet.aggregator.state, node.name)
        for sequence in range(numbered):
            if sequence not in waiting and sequence not in answered:
                self.lost.append(f"message {sequence} of {node.name} is nowhere")

    def _check_paid(
        self, node: Node, header: Header, entries: dict[str, Entry], spent: float
    ) -> None:
        entry = entries.get(f"{header.plan_id}/{_PAID_BY.get(header.kind, header.kind)}")
        stated = header.privacy.epsilon
        if entry is None or not entry.released or stated is None or stated > spent * (1 + 1e-9):
            self.unpaid.append(
                f"{node.name} released {header.kind} {header.id} at epsilon {stated}; its ledger "
                f"has {spent} and {'no' if entry is None else 'an unreleased'} entry for it"
            )

    def _strays(self, node: Node) -> set[str]:
        files = {
            path.relative_to(node.state).as_posix()
            for path in node.state.rglob("*")
            if path.is_file()
        }
        if node.name != "aggregator":
            # The latest four, and the two slots.
            bundles = {name for name in files if name.endswith(".bundle")}
            many = bundles if len(bundles) > 6 else set()
            return many | {name for name in files if not _DEVICE_FILES.fullmatch(name)}
        known = {path for _, _, _, path, _ in _catalogue(node.state)} | _bundles(node.state)
        return {n for n in files - known if not _AGGREGATOR_FILES.fullmatch(n)}


def _mark(path: Path) -> tuple[int, int] | None:
    """Tell a file from another of its name: by when it was written last, and where."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30.0)


def _catalogue(state: Path) -> list[tuple[str, str, str, str, str]]:
    """SHA-256, kind, status, path and place (device, plan and part) of every message."""
    with closing(_open(state / "catalogue.sqlite")) as connection:
        return [
            (sha, kind, status, path, f"{device} {plan} {part}")
            for sha, kind, status, path, device, plan, part in connection.execute(
                "SELECT sha256, kind, status, path, device, plan_id, part FROM messages"
            )
        ]


def _sequences(state: Path, device: str) -> set[int]:
    with closing(_open(state / "catalogue.sqlite")) as connection:
        return {
            row[0]
            for row in connection.execute(
                "SELECT sequence FROM messages WHERE device = ?", (device,)
            )
        }


def _bundles(state: Path) -> set[str]:
    with closing(_open(state / "catalogue.sqlite")) as connection:
        paths = [row[0] for row in connection.execute("SELECT path FROM bundles")]
    return {*paths, *(path.replace(".bundle", ".state") for path in paths)}


def _decompressed(payload: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(payload)) as stream:
        return bytes(stream.read())
