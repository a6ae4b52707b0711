"""The release: a checksummed dataset drawn from the pool, with everything needed to judge it.

Rows are drawn from the pool in proportion to their weights (the device's size, raked towards the
anchor) and decoded with a public key from the catalogue: the same pool, rows and seed give the
same bytes again.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.fusion import pool_weights
from edge_runtime.aggregator.statement import privacy_text
from edge_runtime.aggregator.workspace import Workspace, open_workspace
from edge_runtime.errors import AggregatorError
from edge_runtime.schema import write_table

__all__ = ["Release", "make_release", "verify_release", "write_release"]

_FACTS, _SUMS = "release.json", "SHA256SUMS"


class Release(NamedTuple):
    """A written release: its directory, the data file, its rows and its facts."""

    path: Path
    data: Path
    rows: int
    facts: dict[str, Any]


def make_release(
    data_dir: str | Path, out: str | Path, rows: int | None = None, *, seed: int = 0
) -> Release:
    """Write a release from an aggregator's data directory; no broker is needed.

    Parameters
    ----------
    data_dir : str or Path
        The aggregator's data directory.
    out : str or Path
        A directory to create. An earlier release there is replaced, anything else is not.
    rows : int, optional
        How many rows; by default the configured number, or as many as the fleet is estimated to
        hold, at most the pool's.
    seed : int
        Another seed draws and decodes other rows.

    Returns
    -------
    Release

    Raises
    ------
    AggregatorError
        If the pool is empty, `rows` is impossible or `out` holds something else.
    """
    workspace = open_workspace(data_dir)
    try:
        return write_release(workspace, Path(out), rows=rows, seed=seed)
    finally:
        workspace.close()


def write_release(
    workspace: Workspace, out: Path, *, rows: int | None = None, seed: int = 0
) -> Release:
    """As `make_release`, from an open workspace."""
    if out.exists() and any(out.iterdir()) and not (out / _FACTS).exists():
        raise AggregatorError(f"{out} is not empty and not an earlier release; name another")
    bundle = workspace.bundle()
    if bundle is None:
        raise AggregatorError("there is no generator yet: the census is not done")
    pool = workspace.pool_rows()
    if not len(pool.codes):
        raise AggregatorError("the pool is empty: no batch has been accepted yet")
    rows_of = workspace.rows_of_devices(bundle)
    rows = rows or workspace.config.release.rows or None
    if rows is None:
        rows = max(1, min(len(pool.codes), round(sum(rows_of.values()))))
    if rows < 1:
        raise AggregatorError(f"a release needs at least one row, not {rows}")
    raked = workspace.config.fusion.rake
    weights = pool_weights(pool, rows_of, workspace.anchor(bundle), raked=raked)
    key = hashlib.sha256(workspace.release_key + f"release {seed}".encode()).digest()
    chosen = _draw(weights, rows, np.random.default_rng(list(key)))
    table = bundle.codec.decode(np.ascontiguousarray(pool.codes[chosen]), key=key, stream=0)

    privacy = workspace.privacy()
    facts: dict[str, Any] = {
        "format": "edge-runtime-release",
        "version": 1,
        "fleet": workspace.config.fleet.name,
        "schema_digest": workspace.schema.digest,
        "bundle_digest": bundle.digest,
        "rows": rows,
        "pooled_rows": len(pool.codes),
        "distinct_pooled_rows": len(np.unique(chosen)),
        "estimated_real_rows": round(sum(rows_of.values())),
        "devices": len(pool.devices),
        "rounds": sorted({int(r) for r in np.unique(pool.round)}),
        "raked_to_anchor": raked,
        "sampling_key": key.hex(),
        "seed": seed,
        "privacy": privacy,
        "metrics": dict(bundle.metrics),
    }
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_table(table, partial / "data.parquet")
    workspace.schema.save(partial / "schema.json")
    bundle.save(partial / "generator.bundle")
    (partial / "MODEL_CARD.md").write_text(bundle.card, encoding="utf-8")
    (partial / "PRIVACY.md").write_text(_privacy_page(privacy, facts), encoding="utf-8")
    (partial / _FACTS).write_bytes(msgspec.json.format(msgspec.json.encode(facts), indent=1))
    sums = [f"{_sha256(path)}  {path.name}\n" for path in sorted(partial.iterdir())]
    (partial / _SUMS).write_text("".join(sums), encoding="ascii")
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    return Release(out, out / "data.parquet", rows, facts)


def verify_release(path: str | Path) -> int:
    """Check every file of a release against its SHA256SUMS; the number of files.

    Raises
    ------
    AggregatorError
        If a file is missing, added or changed.
    """
    path = Path(path)
    try:
        lines = (path / _SUMS).read_text(encoding="ascii").splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        found = {p.name: _sha256(p) for p in path.iterdir() if p.name != _SUMS and p.is_file()}
    except (OSError, ValueError) as error:
        raise AggregatorError(f"{path} is not a release: {error}") from error
    wrong = sorted(name for name in sums.keys() | found.keys() if sums.get(name) != found.get(name))
    if wrong:
        raise AggregatorError(f"{path}: changed since it was written: {', '.join(wrong)}")
    return len(found)


def _draw(
    weights: npt.NDArray[np.float64], rows: int, rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """Return indices of `rows` draws in proportion to `weights`, in random order.

    Systematic sampling: a row of weight w comes floor or ceil of its expected number of times,
    which repeats fewer rows than independent draws would.
    """
    edges = np.cumsum(weights) / weights.sum()
    points = (np.arange(rows) + rng.random()) / rows
    chosen = np.minimum(np.searchsorted(edges, points, side="right"), len(weights) - 1)
    return rng.permutation(chosen)


def _privacy_page(privacy: dict[str, Any], facts: dict[str, Any]) -> str:
    return (
        f"# Release of fleet {facts['fleet']}\n\n"
        f"{facts['rows']:,} synthetic rows drawn from {facts['pooled_rows']:,} that "
        f"{facts['devices']} devices made from models of their own real rows. No real row is in "
        "this release, and none was sent by any device.\n\n" + privacy_text(privacy)
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
