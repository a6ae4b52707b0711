"""A device process for the crash test: spends once, trains with checkpoints, can be killed.

Arguments: directory. Prints "resumed N" or "fresh", then each step, then "done".
"""

from __future__ import annotations

import sqlite3
import sys
import time
from pathlib import Path

import numpy as np

from edge_runtime.generator.layout import Layout
from edge_runtime.generator.weights import initial_weights
from edge_runtime.kernel import PrivacyNoise
from edge_runtime.privacy import Ledger
from edge_runtime.training import (
    Checkpoint,
    TrainSettings,
    make_step,
    release_cost,
    train_private,
)

SETTINGS = TrainSettings(
    steps=60, expected_batch=40, clip_norm=1.0, learning_rate=1e-2, noise_multiplier=1.0
)


def main() -> None:
    directory = Path(sys.argv[1])
    layout = Layout((3, 4, 5), 16)
    codes = np.random.default_rng(0).integers(0, 3, (500, 3)).astype(np.int32)
    connection = sqlite3.connect(directory / "device.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    cost = release_cost(SETTINGS, 500.0, layout.parameters)
    assert cost is not None
    # The limit has room for this run once, not twice.
    ledger = Ledger(connection, epsilon_limit=5.5, delta=1e-5)
    entry = ledger.spend(key="plan/training", what="training", rdp=cost, details={})
    file = directory / "checkpoint"

    def store(checkpoint: Checkpoint) -> None:
        part = file.with_suffix(".part")
        part.write_bytes(checkpoint.to_bytes())
        part.replace(file)

    def progress(step: int, steps: int) -> None:
        print(f"step {step} of {steps}", flush=True)
        time.sleep(0.003)  # leaves the test time to kill in the middle

    checkpoint = Checkpoint.from_bytes(file.read_bytes()) if file.exists() else None
    print(f"resumed {checkpoint.step}" if checkpoint else "fresh", flush=True)
    train_private(
        initial_weights(layout, seed=0),
        codes,
        layout=layout,
        settings=SETTINGS,
        rows_public=500.0,
        entry=entry,
        noise=PrivacyNoise(),
        step=make_step(layout),
        checkpoint=checkpoint,
        on_checkpoint=store,
        every=10,
        on_progress=progress,
    )
    print("done", flush=True)


main()
