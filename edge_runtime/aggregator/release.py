"""The release: a checksummed dataset drawn from the pool, with everything needed to judge it.

Rows are drawn from the pool in proportion to their weights and decoded with a public key. What a
release saw (its messages one by one, its bundle, what was known of privacy and the guard) is
recorded in the catalogue, so that the same bytes can be written again when the pool has grown.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any, Literal, get_args

from edge_runtime.aggregator.catalogue import utc_now
from edge_runtime.aggregator.composition import composition
from edge_runtime.aggregator.opening import open_workspace
from edge_runtime.aggregator.prior import ANCHOR_ROWS
from edge_runtime.aggregator.records import MessageRecord
from edge_runtime.aggregator.release_book import ReleaseBook, ReleaseRecord
from edge_runtime.aggregator.release_files import (
    FACTS,
    SUMS,
    Release,
    Seen,
    sha256_of,
    write_files,
)
from edge_runtime.aggregator.workspace import ANCHOR_SETTINGS, Workspace
from edge_runtime.errors import AggregatorError

__all__ = [
    "Mode",
    "Release",
    "list_releases",
    "make_release",
    "repeat_release",
    "verify_release",
    "write_release",
]

Mode = Literal["pool", "balanced", "matched"]

#: kinds of messages that can be in quarantine, and how many of them the report shows
_QUARANTINE_KINDS = ("batch", "census", "anchor", "moments", "score", "update", "unreadable")
_SHOWN_REASONS = 20


def make_release(
    data_dir: str | Path,
    out: str | Path,
    rows: int | None = None,
    *,
    mode: Mode | None = None,
    seed: int = 0,
) -> Release:
    """Write a release from an aggregator's data directory; no broker is needed.

    The same pool, mode, rows and seed are the same release: it is written again, byte for byte.

    Parameters
    ----------
    data_dir : str or Path
        The aggregator's data directory.
    out : str or Path
        A directory to create. An earlier release there is replaced, anything else is not.
    rows : int, optional
        How many rows; by default the configured number, or as many as the fleet is estimated to
        hold, at most the pool's.
    mode : {"pool", "balanced", "matched"}, optional
        Which rows: as the pool is, with every device weighted by its noisy number of rows;
        balanced, equally many of every combination of condition values that the pool has; matched,
        weighted towards the anchor, which is the default where there is one.
    seed : int
        Another seed draws and decodes other rows.

    Returns
    -------
    Release

    Raises
    ------
    AggregatorError
        If the pool is empty, `rows` or `mode` is impossible, `out` holds something else, or the
        fleet draws from a packed graph.
    """
    workspace = open_workspace(data_dir)
    try:
        packed = workspace.config.bundle.packed
        if packed:
            raise AggregatorError(
                "this fleet draws rows of a packed graph and learns nothing of its own to release; "
                f"such rows without a fleet: edge-runtime sample {packed}"
            )
        return write_release(workspace, Path(out), rows=rows, mode=mode, seed=seed)
    finally:
        workspace.close()


def repeat_release(data_dir: str | Path, release_id: str, out: str | Path) -> Release:
    """Write an earlier release again, whatever has been accepted since.

    Parameters
    ----------
    data_dir : str or Path
        The aggregator's data directory.
    release_id : str
        Its id, or a beginning that no other release has.
    out : str or Path
        As for `make_release`.

    Returns
    -------
    Release

    Raises
    ------
    AggregatorError
        If there is no such release, something that it saw is lost or `out` holds something else.
    """
    workspace = open_workspace(data_dir)
    try:
        _check_place(Path(out))
        book = ReleaseBook(workspace.catalogue)
        record = book.find(release_id)
        seen = Seen.of(
            workspace, record.bundle_digest, book.messages(record), record.facts["settings"]
        )
        return write_files(workspace, record, seen, Path(out))
    finally:
        workspace.close()


def list_releases(data_dir: str | Path) -> list[ReleaseRecord]:
    """Return what was released from a data directory, in that order."""
    workspace = open_workspace(data_dir)
    try:
        return ReleaseBook(workspace.catalogue).all()
    finally:
        workspace.close()


def write_release(
    workspace: Workspace,
    out: Path,
    *,
    rows: int | None = None,
    mode: Mode | None = None,
    seed: int = 0,
) -> Release:
    """As `make_release`, from an open workspace."""
    _check_place(out)
    if mode is not None and mode not in get_args(Mode):
        raise AggregatorError(f"a release is one of {', '.join(get_args(Mode))}, not {mode!r}")
    published = workspace.catalogue.bundles()
    if not published:
        raise AggregatorError("there is no generator yet: the census is not done")
    messages = workspace.catalogue.accepted()
    settings = {name: workspace.catalogue.setting(name) for name in ANCHOR_SETTINGS}
    seen = Seen.of(workspace, published[-1].digest, messages, settings)
    if not len(seen.pool.codes):
        raise AggregatorError("the pool is empty: no batch has been accepted yet")
    if mode is None:
        mode = "pool" if seen.anchor is None else "matched"
    _check_mode(mode, seen)
    if mode == "pool" and seen.pool.devices == (ANCHOR_ROWS,):
        raise AggregatorError(
            "the pool is empty: devices were asked for counts alone; use --mode matched"
        )
    rows = rows or workspace.config.release.rows or None
    if rows is None:
        rows = max(1, min(len(seen.pool.codes), round(seen.estimated_rows)))
    if rows < 1:
        raise AggregatorError(f"a release needs at least one row, not {rows}")

    book = ReleaseBook(workspace.catalogue)
    record = ReleaseRecord(
        id=_identify(workspace, seen, mode=mode, rows=rows, seed=seed),
        mode=mode,
        rows=rows,
        seed=seed,
        bundle_digest=seen.bundle.digest,
        facts={"settings": settings, **_facts(workspace, messages)},
        sums_sha256="",
        created_at=utc_now(),
    )
    earlier = [r for r in book.all() if r.id == record.id]
    if earlier:
        return write_files(workspace, earlier[0], seen, out)
    return write_files(
        workspace,
        record,
        seen,
        out,
        on_written=lambda digest: book.add(record._replace(sums_sha256=digest), messages),
    )


def _check_place(out: Path) -> None:
    if out.exists() and any(out.iterdir()) and not (out / FACTS).exists():
        raise AggregatorError(f"{out} is not empty and not an earlier release; name another")


def _check_mode(mode: Mode, seen: Seen) -> None:
    if mode == "matched" and seen.anchor is None:
        raise AggregatorError(
            "there is no anchor to match: no device has released counts yet; use --mode pool, or "
            "set [rounds] anchor_share above 0"
        )
    if mode == "balanced" and not seen.bundle.schema.conditions:
        raise AggregatorError(
            "the schema has no condition columns to balance over; use --mode matched or pool"
        )


def _identify(workspace: Workspace, seen: Seen, *, mode: Mode, rows: int, seed: int) -> str:
    """Name a release by all that its rows follow from."""
    what = (
        f"{workspace.config.fleet.name} {seen.bundle.digest} {seen.digest} {mode} {rows} {seed} "
    ).encode()
    return hashlib.sha256(workspace.release_key + what).hexdigest()[:12]


def _facts(workspace: Workspace, messages: list[MessageRecord]) -> dict[str, Any]:
    """Return what is known now and could not be derived later."""
    catalogue = workspace.catalogue
    put_aside = [
        message
        for status in ("quarantined", "refused")
        for kind in _QUARANTINE_KINDS
        for message in catalogue.messages(kind=kind, status=status)
    ]
    put_aside.sort(key=lambda m: (m.received_at, m.id), reverse=True)
    packages = ("numpy", "pyarrow")
    return {
        "privacy": workspace.privacy(),
        "rounds": composition(catalogue.rounds(), messages),
        "alarms": [
            {
                "severity": alarm.severity,
                "kind": alarm.kind,
                "subject": alarm.subject,
                "since_round": alarm.since_round,
                "text": alarm.text,
            }
            for alarm in workspace.alarms().alarms
        ],
        "rejected": len(catalogue.bundles(status="rejected")),
        "withdrawn": len(catalogue.bundles(status="withdrawn")),
        "quarantined": len(put_aside),
        "reasons": [
            {"device": m.device, "round": m.round, "reason": m.reason}
            for m in put_aside[:_SHOWN_REASONS]
        ],
        "made_with": {
            "edge-runtime": importlib.metadata.version("edge-runtime"),
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }


def verify_release(path: str | Path) -> int:
    """Check every file of a release against its SHA256SUMS; the number of files.

    Raises
    ------
    AggregatorError
        If a file is missing, added or changed.
    """
    path = Path(path)
    if not (path / SUMS).is_file():
        raise AggregatorError(f"{path} is not a release: there is no {SUMS}")
    try:
        lines = (path / SUMS).read_text(encoding="ascii").splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        found = {p.name: sha256_of(p) for p in path.iterdir() if p.name != SUMS and p.is_file()}
    except (OSError, ValueError) as error:
        raise AggregatorError(f"{path} is not a release: {error}") from error
    wrong = sorted(name for name in sums.keys() | found.keys() if sums.get(name) != found.get(name))
    if wrong:
        raise AggregatorError(f"{path}: changed since it was written: {', '.join(wrong)}")
    return len(found)
