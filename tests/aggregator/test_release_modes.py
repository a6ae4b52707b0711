"""Which rows a release takes, what its report and lineage say, and that it can be made again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from edge_runtime.aggregator import Release, list_releases, make_release, repeat_release
from edge_runtime.aggregator.guard.review import set_aside
from edge_runtime.errors import AggregatorError
from edge_runtime.messages import Alarm, Alarms
from edge_runtime.reception import Incoming
from edge_runtime.schema import Schema

from . import conftest
from .conftest import Kit, make_kit, make_schema


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def column(release: Release, name: str) -> list[Any]:
    return pq.read_table(release.data, columns=[name]).column(name).to_pylist()


def report(release: Release) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((release.path / "report.json").read_text())
    return found


def same_files(one: Path, two: Path) -> None:
    names = sorted(p.name for p in one.iterdir())
    assert names == sorted(p.name for p in two.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def grow(kit: Kit) -> None:
    """Accept a late batch of round 1 and a whole round 2 from another generator."""
    bundle = kit.workspace.bundle()
    assert bundle is not None
    late = kit.planner.current_plan
    assert late is not None
    device = kit.devices["a"]
    kit.inbox.accept([Incoming("a", "batch", device.batches(late, bundle, 80, parts=1, seed=7)[0])])
    lineage = msgspec.structs.replace(bundle.lineage, parent=bundle.digest, depth=1, round=1)
    newer = bundle.with_weights(bundle.weights, lineage=lineage, metrics={"validation_nll": 1.5})
    kit.workspace.add_bundle(newer, status="published", reason="")
    kit.planner.close(1, now_unix_s=1002.0, reason="")
    plan = kit.open(2, newer)
    for number, device in enumerate(kit.devices.values()):
        device.epsilon = 0.2
        messages = [
            Incoming(device.name, "batch", data)
            for data in device.batches(plan, newer, 300, seed=20 + number)
        ]
        messages.append(Incoming(device.name, "summary", device.anchor(plan, newer)))
        # The same rows as in round 1 from another plan: quarantined or refused, whatever it is.
        messages.append(Incoming(device.name, "batch", b"not a message"))
        answers = Counter(ack.status for ack in kit.inbox.accept(messages))
        assert answers["accepted"] == 3


def test_balanced_has_equally_many_rows_of_every_condition(kit: Kit, tmp_path: Path) -> None:
    kit.filled()
    made = make_release(kit.config.data_dir, tmp_path / "r", 1001, mode="balanced")
    late = Counter(column(made, "late"))
    assert sorted(late.values()) == [500, 501]
    pool = make_release(kit.config.data_dir, tmp_path / "p", 1000, mode="pool")
    shares = Counter(column(pool, "late"))
    assert shares[True] < 450  # which the pool has not
    cells = {c["conditions"]["late"]: c for c in report(made)["cells"]}
    assert {name: c["released"] for name, c in cells.items()} == {
        "true": late[True], "false": late[False],
    }  # fmt: skip
    pooled = kit.workspace.pool_rows().codes[:, 0]
    assert cells["true"]["pooled"] == int((pooled == 1).sum())
    assert 0 < cells["true"]["distinct"] <= cells["true"]["released"]


def test_matched_is_nearer_to_the_anchor_than_the_pool(tmp_path: Path) -> None:
    # Device a has three quarters of the rows and sends rows whose delays do not follow late.
    kit = make_kit(folder(tmp_path, "fleet"))
    bundle = kit.census_round()
    plan = kit.open(1, bundle)
    for number, device in enumerate(kit.devices.values()):
        fresh = conftest.make_table(device.schema, 1500, seed=50 + number, origin=number)
        codes = bundle.codec.encode(fresh).codes
        codes[:, 3] = np.random.default_rng(number).permutation(codes[:, 3])
        kit.inbox.accept(
            [
                Incoming(device.name, "batch", device.batch(plan, bundle, codes)),
                Incoming(device.name, "summary", device.anchor(plan, bundle)),
            ]
        )
    matched = make_release(kit.config.data_dir, tmp_path / "m", 3000)
    pool = make_release(kit.config.data_dir, tmp_path / "p", 3000, mode="pool")
    assert (matched.facts["mode"], pool.facts["mode"]) == ("matched", "pool")

    def distance(release: Release) -> float:
        (found,) = [t for t in report(release)["tables"] if t["columns"] == ["late", "delay"]]
        return float(found["distance"])

    assert distance(pool) > 0.1
    assert distance(matched) < 0.6 * distance(pool)
    said = (matched.path / "report.html").read_text()
    assert "brought the tables" in said


def test_lineage_names_every_row(kit: Kit, tmp_path: Path) -> None:
    _, first = kit.filled()
    grow(kit)
    made = make_release(kit.config.data_dir, tmp_path / "r", 2000)
    rows = json.loads((made.path / "lineage.json").read_text())["rows"]
    second = kit.workspace.bundle()
    assert second is not None
    keys = [(r["device"], r["round"], r["parent"], r["depth"]) for r in rows]
    assert keys == [
        (device, number, parent.digest, depth)
        for device in "ab"
        for number, parent, depth in ((1, first, 1), (2, second, 2))
    ]
    assert sum(r["released"] for r in rows) == 2000
    assert {k: r["pooled"] for k, r in zip(keys, rows, strict=True)} == {
        keys[0]: 1580, keys[1]: 300, keys[2]: 1500, keys[3]: 300,
    }  # fmt: skip
    # Device a has three quarters of the real rows, so of these too.
    assert abs(sum(r["released"] for r in rows[:2]) / 2000 - 0.75) < 0.01
    shown = report(made)["lineage"]
    assert [g["depth"] for g in shown["groups"]] == [1, 2]
    assert sum(d["released"] for d in shown["devices"]) == 2000


@pytest.mark.parametrize("mode", ["pool", "balanced", "matched"])
def test_a_release_is_made_again_byte_for_byte_when_the_pool_has_grown(
    mode: Any, kit: Kit, tmp_path: Path
) -> None:
    kit.filled()
    data = kit.config.data_dir
    first = make_release(data, tmp_path / "first", 700, mode=mode, seed=3)
    grow(kit)
    kit.workspace.catalogue.mark_round(1, "closed", reason="told otherwise")
    kit.workspace.note_drift(2)
    raised = Alarm(
        kind="pairs", severity="warning", subject="late, hour", since_round=2, text="It is <gone>"
    )
    kit.workspace.keep_alarms(Alarms(fleet="testing", round=2, alarms=(raised,)))
    again = repeat_release(data, first.facts["id"], tmp_path / "again")
    assert again.identical
    same_files(first.path, again.path)
    newer = make_release(data, tmp_path / "newer", 700, mode=mode, seed=3)
    assert newer.facts["id"] != first.facts["id"]
    assert newer.facts["privacy"]["epsilon"] == 0.2
    assert newer.data.read_bytes() != first.data.read_bytes()
    assert [a["text"] for a in report(newer)["guard"]["alarms"]] == ["It is <gone>"]
    assert (
        "The guard has raised an alarm: It is &lt;gone&gt;"
        in (newer.path / "report.html").read_text()
    )
    # A process that knows nothing of this one, and a beginning of the id.
    done = subprocess.run(
        [
            sys.executable, "-c", "from edge_runtime.cli import main; main()", "release", str(data),
            "--again", first.facts["id"][:8], "--out", str(tmp_path / "third"), "--json",
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["identical"] is True
    same_files(first.path, tmp_path / "third")
    listed = list_releases(data)
    assert [(r.mode, r.rows, r.seed) for r in listed] == [(mode, 700, 3)] * 2
    assert [r.id for r in listed] == [first.facts["id"], newer.facts["id"]]


def test_what_is_quarantined_later_stays_in_an_earlier_release(kit: Kit, tmp_path: Path) -> None:
    kit.filled()
    data = kit.config.data_dir
    first = make_release(data, tmp_path / "first", 500)
    sent = [m for m in kit.workspace.catalogue.accepted() if m.device == "b" and m.round == 1]
    assert set_aside(kit.workspace, {m.id: "out of line" for m in sent}) == len(sent) == 3
    same_files(first.path, repeat_release(data, first.facts["id"], tmp_path / "again").path)
    assert set(column(make_release(data, tmp_path / "new", 500), "origin")) == {"EWR"}


def test_what_the_guard_finds_later_does_not_change_an_earlier_release(
    kit: Kit, tmp_path: Path
) -> None:
    for device in kit.devices.values():
        device.sigma = 40.0  # two rounds of noisy counts, of which a drift forgets the first
    kit.filled()
    grow(kit)
    data = kit.config.data_dir
    first = make_release(data, tmp_path / "first", 500)
    kit.workspace.note_drift(2)
    same_files(first.path, repeat_release(data, first.facts["id"], tmp_path / "again").path)
    newer = make_release(data, tmp_path / "newer", 500)
    assert newer.facts["id"] != first.facts["id"]
    errors = [report(release)["columns"][0]["errors"][0] for release in (first, newer)]
    assert errors[1] > 1.2 * errors[0]


def test_other_bytes_than_the_first_time_are_said(kit: Kit, tmp_path: Path) -> None:
    kit.filled(rows=100)
    data = kit.config.data_dir
    first = make_release(data, tmp_path / "first")
    with kit.workspace.catalogue.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE releases SET sums_sha256 = 'another'")
    assert repeat_release(data, first.facts["id"], tmp_path / "again").identical is False


def test_what_cannot_be_released_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = make_kit(folder(tmp_path, "one"))
    bundle = kit.census_round()
    plan = kit.open(1, bundle)
    for device in kit.devices.values():
        for data in device.batches(plan, bundle, 200):
            kit.inbox.accept([Incoming(device.name, "batch", data)])
    data_dir = kit.config.data_dir
    with pytest.raises(AggregatorError, match="no anchor to match"):
        make_release(data_dir, tmp_path / "r", mode="matched")
    with pytest.raises(AggregatorError, match="one of pool, balanced, matched"):
        make_release(data_dir, tmp_path / "r", mode="best")  # type: ignore[arg-type]
    with pytest.raises(AggregatorError, match="no release of this fleet: none was made"):
        repeat_release(data_dir, "abc", tmp_path / "r")
    made = make_release(data_dir, tmp_path / "r")
    assert made.facts["mode"] == "pool"
    page = (made.path / "report.html").read_text()
    assert "has counted no columns together" in page
    assert all(c["distance"] is not None for c in report(made)["columns"])  # by the census
    other = make_release(data_dir, tmp_path / "s", seed=1)
    with pytest.raises(AggregatorError, match="is no release of this fleet"):
        repeat_release(data_dir, "", tmp_path / "t")
    with kit.workspace.catalogue.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM messages WHERE device = 'b' AND kind = 'batch'")
    with pytest.raises(AggregatorError, match=r"the catalogue has \d+ of them"):
        repeat_release(data_dir, other.facts["id"], tmp_path / "t")

    plain = msgspec.structs.replace
    columns = tuple(plain(c, condition=False) for c in make_schema().columns)
    unconditional = Schema(name="trips", columns=columns)
    monkeypatch.setattr(conftest, "make_schema", lambda: unconditional)
    kit = conftest.make_kit(folder(tmp_path, "two"))
    kit.filled(rows=100)
    with pytest.raises(AggregatorError, match="no condition columns"):
        make_release(kit.config.data_dir, tmp_path / "u", mode="balanced")
    assert make_release(kit.config.data_dir, tmp_path / "u").facts["mode"] == "matched"


class Page(HTMLParser):
    """Fails on tags that do not match; collects words and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_is_one_page_that_tells_noise_from_distance(kit: Kit, tmp_path: Path) -> None:
    for device in kit.devices.values():
        device.sigma = 40.0
    kit.filled()
    grow(kit)
    made = make_release(kit.config.data_dir, tmp_path / "r")
    page = Page()
    page.feed((made.path / "report.html").read_text())
    page.close()
    assert page.open == []
    assert page.addresses == []  # nothing is loaded
    text = " ".join(" ".join(page.words).split())
    for words in (
        f"Release {made.facts['id']} of fleet testing",
        "What it means",
        "Columns together",
        "late, delay",
        "Lineage",
        "bundle " + made.facts["bundle_digest"][:12],
        "DP-SGD",
        "Epsilon spent, worst device",
        "Messages quarantined or refused",
    ):
        assert words in text, words
    figures = report(made)
    # Noise of 40 counts in some 100 cells hides what little differs.
    entries = [*figures["columns"], *figures["tables"]]
    ratios = [entry["distance"] / entry["expected"] for entry in entries]
    assert 0.3 < np.mean(ratios) < 1.3
    assert max(ratios) < 3.0
    bundle = kit.workspace.bundle()
    assert bundle is not None
    anchor = kit.workspace.anchor(bundle)
    assert anchor is not None
    origin = anchor.one_way(2)
    assert origin is not None
    assert (
        figures["columns"][2]["errors"]
        == [pytest.approx(2 * origin.variance**0.5 / origin.rows)] * 4
    )
    assert 0.01 < figures["columns"][2]["errors"][0] < 0.04
    assert figures["guard"]["metrics"]["validation_nll"] == 1.5
    assert figures["guard"]["quarantined"] == 1  # the same bytes of two devices are kept once
    assert all(kind in ("", "note", "warn") for kind, _ in figures["findings"])


def test_names_from_a_schema_cannot_break_a_page(tmp_path: Path, monkeypatch: Any) -> None:
    nasty = "<script>alert(1)</script>|x"
    columns = list(make_schema().columns)
    columns[2] = msgspec.structs.replace(columns[2], name="origin", unit=nasty)
    monkeypatch.setattr(conftest, "make_schema", lambda: Schema(name=nasty, columns=tuple(columns)))
    kit = conftest.make_kit(folder(tmp_path, "fleet"))
    kit.filled(rows=100)
    made = make_release(kit.config.data_dir, tmp_path / "r")
    assert "<script>" not in (made.path / "report.html").read_text()
