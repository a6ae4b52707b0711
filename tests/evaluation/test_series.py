"""Series are compared by how they move: same motion scores as real, another does not."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from edge_runtime.errors import DataError, EvaluationError
from edge_runtime.evaluation import Report, evaluate
from edge_runtime.schema import Column, Schema, Sequence

from .test_report import read_page

SCHEMA = Schema(
    name="buoys",
    columns=(
        Column(name="sea", kind="category", values=("north", "south"), condition=True),
        Column(name="buoy", kind="integer", low=0, high=999),
        Column(name="at", kind="number", low=0, high=1e6, unit="s"),
        Column(name="swell", kind="number", low=-9, high=9),
        Column(name="tide", kind="number", low=-9, high=9),
        Column(name="depth", kind="number", low=0, high=9),
        Column(name="dull", kind="number", low=0, high=9),
    ),
    sequence=Sequence(lags=3, entity="buoy", order="at", every=0.5, static=("sea", "depth")),
)
#: rows of a swing of the tide
PERIOD = 8


def buoys(seed: int, *, count: int = 12, rows: int = 200, kept: float = 1.0) -> pd.DataFrame:
    """A swell that hangs on its last value by .9, a tide that swings, a depth, and a constant."""
    rng = np.random.default_rng(seed)
    frames = []
    for buoy in range(count):
        swell = np.zeros(rows)
        for at in range(1, rows):
            swell[at] = 0.9 * swell[at - 1] + rng.normal(0, 0.4)
        frame = pd.DataFrame(
            {
                "sea": ("north", "south")[buoy % 2],
                "buoy": buoy,
                "at": 0.5 * np.arange(rows),
                "swell": swell.clip(-9, 9),
                "tide": np.sin(2 * np.pi * (np.arange(rows) / PERIOD + rng.random())),
                "depth": float(buoy % 4),
                "dull": 3.0,
            }
        )
        frames.append(frame[rng.random(rows) < kept])
    return pd.concat(frames, ignore_index=True)


def series_of(report: Report) -> dict[str, dict[str, object]]:
    return {column["name"]: column for column in report.figures["series"]["columns"]}


def without_names(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows as releases and `sample_series` name them."""
    made = frame.rename(columns={"buoy": "window"})
    made["step"] = (made.pop("at") / 0.5).astype(int)
    return made


@pytest.fixture(scope="module")
def report() -> Report:
    return evaluate(buoys(1), without_names(buoys(2)), schema=SCHEMA, holdout=buoys(3))


def test_the_same_motion_differs_as_little_as_other_real_series(report: Report) -> None:
    figures = report.figures["series"]
    assert figures["rows"] == 64
    assert figures["every"] == "0.5 s"
    assert figures["pieces"] == {"real": 36, "held_out": 36, "synthetic": 36}, "200 rows: 3 of 64"
    assert figures["autocorrelation"] < 2 * figures["autocorrelation_ceiling"] < 0.1
    assert figures["spectrum"] < 2 * figures["spectrum_ceiling"] < 4
    # Neither the static column nor the constant moves; order and entity are not compared at all.
    assert list(series_of(report)) == ["swell", "tide"]
    assert [column["name"] for column in report.figures["columns"]] == [
        "sea", "swell", "tide", "depth", "dull",
    ]  # fmt: skip
    assert report.figures["rows"] == {"real": 2400, "held_out": 2400, "synthetic": 2400}


def test_curves_are_those_of_the_process(report: Report) -> None:
    swell, tide = series_of(report)["swell"], series_of(report)["tide"]
    found = np.array(swell["autocorrelation"]["real"])  # type: ignore[index]
    assert found[0] == pytest.approx(0.9, abs=0.08)
    assert found[0] > found[4] > found[12]
    found = np.array(tide["autocorrelation"]["synthetic"])  # type: ignore[index]
    np.testing.assert_allclose(found, np.cos(2 * np.pi * np.arange(1, 33) / PERIOD), atol=0.05)
    power = np.array(tide["spectrum"]["real"])  # type: ignore[index]
    assert len(power) == 32
    # Frequency k of a piece of 64 rows has k swings in it.
    assert int(np.argmax(power)) + 1 == 64 // PERIOD


@pytest.mark.parametrize("what", ["shuffled", "faster"])
def test_another_motion_is_found_out(what: str) -> None:
    real, made = buoys(1), buoys(2)
    if what == "shuffled":
        made["swell"] = np.random.default_rng(0).permutation(made["swell"])
    else:
        made["tide"] = np.sin(2 * np.pi * made["at"] / 0.5 / (PERIOD / 2))
    name = "swell" if what == "shuffled" else "tide"
    report = evaluate(real, made, schema=SCHEMA, holdout=buoys(3))
    for figure, least in (("autocorrelation", 0.2), ("spectrum", 4.0)):
        column = series_of(report)[name][figure]
        assert column["difference"] > least  # type: ignore[index]
        assert column["difference"] > 4 * column["ceiling"]  # type: ignore[index]
        assert report.figures["series"][figure] > 2 * report.figures["series"][f"{figure}_ceiling"]
    page, _ = read_page(report.to_html())
    assert "Autocorrelations of synthetic series differ from real ones by" in page


def test_gaps_and_order_of_rows_change_little() -> None:
    whole = evaluate(buoys(1), buoys(2), schema=SCHEMA, holdout=buoys(3)).figures["series"]
    gappy = buoys(2, kept=0.8).sample(frac=1.0, random_state=0)
    found = evaluate(buoys(1), gappy, schema=SCHEMA, holdout=buoys(3)).figures["series"]
    assert found["pieces"]["synthetic"] == 36
    assert abs(found["autocorrelation"] - whole["autocorrelation"]) < 0.03


def test_without_held_out_rows_the_last_fifth_of_each_series_is() -> None:
    report = evaluate(buoys(1), buoys(2), schema=SCHEMA)
    assert report.figures["rows"]["held_out"] == 12 * 40
    assert report.figures["rows"]["real"] == 12 * 160
    page, _ = read_page(report.to_html())
    assert "the last fifth of each series was set aside" in page
    assert "in pieces of 64 steps of 0.5 s" in page


def test_windows_of_a_release_are_compared_in_pieces_of_their_length() -> None:
    windows = buoys(2)
    windows["window"] = np.arange(len(windows)) // 4
    windows["step"] = np.arange(len(windows)) % 4
    report = evaluate(buoys(1), windows.drop(columns=["buoy", "at"]), schema=SCHEMA)
    figures = report.figures["series"]
    assert (figures["rows"], figures["pieces"]["synthetic"]) == (4, 600)
    assert figures["autocorrelation"] < 0.1


def test_an_open_file_is_read_from_its_start() -> None:
    text = io.StringIO(buoys(2).to_csv(index=False))
    report = evaluate(buoys(1), text, schema=SCHEMA, holdout=buoys(3))
    assert report.figures["rows"]["synthetic"] == 2400


def test_series_too_short_for_a_piece_have_no_figures() -> None:
    windows = buoys(2)
    windows["buoy"], windows["at"] = np.arange(len(windows)) // 3 % 1000, 0.5 * (windows.index % 3)
    report = evaluate(buoys(1), windows, schema=SCHEMA)
    assert "series" not in report.figures
    assert "<h2>Series</h2>" not in report.to_html()


def test_what_orders_the_rows_must_be_there() -> None:
    with pytest.raises(EvaluationError, match="column 'at' of schema 'buoys' is not in the table"):
        evaluate(buoys(1), buoys(2).drop(columns="at"), schema=SCHEMA)
    real = without_names(buoys(1))
    with pytest.raises((EvaluationError, DataError), match="'buoy'"):
        evaluate(real, buoys(2), schema=SCHEMA)


def test_without_grid_entity_or_order_rows_follow_as_they_stand() -> None:
    loose = Schema(name="loose", columns=SCHEMA.columns[3:5], sequence=Sequence(lags=3))
    one = buoys(1, count=1, rows=1500)[["swell", "tide"]]
    two = buoys(2, count=1, rows=1500)[["swell", "tide"]]
    report = evaluate(one, two, schema=loose)
    assert report.figures["series"]["pieces"]["synthetic"] == 23
    assert series_of(report)["tide"]["autocorrelation"]["difference"] < 0.05  # type: ignore[index]
    ordered = Schema(
        name="ordered",
        columns=SCHEMA.columns[1:],
        sequence=Sequence(lags=3, entity="buoy", order="at"),
    )
    report = evaluate(buoys(1), buoys(2).sample(frac=1.0, random_state=1), schema=ordered)
    assert series_of(report)["tide"]["autocorrelation"]["difference"] < 0.05  # type: ignore[index]
