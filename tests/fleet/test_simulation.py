"""The simulated fleet: its parts are the real ones, so what it leaves must be what they leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from edge_runtime.aggregator.config import (
    FusionSettings,
    GuardSettings,
    RoundSettings,
    RowSettings,
    TrainPlanSettings,
)
from edge_runtime.aggregator.release import verify_release
from edge_runtime.device.config import TrainingConfig
from edge_runtime.errors import AggregatorError, ConfigError
from edge_runtime.fleet.simulation import Simulation
from edge_runtime.messages import decode_batch, decode_summary
from edge_runtime.schema import Column, Schema

SCHEMA = Schema.ordered(
    name="machines",
    columns=(
        Column(name="fault", kind="boolean", condition=True),
        Column(name="site", kind="category", values=("north", "south"), other=True),
        Column(name="load", kind="number", low=0.0, high=100.0, decimals=1),
    ),
)


def frame(seed: int, rows: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    fault = rng.random(rows) < 0.3
    load = np.clip(rng.normal(np.where(fault, 80.0, 30.0), 8.0), 0, 100)
    return pd.DataFrame(
        {
            "fault": fault,
            "site": rng.choice(["north", "south", "east"], rows, p=[0.6, 0.3, 0.1]),
            "load": load.round(1),
        }
    )


FRAMES = {f"d{i}": frame(i) for i in range(4)}


@pytest.fixture
def simulate(tmp_path: Path) -> Iterator[Callable[..., Simulation]]:
    made: list[Simulation] = []

    def make(**changes: Any) -> Simulation:
        simulation = Simulation(
            **{
                "schema": SCHEMA,
                "devices": FRAMES,
                "epsilon": 8.0,
                "rounds": RoundSettings(count=2, quorum=2, anchor_share=0.2),
                "train": TrainPlanSettings(steps=30, expected_batch=40),
                "rows": RowSettings(share=1.0, minimum=100, maximum=400),
                # Without rows from the counts, devices train however few rows they have.
                "fusion": FusionSettings(hidden=24, epochs=4, batch=64, max_seconds=600.0, prior=0),
                "guard": GuardSettings(rows=2000, limit=1.0),
                "training": TrainingConfig(minimum_rows=20),
                "directory": tmp_path / "fleet",
                **changes,
            }
        )
        made.append(simulation)
        return simulation

    yield make
    for simulation in made:
        simulation.close()


def test_a_run_leaves_what_a_real_fleet_leaves(
    simulate: Callable[..., Simulation], tmp_path: Path
) -> None:
    fleet = simulate()
    bundle = fleet.run()
    workspace = fleet.workspace

    assert [(r.round, r.kind, r.status) for r in workspace.catalogue.rounds()] == [
        (0, "census", "closed"),
        (1, "train", "closed"),
        (2, "train", "closed"),
    ]
    pool = workspace.pool_rows()
    assert pool.devices == tuple(FRAMES)
    assert set(pool.round) == {1, 2}
    assert len(pool.codes) >= 4 * 2 * 100
    assert bundle.lineage.depth == 2
    assert set(workspace.censuses()) == set(FRAMES)
    anchor = workspace.anchor(bundle)
    assert anchor is not None
    assert anchor.devices == 4
    for device in fleet.devices.values():
        assert [entry.what for entry in device.entries()] == [
            "census",
            "anchor",
            "training",
            "anchor",
            "training",
        ]
        assert all(entry.released for entry in device.entries())
        assert 7.9 < device.epsilon_spent <= 8.0
        assert device.state.status == "idle"
        assert device.cpu_seconds > 0.0

    release = fleet.release(tmp_path / "release", rows=300)
    assert release.rows == 300
    assert verify_release(release.path) > 5
    with pytest.raises(AggregatorError, match="no further round"):
        fleet.round()


def test_bytes_up_are_those_of_the_encoded_messages(simulate: Callable[..., Simulation]) -> None:
    fleet = simulate(rounds=RoundSettings(count=1, quorum=4, anchor_share=0.1))
    sent: dict[str, list[bytes]] = {name: [] for name in FRAMES}
    for name, device in fleet.devices.items():
        outgoing = device.outgoing

        def watched(name: str = name, outgoing: Any = outgoing) -> Iterator[Any]:
            for message in outgoing():
                sent[name].append(message.payload)
                yield message

        device.outgoing = watched  # type: ignore[method-assign]
    fleet.run()
    totals = fleet.workspace.catalogue.device_totals()
    cardinalities = fleet.bundle.codec.cardinalities
    for name, device in fleet.devices.items():
        census, anchor, batch = sent[name]
        assert decode_summary(census)[0].kind == "census"
        assert decode_summary(anchor)[0].kind == "anchor"
        _, codes = decode_batch(batch, cardinalities=cardinalities, names=SCHEMA.names)
        assert len(codes) == device.rows_accepted
        assert device.bytes_up == sum(map(len, sent[name])) == totals[name].bytes


def test_absent_and_late_devices(simulate: Callable[..., Simulation]) -> None:
    fleet = simulate()
    fleet.census()
    first = fleet.round(1, absent=["d0"], late=["d1"])
    assert set(first.answers) == {"d1", "d2", "d3"}
    # Late, and still in the pool; the candidate did not see it.
    assert {ack.status for ack in first.answers["d1"]} == {"accepted"}
    pool = fleet.workspace.pool_rows()
    assert pool.devices == ("d1", "d2", "d3")
    by_two = np.isin(pool.device, [1, 2]).sum()
    assert fleet.bundle.metrics["pooled_rows"] == by_two
    (record,) = [r for r in fleet.workspace.catalogue.rounds() if r.round == 1]
    assert record.ended_unix_s - record.started_unix_s >= fleet.config.rounds.deadline_s

    second = fleet.round(2)
    assert set(second.answers) == set(FRAMES)
    absent = fleet.devices["d0"]
    assert [e.details["round"] for e in absent.entries()] == [0, 2, 2]
    # It has spent less before, so the plan's ceiling leaves it more for this round.
    assert absent.epsilon_spent == pytest.approx(8.0, rel=0.01)


def test_without_a_quorum_a_round_does_not_end_and_goes_on_later(
    simulate: Callable[..., Simulation],
) -> None:
    fleet = simulate(rounds=RoundSettings(count=1, quorum=3, anchor_share=0.1))
    fleet.census()
    with pytest.raises(AggregatorError, match="quorum is 3"):
        fleet.round(1, absent=["d0", "d1"])
    with pytest.raises(AggregatorError, match="the next round is 1, not 2"):
        fleet.round(2)
    assert "published" in fleet.round(1).reason
    assert all(len(device.entries()) == 3 for device in fleet.devices.values())


def test_a_device_killed_between_rounds_and_a_restarted_fleet_go_on(
    simulate: Callable[..., Simulation],
) -> None:
    fleet = simulate()
    fleet.census()
    fleet.round(1, late=["d3"])
    fleet.devices["d2"].close()
    before = {name: device.bytes_up for name, device in fleet.devices.items()}
    spent = {name: device.epsilon_spent for name, device in fleet.devices.items()}
    digest, rows = fleet.bundle.digest, len(fleet.workspace.pool_rows().codes)
    fleet.close()

    again = simulate()
    assert again.bundle.digest == digest
    assert len(again.workspace.pool_rows().codes) == rows
    assert {n: d.bytes_up for n, d in again.devices.items()} == before
    assert {n: d.epsilon_spent for n, d in again.devices.items()} == spent
    again.round(2)
    assert all(len(device.entries()) == 5 for device in again.devices.values())


def test_an_interrupted_training_is_resumed_and_paid_for_once(
    simulate: Callable[..., Simulation],
) -> None:
    fleet = simulate(training=TrainingConfig(minimum_rows=20, checkpoint_s=0.0, checkpoint_steps=5))
    fleet.census()
    device = fleet.devices["d1"]
    device.interrupt = lambda state: state.status == "training" and state.progress >= 0.5
    first = fleet.round(1)
    # The anchor had left before; of the rows nothing.
    assert len(first.answers["d1"]) == 1
    (saved,) = device.store.connection.execute("SELECT COUNT(*) FROM checkpoints").fetchone()
    assert saved == 1
    device.close()
    device.interrupt = None
    second = fleet.round(2)
    assert len(second.answers["d1"]) == 3
    assert [entry.details["round"] for entry in device.entries()] == [0, 1, 1, 2, 2]
    totals = fleet.workspace.catalogue
    assert totals.rows_of(["d1"])["d1", 1] > 0
    assert totals.rows_of(["d1"])["d1", 2] > 0


@pytest.mark.parametrize("guarded", [True, False])
def test_drift_and_poison(simulate: Callable[..., Simulation], guarded: bool) -> None:
    fleet = simulate(
        epsilon=None,
        rounds=RoundSettings(count=1, quorum=4, anchor_share=0.1),
        guard=GuardSettings(rows=2000, limit=1.0, batches=guarded),
    )
    fleet.census()
    drifted = frame(9).assign(fault=True)
    fleet.devices["d0"].replace_rows(drifted)
    liar = fleet.devices["d1"]
    liar.poison = np.zeros_like
    liar.poison_counts = lambda counts: {name: 0 * values for name, values in counts.items()}
    answers = fleet.round(1).answers
    refused = {name for name, acks in answers.items() if acks[-1].status == "quarantined"}
    assert refused == ({"d1"} if guarded else set())
    pool = fleet.workspace.pool_rows()
    by_device = {name: pool.codes[pool.device == k] for k, name in enumerate(pool.devices)}
    assert (by_device["d0"][:, 0] == 1).all()
    assert by_device["d2"].any()
    if guarded:
        assert "d1" not in by_device
    else:
        assert not by_device["d1"].any()
    # The liar's outbox took the acknowledgement of what it had sent in its place.
    assert liar.state.outbox == 0


def test_rows_against_the_schema_are_told(simulate: Callable[..., Simulation]) -> None:
    fleet = simulate()
    path = fleet.devices["d0"].config.source.path
    path.write_text("fault,site,load\ntrue,north,many\n")
    with pytest.raises(ConfigError, match="d0 of the simulation cannot go on"):
        fleet.census()


def test_a_temporary_directory_is_removed_and_names_are_checked() -> None:
    with Simulation(schema=SCHEMA, devices=FRAMES, epsilon=None) as fleet:
        directory = fleet.directory
        assert directory.is_dir()
        with pytest.raises(ConfigError, match="no device 'd9'"):
            fleet.census(absent=["d9"])
        with pytest.raises(AggregatorError, match="run census"):
            fleet.bundle  # noqa: B018 - the property itself raises
    assert not directory.exists()
    with pytest.raises(ConfigError, match="at least one device"):
        Simulation(schema=SCHEMA, devices={}, epsilon=None)
