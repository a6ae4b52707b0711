"""Training under kill -9: it goes on from the checkpoint and is paid for once."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from edge_runtime.privacy import Ledger

TRAINER = Path(__file__).with_name("trainer.py")


def start(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(TRAINER), str(directory)], stdout=subprocess.PIPE, text=True
    )


def test_killed_training_resumes_without_a_second_spend(tmp_path):
    spent = []
    for kill_at in ("fresh", "step 14 ", "step 37 "):
        process = start(tmp_path)
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().startswith(kill_at.strip()):
                process.kill()
                break
        process.stdout.read()
        assert process.wait(timeout=60) == -signal.SIGKILL
        process.stdout.close()
        spent.append(read_ledger(tmp_path))
    output, _ = start(tmp_path).communicate(timeout=60)
    lines = output.splitlines()
    # Killed after step 37 at the earliest: the checkpoint of step 30 or a later one.
    resumed = int(lines[0].removeprefix("resumed "))
    assert resumed >= 30
    assert lines[1].startswith(f"step {resumed + 1} ")
    assert lines[-1] == "done"
    spent.append(read_ledger(tmp_path))
    assert len(set(spent)) == 1
    assert spent[0][0] == ("plan/training",)


def read_ledger(directory: Path) -> tuple[tuple[str, ...], float]:
    connection = sqlite3.connect(directory / "device.sqlite", isolation_level=None)
    ledger = Ledger(connection, epsilon_limit=None, delta=1e-5)
    keys, epsilon = tuple(e.key for e in ledger.entries()), ledger.epsilon_spent()
    connection.close()
    return keys, epsilon
