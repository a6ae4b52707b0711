"""Shared by the device's tests: a small real-looking table, configurations, a stand-in aggregator.

The stand-in speaks the real protocol over a real broker: it publishes real plans and bundles,
decodes what arrives and acknowledges it. It is no mock of the device's parts.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_runtime.device.config import DeviceConfig, load_config
from edge_runtime.device.schemas import offer_schema
from edge_runtime.fleet.broker import Broker, start_broker
from edge_runtime.generator import Bundle, Layout, Lineage, build_bundle, initial_weights
from edge_runtime.messages import (
    AnchorRequest,
    Plan,
    RowRequest,
    TrainRequest,
    new_id,
)
from edge_runtime.schema import Codec, Column, Schema, read_table
from tests.device.shop import Shop
from tests.device.stand_in import FLEET, StandIn, wait_for

#: a value no other row comes near, to be looked for wherever it must not appear
PLANTED_DISTANCE = 1234.5625
#: an odd number of rows, to be looked for wherever it must not appear
ROWS = 1873


def make_schema(name: str = "flights") -> Schema:
    return Schema.ordered(
        name=name,
        columns=(
            Column(name="late", kind="boolean", condition=True),
            Column(name="hour", kind="integer", low=0, high=23),
            Column(name="origin", kind="category", values=("EWR", "JFK", "LGA"), other=True),
            Column(name="distance", kind="number", low=0, high=3000, decimals=1, nullable=True),
        ),
    )


def make_rows(rows: int, *, seed: int = 0) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    late = rng.random(rows) < 0.3
    hour = np.clip(rng.normal(np.where(late, 18, 9), 3), 0, 23).astype(int)
    origin = rng.choice(["EWR", "JFK", "LGA", "SWF"], size=rows, p=[0.5, 0.3, 0.15, 0.05])
    distance = np.clip(rng.gamma(3.0, 250.0, rows), 50, 2900)
    lines = [
        [str(late[i]).lower(), str(hour[i]), str(origin[i]), f"{distance[i]:.1f}"]
        for i in range(rows)
    ]
    for i in range(0, rows, 50):
        lines[i][3] = ""
    return lines


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["late", "hour", "origin", "distance"])
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers of this file: test modules cannot import a conftest."""
    return SimpleNamespace(
        FLEET=FLEET,
        PLANTED_DISTANCE=PLANTED_DISTANCE,
        ROWS=ROWS,
        Device=Device,
        StandIn=StandIn,
        census_plan=census_plan,
        make_rows=make_rows,
        make_schema=make_schema,
        train_plan=train_plan,
        wait_for=wait_for,
        write_csv=write_csv,
    )


@pytest.fixture(scope="session")
def schema() -> Schema:
    return make_schema()


@pytest.fixture(scope="session")
def bundle(schema: Schema, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle from public rows of the same shape."""
    path = write_csv(tmp_path_factory.mktemp("public") / "public.csv", make_rows(3000, seed=99))
    codec = Codec.fit(read_table(path, schema), schema)
    layout = Layout(cardinalities=codec.cardinalities, hidden=32)
    weights = initial_weights(layout, seed=1)
    return build_bundle(
        schema,
        codec,
        layout,
        weights,
        lineage=Lineage(parent=None, depth=0, round=0, devices=1, rows=3000.0, privacy={}),
    )


@dataclass
class Device:
    """A directory with a source and a configuration; runs the real process."""

    directory: Path
    port: int
    id: str = "one"
    epsilon: str = "8.0"
    extra: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def source(self) -> Path:
        return self.directory / "rows.csv"

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    @property
    def log(self) -> Path:
        return self.directory / "device.log"

    def write_config(self) -> Path:
        path = self.directory / "device.toml"
        path.write_text(
            f"""
            [device]
            id = "{self.id}"
            fleet = "{FLEET}"
            state_dir = "state"
            [broker]
            port = {self.port}
            ack_timeout_s = 1.0
            [source]
            path = "rows.csv"
            poll_s = 0.2
            [privacy]
            epsilon = {self.epsilon}
            {self.extra}
            """
        )
        return path

    def config(self) -> DeviceConfig:
        return load_config(self.write_config())

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        config = self.write_config()
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    *(command or ("-m", "edge_runtime.device")),
                    "--config",
                    str(config),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.processes.append(process)
        return process

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """A device with the real source; its port must be set before it starts."""
    made = Device(directory=tmp_path, port=1)
    write_csv(made.source, make_rows(ROWS))
    yield made
    made.end()


@pytest.fixture(scope="session")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with start_broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker of the test's own, to be killed."""
    with start_broker(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
def stand_in(shared_broker: Broker, device: Device) -> Iterator[StandIn]:
    device.port = shared_broker.port
    made = StandIn(port=shared_broker.port)
    yield made
    device.end()
    made.close()


def census_plan(schema: Schema, *, epsilon: float | None = 1.0, **changes: Any) -> Plan:
    return Plan(
        **{
            "fleet": FLEET,
            "id": new_id(),
            "round": 0,
            "kind": "census",
            "schema_digest": schema.digest,
            "epsilon_after": epsilon,
            "delta": 1e-5 if epsilon is not None else 0.0,
            "deadline_s": 60.0,
            "quorum": 1,
            **changes,
        }
    )


def train_plan(
    bundle: Bundle, *, epsilon: float | None = 6.0, steps: int = 60, **changes: Any
) -> Plan:
    return Plan(
        **{
            "fleet": FLEET,
            "id": new_id(),
            "round": 1,
            "kind": "train",
            "schema_digest": bundle.schema.digest,
            "bundle_digest": bundle.digest,
            "epsilon_after": epsilon,
            "delta": 1e-5 if epsilon is not None else 0.0,
            "deadline_s": 60.0,
            "quorum": 1,
            "train": TrainRequest(
                steps=steps, expected_batch=64, clip_norm=1.0, learning_rate=0.01
            ),
            "anchor": AnchorRequest(share=0.1, tables=((0, 1), (2,), (3,))),
            "rows": RowRequest(share=3.0, minimum=100, maximum=6000),
            **changes,
        }
    )


@pytest.fixture
def open_shop(
    device: Any, kit: SimpleNamespace, bundle: Bundle, schema: Schema
) -> Iterator[Callable[..., Shop]]:
    shops: list[Shop] = []

    def make(*, epsilon: str = "8.0", extra: str = "", with_bundle: bool = True) -> Shop:
        device.epsilon, device.extra = epsilon, extra
        shop = Shop(device, kit, bundle)
        shops.append(shop)
        offer_schema(shop.store, schema.to_json())
        if with_bundle:
            shop.bundles.put(bundle.digest, bundle.to_bytes())
        return shop

    yield make
    for shop in shops:
        shop.end()
