"""One call from two tables to figures, JSON and a page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import EvaluationError
from edge_runtime.evaluation import Report, TrainingChoice, evaluate
from edge_runtime.evaluation.charts import bars, heat_map, lines, scale_points, score_colour
from edge_runtime.evaluation.words import findings, limits
from edge_runtime.schema import Column, Schema, read_table

from .conftest import SCHEMA, machine_rows, shuffled

QUICK = TrainingChoice(max_epochs=8, batch=128)
PRIVATE = {"epsilon": 7.9, "delta": 1e-5, "unit": "row", "mechanism": "noise"}
VOID = {"meta", "br", "rect", "line", "path", "circle", "i"}


class Balanced(HTMLParser):
    """Fails on tags that do not match, and collects the text and every address."""

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


def read_page(page: str) -> tuple[str, list[str]]:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return re.sub(r"\s+", " ", " ".join(parser.words)), parser.addresses


@pytest.fixture(scope="module")
def report() -> Report:
    return evaluate(
        machine_rows(3000, 1),
        machine_rows(2500, 2),
        schema=SCHEMA,
        holdout=machine_rows(1500, 3),
        target="fault",
        inputs=["site", "hour", "heat"],
        privacy=PRIVATE,
        choice=QUICK,
    )


def test_figures(report: Report) -> None:
    figures = report.figures
    assert figures["rows"] == {"real": 3000, "held_out": 1500, "synthetic": 2500}
    assert figures["fidelity"]["rows_compared"] == 1500
    assert figures["fidelity"]["shapes"] == pytest.approx(
        figures["fidelity"]["ceiling"]["shapes"], abs=0.02
    )
    assert report.private is True
    assert report.utility("release") == pytest.approx(report.utility("real"), abs=0.03)
    assert report.utility("federated") is None
    column = {c["name"]: c for c in figures["columns"]}
    assert sum(column["site"]["real"]) == pytest.approx(1)
    assert column["site"]["bars"][0] == "north"
    assert sum(column["heat"]["synthetic"]) == pytest.approx(1)
    assert column["hour"]["ticks"][0][1] == "0"
    assert column["hour"]["ticks"][-1][1] == "23"
    assert column["heat"]["missing"]["real"] == pytest.approx(0.05, abs=0.02)


def test_json_round_trip(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    text = report.to_json(path)
    assert json.loads(text)["format"] == "edge-runtime-report"
    again = Report.from_json(path)
    assert again.to_json() == text
    assert again.to_html() == report.to_html()


def test_page_is_whole_and_loads_nothing(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    page = report.to_html(path)
    assert path.read_text() == page
    words, addresses = read_page(page)
    assert addresses == []
    assert "@import" not in page
    assert "url(" not in page
    for heading in ("What it means", "Utility", "Columns", "Pairs of columns", "Privacy", "Limits"):
        assert heading in words
    assert "7.90" in words
    assert "WITHOUT PRIVACY" not in words
    assert f"{report.figures['fidelity']['shapes']:.3f}" in words


def test_without_privacy_is_said_loudly() -> None:
    table = machine_rows(400, 1)
    report = evaluate(table, table, schema=SCHEMA, privacy={"epsilon": None, "unit": "row"})
    words, _ = read_page(report.to_html())
    assert report.private is False
    assert words.count("WITHOUT PRIVACY") >= 3


def test_unknown_privacy_and_a_missing_holdout_are_said() -> None:
    table = machine_rows(400, 1)
    report = evaluate(read_table(table, SCHEMA), table)
    assert report.private is None
    assert "utility" not in report.figures
    words, _ = read_page(report.to_html())
    assert "assume there is none" in words
    assert "No held-out rows were given" in words


def test_bad_rows_are_called_bad() -> None:
    report = evaluate(
        machine_rows(2000, 1),
        shuffled(machine_rows(2000, 2)),
        schema=SCHEMA,
        target="fault",
        privacy=PRIVATE,
        choice=QUICK,
    )
    said = findings(report.figures)
    assert any(kind == "note" and "short of the target" in text for kind, text in said)
    assert any(kind == "note" and "A model for fault" in text for kind, text in said)


def test_copies_raise_the_alarm() -> None:
    table = machine_rows(2000, 1)
    report = evaluate(table, table, schema=SCHEMA, holdout=machine_rows(2000, 2), privacy=PRIVATE)
    assert any(kind == "warn" and "may repeat" in text for kind, text in findings(report.figures))


def test_rows_that_train_no_model() -> None:
    table = machine_rows(800, 1)
    useless = table.assign(fault=True)
    report = evaluate(table, useless, schema=SCHEMA, target="fault", choice=QUICK)
    assert np.isnan(report.utility("release") or 0)
    json.loads(report.to_json())
    words, _ = read_page(report.to_html())
    assert "not possible" in words
    plain = json.loads(report.to_json())
    assert any("No model for fault" in text for _, text in findings(plain))


def test_names_from_a_schema_cannot_inject_markup() -> None:
    evil = "<script>alert(1)</script>"
    schema = Schema(
        name=evil,
        columns=(
            Column(name=evil, kind="category", values=(f"{evil}a", f'"{evil}b')),
            Column(name="x", kind="number", low=0.0, high=1.0, unit=evil),
        ),
    )
    rng = np.random.default_rng(0)
    table = {evil: [f"{evil}a", f'"{evil}b'] * 50, "x": rng.random(100).tolist()}
    page = evaluate(table, table, schema=schema, title=evil).to_html()
    assert "<script" not in page
    read_page(page)


def fleet_part() -> dict[str, Any]:
    return {
        "devices": [
            {"device": "ua", "name": "United", "real_rows": 10, "rows_accepted": 5,
             "bytes_up": 4000, "epsilon": 7.9, "status": "idle"},
            {"device": "aa", "name": "American", "real_rows": 10, "rows_accepted": 0,
             "bytes_up": 0, "epsilon": None, "status": "never seen"},
        ],
        "real_rows": 20,
        "real_rows_sent": 0,
        "rows_accepted": 5,
        "rows_quarantined": 1,
        "epsilon_limit": 8.0,
        "seconds": 100.0,
        "peak_memory_bytes": 10**9,
        "rounds": [
            {"name": "census", "devices": 2, "rows": 0, "epsilon": 0.6, "seconds": 2.0},
            {"name": "round 1", "devices": 1, "rows": 5, "epsilon": 7.9, "seconds": None},
        ],
    }  # fmt: skip


def test_fleet_sections(report: Report) -> None:
    words, _ = read_page(report.with_fleet(fleet_part()).to_html())
    for text in ("Rounds", "Devices", "United", "never seen", "limit 8", "1,000 MB", "100 s"):
        assert text in words
    assert any("one machine" in text for text in limits(report.with_fleet({}).figures))


def test_the_guard_section_tells_alarms_and_scores(report: Report) -> None:
    alarm = {
        "kind": "tails", "severity": "warning", "subject": "delay <highest>", "value": 0.01,
        "expected": 0.05, "error": 0.002, "since_round": 3, "text": "The tail is vanishing.",
    }  # fmt: skip
    points = [
        {"bundle": "ab" * 32, "round": r, "nll": 9.0 + r, "error": 0.25, "devices": 9, "rows": 900}
        for r in (1, 2)
    ]
    watched = {**fleet_part(), "alarms": [alarm], "curve": points}
    words, _ = read_page(report.with_fleet(watched).to_html())
    assert "warning: tails, delay <highest>" in words
    assert "(since round 3). The tail is vanishing." in words
    assert "11.000 ± 0.250" in words
    quiet, _ = read_page(report.with_fleet({**watched, "alarms": [], "curve": []}).to_html())
    assert "No alarm is in force" in quiet
    assert "nats per row" not in quiet


def test_timestamps_are_shown_as_dates() -> None:
    schema = Schema(name="log", columns=(Column(name="at", kind="timestamp", low=0.0, high=4e15),))
    table = {"at": [f"2013-01-{day:02d}T00:00:00Z" for day in range(1, 29)] * 4}
    words, _ = read_page(evaluate(table, table, schema=schema).to_html())
    assert "2013-01-01" in words


def test_many_categories_are_folded() -> None:
    values = tuple(f"value{i}" for i in range(60))
    schema = Schema(name="many", columns=(Column(name="kind", kind="category", values=values),))
    rng = np.random.default_rng(0)
    table = {"kind": rng.choice(values, 600).tolist()}
    report = evaluate(table, table, schema=schema)
    column = report.figures["columns"][0]
    assert column["bars"][-1] == "28 more"
    assert sum(column["real"]) == pytest.approx(1)
    read_page(report.to_html())


def test_not_a_report(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("not json", "[]", '{"format": "other"}'):
        path.write_text(text)
        with pytest.raises(EvaluationError):
            Report.from_json(path)
    path.write_text('{"format": "edge-runtime-report", "version": 99}')
    with pytest.raises(EvaluationError, match="version 99"):
        Report.from_json(path)
    with pytest.raises(EvaluationError, match="cannot be read"):
        Report.from_json(tmp_path / "missing.json")


def test_tables_without_rows_are_refused() -> None:
    with pytest.raises(EvaluationError, match="both need some"):
        evaluate(machine_rows(5, 0), machine_rows(5, 0).iloc[:0], schema=SCHEMA)


def test_charts_survive_extremes() -> None:
    for drawing in (
        bars([], [], names=[], ticks=[(0, "0")], title="none"),
        bars([0.0], [0.0], names=["a"], title="zero"),
        heat_map(["a", "b"], {("a", "b"): None}, title="undefined"),
        scale_points([("a", None, "real", "")], low=0, high=1, title="none"),
        lines([], title="none", limit=1.0),
    ):
        read_page(drawing)
    assert score_colour(None) == "var(--line)"
    assert score_colour(0.0) == score_colour(0.6) == "rgb(190,18,60)"
    assert score_colour(1.0) == score_colour(2.0) == "rgb(13,116,110)"
