"""The files of a release: a function of its record, the messages that it saw and its bundle.

Nothing here looks at the clock, at what was accepted later or at a random source: the same record
gives the same bytes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Anchor, census_anchor
from edge_runtime.aggregator.drawing import condition_cells
from edge_runtime.aggregator.pool import PoolRows
from edge_runtime.aggregator.prior import ANCHOR_ROWS, with_prior
from edge_runtime.aggregator.privacy_page import privacy_page
from edge_runtime.aggregator.records import MessageRecord
from edge_runtime.aggregator.release_book import CatalogueAsOf, ReleaseRecord
from edge_runtime.aggregator.release_figures import (
    cell_figures,
    column_figures,
    findings,
    lineage_figures,
    table_figures,
)
from edge_runtime.aggregator.release_rows import draw_rows
from edge_runtime.aggregator.workspace import Workspace
from edge_runtime.errors import AggregatorError
from edge_runtime.evaluation.release_page import render_release
from edge_runtime.generator import Bundle
from edge_runtime.schema import following, steps_of_windows, write_table

__all__ = ["FACTS", "SUMS", "Release", "Seen", "sha256_of", "write_files"]

FACTS, SUMS = "release.json", "SHA256SUMS"


class Release(NamedTuple):
    """A written release.

    `path` is its directory, `data` the data file, `identical` whether the files have the bytes
    that were written when it was first made (they may not after an update of pyarrow).
    """

    path: Path
    data: Path
    rows: int
    facts: dict[str, Any]
    identical: bool = True


class Seen(NamedTuple):
    """What a release sees, read from the disk."""

    bundle: Bundle
    batches: list[MessageRecord]
    pool: PoolRows
    anchor: Anchor | None
    census: Anchor | None
    rows_of: dict[str, float]
    digest: str

    @property
    def heard(self) -> list[str]:
        """Devices behind the rows: those that sent some, or else those that counted."""
        sent = [device for device in self.pool.devices if device != ANCHOR_ROWS]
        return sent or [device for device in self.rows_of if device != ANCHOR_ROWS]

    @property
    def from_counts(self) -> npt.NDArray[np.bool_]:
        """Which rows no device has sent, bool [n]: they were drawn from the anchor."""
        names = np.array(self.pool.devices, dtype=object)
        return np.asarray((names == ANCHOR_ROWS)[self.pool.device])

    @property
    def estimated_rows(self) -> float:
        """Noisy number of real rows of the fleet."""
        return sum(rows for device, rows in self.rows_of.items() if device != ANCHOR_ROWS)

    @classmethod
    def of(
        cls,
        workspace: Workspace,
        digest: str,
        messages: list[MessageRecord],
        settings: Mapping[str, str | None],
    ) -> Seen:
        """Read what follows from these messages and settings, and the bundle of this digest.

        Raises
        ------
        AggregatorError
            If a file that the catalogue names is missing or damaged.
        """
        made = [b for b in workspace.catalogue.bundles(status=None) if b.digest == digest]
        if not made:
            raise AggregatorError(
                f"bundle {digest[:12]} is not in the catalogue; restore it from its backup"
            )
        then = workspace.as_of(CatalogueAsOf(workspace.catalogue, messages, settings))
        bundle = then.bundle(made[-1])
        assert bundle is not None, "a record was given"
        censuses = then.censuses()
        anchor = then.anchor(bundle)
        batches = then.catalogue.messages(kind="batch")
        pool, rows_of = with_prior(
            then.pool_rows(),
            then.rows_of_devices(bundle),
            anchor,
            then.prior_share,
            cardinalities=bundle.codec.cardinalities,
            conditions=bundle.schema.conditions,
            moments=then.moments(bundle),
            before=following(bundle.schema),
        )
        if ANCHOR_ROWS in pool.devices:
            batches.append(_anchor_batch(pool))
        return cls(
            bundle=bundle,
            batches=batches,
            pool=pool,
            anchor=anchor,
            census=census_anchor(bundle.codec, censuses) if censuses else None,
            rows_of=rows_of,
            digest=_digest(messages, settings),
        )


def _anchor_batch(pool: PoolRows) -> MessageRecord:
    """Stand for the rows that were drawn from the anchor, where lineage asks for batches."""
    rows = int((pool.device == len(pool.devices) - 1).sum())
    return MessageRecord(
        id="", device=ANCHOR_ROWS, sequence=0, sha256="", kind="batch", status="accepted",
        reason="", round=0, plan_id="", part=1, parts=1, depth=1, rows=rows, bytes=0, path="",
        epsilon=None, received_at="", bundle_digest="",
    )  # fmt: skip


def _digest(messages: list[MessageRecord], settings: Mapping[str, str | None]) -> str:
    known = [f"{name}={value}" for name, value in sorted(settings.items())]
    return hashlib.sha256("\n".join(known + sorted(m.id for m in messages)).encode()).hexdigest()


def write_files(
    workspace: Workspace,
    record: ReleaseRecord,
    seen: Seen,
    out: Path,
    *,
    on_written: Callable[[str], None] | None = None,
) -> Release:
    """Write the files of a release into a directory of its own, which appears when it is whole.

    Parameters
    ----------
    workspace : Workspace
        Of the fleet.
    record : ReleaseRecord
        What was asked for, and what was known at the time.
    seen : Seen
        What it was drawn from.
    out : Path
        The directory; an earlier one is replaced.
    on_written : callable, optional
        Called with the digest of SHA256SUMS when all is written, before it appears as `out`: no
        release is in anybody's hands that the catalogue does not know.
    """
    key = hashlib.sha256(workspace.release_key + f"release {record.id}".encode()).digest()
    cells, cell = condition_cells(seen.pool.codes, seen.bundle.schema.conditions)
    table, codes, chosen, constraints = draw_rows(seen, record, key=key)

    lineage = lineage_figures(seen.batches, chosen)
    facts = _release_facts(workspace, record, seen, chosen=chosen, key=key)
    if constraints is not None:
        facts["constraints"] = constraints
    depth = max(row["depth"] for row in lineage["rows"] if row["released"])
    if seen.bundle.schema.sequence is not None:
        table = steps_of_windows(table)
    table = table.marked({"fleet": facts["fleet"], "release": record.id, "depth": depth})
    figures = {
        "title": f"Release {record.id} of fleet {facts['fleet']}",
        "table": seen.bundle.schema.name,
        "release": {
            "id": record.id,
            "mode": record.mode,
            "seed": record.seed,
            "created_at": record.created_at,
        },
        "rows": {
            "released": record.rows,
            "pooled": facts["pooled_rows"],
            "from_counts": facts["rows_from_counts"],
            "origin": _origin(facts),
            "distinct": facts["distinct_pooled_rows"],
            "devices": len(seen.heard),
            "constraints": constraints,
            **_series(seen.bundle),
        },
        "privacy": facts["privacy"],
        "rounds": record.facts["rounds"],
        "columns": column_figures(
            seen.bundle.codec, seen.pool.codes, codes, seen.anchor, seen.census
        ),
        "tables": table_figures(seen.bundle.codec, seen.pool.codes, codes, seen.anchor),
        "cells": cell_figures(seen.bundle.codec, cells, cell, chosen),
        "guard": {
            "bundle": seen.bundle.digest,
            "round": seen.bundle.lineage.round,
            "metrics": _flat(seen.bundle.metrics),
            "alarms": record.facts["alarms"],
            "rejected": record.facts["rejected"],
            "withdrawn": record.facts["withdrawn"],
            "quarantined": record.facts["quarantined"],
            "reasons": record.facts["reasons"],
        },
        "lineage": {name: lineage[name] for name in ("groups", "devices")},
        "made_with": record.facts["made_with"],
    }
    figures["findings"] = findings(figures)

    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_table(table, partial / "data.parquet")
    # Of series the schema of the laid out windows: that of data.parquet.
    (workspace.schema if table.schema.sequence is None else table.schema).save(
        partial / "schema.json"
    )
    seen.bundle.save(partial / "generator.bundle")
    pages = {
        "MODEL_CARD.md": _model_card(seen.bundle, record, facts),
        "PRIVACY.md": _privacy_page(record, facts),
        "report.html": render_release(figures),
    }
    for name, text in pages.items():
        (partial / name).write_text(text, encoding="utf-8")
    documents = {
        FACTS: facts,
        "lineage.json": {"format": "edge-runtime-lineage", "version": 1, "rows": lineage["rows"]},
        "report.json": {"format": "edge-runtime-release-report", "version": 1, **figures},
    }
    for name, document in documents.items():
        (partial / name).write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
    sums = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(partial.iterdir())]
    (partial / SUMS).write_text("".join(sums), encoding="ascii")
    written = sha256_of(partial / SUMS)
    if on_written is not None:
        on_written(written)
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    return Release(
        out,
        out / "data.parquet",
        record.rows,
        facts,
        identical=record.sums_sha256 in ("", written),
    )


def _release_facts(
    workspace: Workspace,
    record: ReleaseRecord,
    seen: Seen,
    *,
    chosen: npt.NDArray[np.intp],
    key: bytes,
) -> dict[str, Any]:
    return {
        "format": "edge-runtime-release",
        "version": 2,
        "id": record.id,
        "created_at": record.created_at,
        "fleet": workspace.config.fleet.name,
        "mode": record.mode,
        "schema_digest": workspace.schema.digest,
        "bundle_digest": seen.bundle.digest,
        "messages_digest": seen.digest,
        "rows": record.rows,
        **_series(seen.bundle),
        "pooled_rows": int((~seen.from_counts).sum()),
        # A release of the pool takes none of them.
        "rows_from_counts": 0 if record.mode == "pool" else int(seen.from_counts.sum()),
        "distinct_pooled_rows": len(np.unique(chosen)),
        "estimated_real_rows": round(seen.estimated_rows),
        "devices": len(seen.heard),
        "rounds": sorted({int(r) for r in np.unique(seen.pool.round[~seen.from_counts])}),
        "sampling_key": key.hex(),
        "seed": record.seed,
        "privacy": record.facts["privacy"],
        "metrics": dict(seen.bundle.metrics),
        "made_with": record.facts["made_with"],
    }


def _series(bundle: Bundle) -> dict[str, Any]:
    """Say what a "row" is where rows are windows of ordered rows; nothing where they are not."""
    sequence = bundle.schema.sequence
    return {} if sequence is None else {"unit": bundle.schema.privacy_unit, "steps": sequence.steps}


def _origin(facts: Mapping[str, Any]) -> str:
    """Say what a release was drawn from: what devices have sent, their counts, or both."""
    devices, sent, counted = (
        f"{facts[name]:,}" for name in ("devices", "pooled_rows", "rows_from_counts")
    )
    if not facts["pooled_rows"]:
        return f"{counted} drawn from the merged counts of {devices} devices, which sent no rows"
    also = (
        f" and {counted} drawn from the fleet's merged counts" if facts["rows_from_counts"] else ""
    )
    return f"{sent} that {devices} devices sent{also}"


def _model_card(bundle: Bundle, record: ReleaseRecord, facts: Mapping[str, Any]) -> str:
    rounds = f", in rounds {', '.join(map(str, facts['rounds']))}" if facts["rounds"] else ""
    makers = []
    if facts["pooled_rows"]:
        makers.append("the devices' own networks")
    if facts["rows_from_counts"]:
        makers.append("noisy counts alone")
    return (
        bundle.card
        + "\n## This release\n\n"
        + f"{record.rows:,} rows, drawn from {_origin(facts)}{rounds} (mode: {record.mode}, seed: "
        f"{record.seed}, id: {record.id}). The rows of data.parquet are from "
        f"{' and '.join(makers)}; generator.bundle is the network that the fleet made of them and "
        f"draws further rows.{_laid_out(facts)}{_kept(facts)} report.html holds the rows against "
        "the fleet's counts, PRIVACY.md says what is protected, lineage.json where every row is "
        "from.\n"
    )


def _laid_out(facts: Mapping[str, Any]) -> str:
    """Say how windows lie in the file, where rows are windows."""
    if "steps" not in facts:
        return ""
    return (
        f" A row is a {facts['unit']}, which data.parquet has below each other: column window says "
        "which, step which row of it; a row that is absent has missing values. Windows are whole, "
        "and none goes on in another; generator.bundle draws series of any length."
    )


def _kept(facts: Mapping[str, Any]) -> str:
    """Say what the constraints of the schema have cost, where it has some."""
    found = facts.get("constraints")
    if found is None:
        return ""
    return (
        f" Every row keeps the constraints of the schema: {found['pooled_rows_left_out']:,} rows "
        f"of the pool and {found['rows_from_counts_left_out']:,} drawn from counts were "
        f"left out, {found['rows_rejected']:,} of {found['rows_drawn']:,} rows drawn rejected."
    )


def _privacy_page(record: ReleaseRecord, facts: Mapping[str, Any]) -> str:
    held, below = "rows", ""
    if "steps" in facts:
        held = f"windows of {facts['steps']} rows each"
        below = f" A row below is a {facts['unit']}."
    return privacy_page(
        title=f"release {record.id} of fleet {facts['fleet']}",
        privacy=facts["privacy"],
        rounds=record.facts["rounds"],
        release=(
            f"Made on {record.created_at}, drawn from synthetic rows: {_origin(facts)}. "
            f"{record.rows:,} {held} in data.parquet, and a generator that draws more. Every row "
            "was drawn from a model or from noisy counts of real rows; no real row was sent by any "
            f"device.{below}"
        ),
        windows="steps" in facts,
    )


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            flat[prefix + name] = float(value)
    return flat


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
