"""The ledger under kill -9, with real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.privacy import rdp_gaussian, to_epsilon

SPENDER = Path(__file__).with_name("spender.py")
COST = rdp_gaussian(20.0)


def start(path: Path, *, limit: float = 1e6, prefix: str = "k", mode: str = "loop"):
    return subprocess.Popen(
        [sys.executable, str(SPENDER), str(path), str(limit), prefix, mode],
        stdout=subprocess.PIPE,
        text=True,
    )


def run_to_death(path: Path, mode: str) -> list[str]:
    process = start(path, mode=mode)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    return output.split()


@pytest.mark.parametrize("after", [1, 2, 7, 30])
def test_every_returned_spend_is_there_after_kill(ledger_path, open_ledger, after):
    process = start(ledger_path)
    assert process.stdout is not None
    seen = [process.stdout.readline().strip() for _ in range(after)]
    process.kill()
    seen += process.stdout.read().split()
    process.wait(timeout=60)
    process.stdout.close()
    ledger, _ = open_ledger()
    keys = [entry.key for entry in ledger.entries()]
    # One more may have been committed without having been reported: never one less.
    assert keys[: len(seen)] == seen
    assert len(keys) <= len(seen) + 1
    assert np.allclose(ledger.rdp_spent(), len(keys) * COST)


def test_crash_between_spend_and_use_keeps_what_was_spent(ledger_path, open_ledger):
    assert run_to_death(ledger_path, "die after spend") == ["k-0"]
    ledger, _ = open_ledger()
    spent = ledger.epsilon_spent()
    assert spent == to_epsilon(COST, 1e-5)
    # The release is made now, under the entry that was paid for.
    entry = ledger.spend(key="k-0", what="test", rdp=COST, details={})
    assert entry.details == {"sigma": 20}
    assert not entry.released
    assert ledger.epsilon_spent() == spent


@pytest.mark.parametrize("mode", ["die before commit", "die at insert"])
def test_crash_inside_spend_records_nothing_or_all(ledger_path, open_ledger, mode):
    """The spend never returned, so no noise was drawn for it: not counting it is right."""
    assert run_to_death(ledger_path, mode) == []
    ledger, _ = open_ledger()
    assert ledger.entries() == []
    ledger.spend(key="k-0", what="test", rdp=COST, details={})


@pytest.mark.parametrize(
    ("mode", "there"), [("die while releasing", False), ("die after releasing", True)]
)
def test_released_mark_and_outbox_stand_or_fall_together(ledger_path, open_ledger, mode, there):
    assert run_to_death(ledger_path, mode) == ["k-0"]
    ledger, connection = open_ledger()
    assert ledger.find("k-0").released is there
    assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (int(there),)
    assert ledger.epsilon_spent() == to_epsilon(COST, 1e-5)


def test_repeated_crashes_never_lower_what_was_spent(ledger_path, open_ledger):
    spent = 0.0
    for round_number in range(4):
        process = start(ledger_path, prefix=f"r{round_number}")
        assert process.stdout is not None
        for _ in range(round_number + 1):
            process.stdout.readline()
        process.kill()
        process.wait(timeout=60)
        process.stdout.close()
        ledger, connection = open_ledger(epsilon_limit=1e6)
        assert ledger.epsilon_spent() > spent
        spent = ledger.epsilon_spent()
        connection.close()


def test_processes_racing_for_one_budget_cannot_overspend(ledger_path, open_ledger):
    limit = to_epsilon(12.0 * COST, 1e-5) * (1 + 1e-9)
    processes = [start(ledger_path, limit=limit, prefix=f"p{i}") for i in range(3)]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert all(output[-1] == "full" for output in outputs)
    ledger, _ = open_ledger(epsilon_limit=limit)
    assert len(ledger.entries()) == 12
    assert ledger.epsilon_spent() <= limit
