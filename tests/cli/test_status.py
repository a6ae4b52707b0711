"""What status and release say about a data directory, at every stage of a fleet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_runtime.aggregator.release import make_release
from tests.aggregator.conftest import Kit, make_kit

from .conftest import Run


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return make_kit(tmp_path)


def _fact(shown: str, name: str) -> str:
    (line,) = re.findall(rf"^{name} +(.*?) *$", shown, re.MULTILINE)
    return str(line)


def test_the_phase_is_told_in_words(kit: Kit, run: Run, tmp_path: Path) -> None:
    data = kit.config.data_dir
    (tmp_path / "other").mkdir()
    bundle = make_kit(tmp_path / "other").census_round()

    def phase() -> str:
        shown = run("aggregator", "status", data)
        assert shown.code == 0
        return _fact(shown.out, "phase")

    assert phase() == "waiting for devices"
    kit.open(0)
    assert phase() == "collecting the census; 2 rounds follow"
    catalogue = kit.workspace.catalogue
    catalogue.mark_round(0, "fusing")
    assert phase() == "making the first generator from the census; 2 rounds follow"
    catalogue.mark_round(0, "closed", ended_unix_s=1001.0)
    for number in (1, 2):
        kit.open(number, bundle)
        assert phase() == f"collecting, round {number} of 2"
        catalogue.mark_round(number, "closed", ended_unix_s=1001.0)
    assert phase() == "done, round 2 of 2"
    kit.workspace.close()


def test_a_device_that_is_heard_of_by_its_messages_alone(kit: Kit, run: Run) -> None:
    kit.filled(rows=100)
    kit.workspace.catalogue.save_devices(
        {
            "b": {
                "status": "idle",
                "private": False,
                "epsilon_spent": None,
                "bytes_up": 70_000,
                "reason": "as ever",
                "throttled": "slow: temperature 80 C",
            }
        }
    )
    kit.workspace.close()
    shown = run("aggregator", "status", kit.config.data_dir).out
    assert _fact(shown, "generator").endswith("from the census")
    # state, synthetic rows, kB up, epsilon
    assert re.match(r"unknown +100 +\d+ +0\.1$", _fact(shown, "a"))
    assert re.match(r"idle +100 +70 +infinite +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", _fact(shown, "b"))
    assert _fact(shown, "b").endswith("slow: temperature 80 C; as ever")
    assert re.search(r"\d+ kB$", _fact(shown, "accepted"))


def test_no_release_yet_is_said_and_a_directory_without_sums_is_none(
    kit: Kit, run: Run, tmp_path: Path
) -> None:
    kit.filled(rows=100)
    kit.workspace.close()
    data = kit.config.data_dir
    assert "no release was made yet" in run("release", data, "--list").out
    assert run("release", data, "--list", "--json").json == []
    refused = run("release", data, "--verify")
    assert refused.code == 1
    assert "is not a release: there is no SHA256SUMS" in refused.err
    make_release(data, tmp_path / "out", 50)
    assert "no release" not in run("release", data, "--list").out
    assert "intact" in run("release", tmp_path / "out", "--verify").out
