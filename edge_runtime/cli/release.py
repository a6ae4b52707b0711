"""`edge-runtime release`: a dataset from what a fleet has sent."""

# ruff: noqa: PLC0415 - a verb imports what it needs only, so that --help stays fast

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_runtime.cli.aggregator import data_dir_of
from edge_runtime.cli.console import facts, notes, print_json, privacy_text, say, table, working
from edge_runtime.cli.options import existing, json_option, seed_option

if TYPE_CHECKING:
    from edge_runtime.aggregator.release import Mode

__all__ = ["release"]


@click.command(
    short_help="Write a dataset from what a fleet has sent.",
    epilog="\b\nExample:\n"
    "  edge-runtime release aggregator.toml --out release --rows 100000\n"
    "  edge-runtime release aggregator.toml --out even --mode balanced\n"
    "  edge-runtime release aggregator.toml --again 3f2a --out copy\n"
    "  edge-runtime release copy --verify",
)
@click.argument("where", type=existing(either=True))
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False),
    help="The directory to write; an earlier release there is replaced.",
)  # fmt: skip
@click.option(
    "--mode", type=click.Choice(["pool", "balanced", "matched"]),
    help="Rows as the pool has them, equally many of every combination of conditions, or weighted "
    "towards the anchor.  [default: matched, or pool where there is no anchor]",
)  # fmt: skip
@click.option(
    "--rows", metavar="N", type=click.IntRange(min=1),
    help="How many.  [default: as many as the fleet is estimated to hold]",
)  # fmt: skip
@click.option("--again", metavar="ID", help="Write an earlier release again, byte for byte.")
@click.option("--list", "listing", is_flag=True, help="List the releases made so far.")
@click.option(
    "--verify",
    is_flag=True,
    help="Check the files of a release, whose directory is WHERE, instead.",
)
@seed_option
@json_option
def release(
    *,
    where: Path,
    out: Path | None,
    mode: Mode | None,
    rows: int | None,
    again: str | None,
    listing: bool,
    verify: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Write a dataset with report, model card, lineage, privacy statement and checksums.

    WHERE is aggregator.toml or its data directory. The rows are drawn from the pool of accepted
    synthetic rows; the same pool, mode, rows and seed give the same files, and --again gives them
    when the pool has grown.
    """
    from edge_runtime.aggregator import make_release, repeat_release

    alone = [name for name, given in (("--verify", verify), ("--list", listing)) if given]
    if alone and (len(alone) > 1 or (out, mode, rows, again) != (None, None, None, None)):
        raise click.UsageError(f"{alone[0]} stands alone: without --out, --mode, --rows or --again")
    if verify:
        _verify(where, as_json=as_json)
        return
    if listing:
        _list(where, as_json=as_json)
        return
    if out is None:
        raise click.UsageError("--out is needed: the directory to write")
    if again is not None and (mode, rows, seed) != (None, None, 0):
        raise click.UsageError("--again repeats a release as it was: no --mode, --rows or --seed")
    with working("drawing ...", quiet=as_json):
        made = (
            make_release(data_dir_of(where), out, rows, mode=mode, seed=seed)
            if again is None
            else repeat_release(data_dir_of(where), again, out)
        )
    if not made.identical:
        notes(
            [
                "the files differ from those first written: another version of the software "
                "has written them; release.json names the versions of the first time"
            ]
        )
    if as_json:
        print_json(
            {
                "release": str(made.path),
                "data": str(made.data),
                "identical": made.identical,
                **made.facts,
            }
        )
        return
    kept = made.facts.get("constraints")
    facts(
        {
            "release": f"{made.facts['id']} in {made.path}",
            "rows": f"{made.rows:,} synthetic {'windows' if 'steps' in made.facts else 'rows'} in "
            f"{made.data.name}, drawn from "
            f"{made.facts['pooled_rows']:,} pooled ones of {made.facts['devices']} devices "
            f"({made.facts['mode']})",
            **(
                {}
                if kept is None
                else {
                    "constraints": f"kept by every row: {kept['pooled_rows_left_out']:,} pooled "
                    f"rows left out, {kept['rows_rejected']:,} of {kept['rows_drawn']:,} drawn "
                    "rejected"
                }
            ),
            "privacy": privacy_text(made.facts["privacy"]),
            "report": str(made.path / "report.html"),
        }
    )


def _verify(where: Path, *, as_json: bool) -> None:
    from edge_runtime.aggregator import verify_release

    files = verify_release(where)
    if as_json:
        print_json({"release": str(where), "files": files, "intact": True})
    else:
        facts({"intact": f"{where}: {files} files match their checksums"})


def _list(where: Path, *, as_json: bool) -> None:
    from edge_runtime.aggregator import list_releases

    made = list_releases(data_dir_of(where))
    if as_json:
        print_json([{k: v for k, v in r._asdict().items() if k != "facts"} for r in made])
        return
    if not made:
        say("no release was made yet; one is made with --out, or when the last round is done")
        return
    table(
        ("release", "made", "mode", "#rows", "#seed", "bundle", "privacy"),
        [
            (
                r.id,
                r.created_at,
                r.mode,
                f"{r.rows:,}",
                str(r.seed),
                r.bundle_digest[:12],
                privacy_text(r.facts["privacy"]),
            )
            for r in made
        ],
    )
