"""Edge-runtime on a task: a fleet in one process, the device's and the aggregator's own code.

Every byte a device sends is counted, every release is in its ledger: the census, the counts of
each round, private training and the rows. Nothing about labels or numbers of rows is public.

What is scored is what a data scientist gets: the rows of `edge-runtime release`, matched to the
anchor. With the strategy `average` it is rows of the generator, as the pool does not follow it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from edge_runtime.aggregator.config import (
    FusionSettings,
    GuardSettings,
    RoundSettings,
    RowSettings,
    TrainPlanSettings,
)
from edge_runtime.device.config import TrainingConfig
from edge_runtime.fleet.simulation import Simulation
from edge_runtime.generator import Bundle, open_engine, sample_table
from edge_runtime.training import mean_nll
from tools.bench.federation.classifier import score
from tools.bench.federation.records import Point, Record
from tools.bench.federation.tasks import Task

__all__ = ["Choice", "choice_for", "run", "simulate"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Settings of one run; what is not here are the project's defaults.

    Parameters
    ----------
    rounds : int
        Training rounds after the census.
    census_share : float
        Of the whole budget, for the census.
    steps, batch, clip_norm, learning_rate, averaging
        Of a device's training in a round.
    row_share : float
        Synthetic rows a device sends in a round, per noisy row.
    most_rows : int
        At most, so that 50 kB a device suffice.
    hidden : int
    release_rows : int
        Rows that the classifier is trained on.
    source : {"release", "generator"}
        What is scored.
    """

    rounds: int = 2
    census_share: float = 0.05
    steps: int
    batch: int
    clip_norm: float
    learning_rate: float
    averaging: float = 0.0
    row_share: float
    most_rows: int
    hidden: int = 128
    release_rows: int
    source: str = "release"


def choice_for(task: Task, *, epsilon: float | None) -> Choice:
    """Return the settings for a task: by how many rows its devices have, and by privacy."""
    typical = statistics.median(len(rows) for rows in task.devices)
    small = typical < 500
    if epsilon is None:
        return Choice(
            rounds=1 if small else 2,
            # Many passes: long enough to keep what tells rows apart; copies of real rows are
            # dropped before they leave the device.
            steps=round(120 * typical / 32) if small else 400,
            batch=32 if small else 256,
            clip_norm=10.0,
            learning_rate=3e-3,
            row_share=9.0 if small else 0.9,
            most_rows=3_000 if small else 10_000,
            hidden=192 if small else 128,
            release_rows=20_000 if small else 200_000,
        )
    return Choice(
        rounds=2,
        # Fleets of small devices send counts and sums alone; single columns come from the census.
        census_share=0.2 if small else 0.05,
        steps=200,
        batch=256,
        clip_norm=1.0,
        learning_rate=5e-3,
        averaging=0.9,
        row_share=0.8,
        most_rows=10_000,
        hidden=64 if small else 128,
        release_rows=60_000 if small else 200_000,
        source="release",
    )


def _measured(task: Task) -> bool:
    return any(column.kind == "number" for column in task.schema.columns)


@contextmanager
def simulate(
    task: Task, choice: Choice, *, strategy: str, epsilon: float | None, seed: int
) -> Iterator[Simulation]:
    """Yield a fleet that is ready to run."""
    devices = {f"device-{i:02d}": rows for i, rows in enumerate(task.devices) if len(rows)}
    with Simulation(
        schema=task.schema,
        devices=devices,
        epsilon=epsilon,
        rounds=RoundSettings(count=choice.rounds, census_share=choice.census_share, quorum=1),
        training=TrainingConfig(minimum_rows=20),
        train=TrainPlanSettings(
            steps=choice.steps,
            expected_batch=choice.batch,
            clip_norm=choice.clip_norm,
            learning_rate=choice.learning_rate,
            averaging=choice.averaging,
        ),
        rows=RowSettings(share=choice.row_share, minimum=100, maximum=choice.most_rows),
        fusion=FusionSettings(
            strategy=strategy, hidden=choice.hidden, max_seconds=600.0, epochs=6, patience=3
        ),
        guard=GuardSettings(rows=10_000),
        seed=seed,
    ) as fleet:
        yield fleet


def run(
    task: Task,
    *,
    strategy: str,
    epsilon: float | None,
    seed: int,
    choice: Choice | None = None,
) -> Record:
    """Run a fleet on a task and score what it releases, after every round."""
    chosen = choice or choice_for(task, epsilon=epsilon)
    curve: list[Point] = []
    with simulate(task, chosen, strategy=strategy, epsilon=epsilon, seed=seed) as fleet:
        fleet.census()
        for _ in range(chosen.rounds):
            fleet.round()
            sent = statistics.mean(d.bytes_up for d in fleet.devices.values())
            rows = _rows(fleet, chosen, strategy=strategy, seed=seed)
            point = Point(
                round=len(curve) + 2, bytes_up=round(sent), score=score(task, rows, seed=seed)
            )
            curve.append(point)
        cpu_s = statistics.mean(d.cpu_seconds for d in fleet.devices.values())
        nll = _held_out_nll(fleet.bundle, task)
    return Record(
        task=task.name,
        system=f"ours: {strategy}",
        epsilon=epsilon,
        seed=seed,
        metric=task.metric,
        score=curve[-1].score,
        # the census is a round as well
        rounds=curve[-1].round,
        bytes_up=curve[-1].bytes_up,
        device_cpu_s=cpu_s,
        nll=nll,
        curve=tuple(curve),
        settings=asdict(chosen),
    )


def _rows(fleet: Simulation, choice: Choice, *, strategy: str, seed: int) -> pd.DataFrame:
    if choice.source == "generator" or strategy == "average":
        return drawn_rows(fleet.bundle, choice.release_rows, seed=seed)
    with tempfile.TemporaryDirectory() as directory:
        release = fleet.release(
            Path(directory) / "release", rows=choice.release_rows, mode="matched", seed=seed
        )
        # Without its mark as synthetic: here it stands where real rows would.
        table: pd.DataFrame = pq.read_table(release.data).replace_schema_metadata(None).to_pandas()
        return table


def drawn_rows(bundle: Bundle, rows: int, *, seed: int) -> pd.DataFrame:
    """Return rows drawn from a generator, as values."""
    engine = open_engine(bundle)
    try:
        key = np.random.default_rng(seed).bytes(32)
        table = sample_table(engine, bundle.codec, rows, key=key)
    finally:
        engine.close()
    return pd.DataFrame(
        {
            name: pd.Series(np.where(table.missing[name], None, values))
            if table.missing[name].any()
            else values
            for name, values in table.columns.items()
        }
    )


def _held_out_nll(bundle: Bundle, task: Task) -> float:
    from edge_runtime.schema import read_table

    codes = bundle.codec.encode(read_table(task.test, bundle.schema)).codes
    return mean_nll(bundle.weights, codes, bundle.layout)
