"""A small fleet without processes: a schema, tables of several devices and their messages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.aggregator.config import AggregatorConfig, load_config
from edge_runtime.aggregator.fusion import first_generator
from edge_runtime.aggregator.guard.gate import Gate
from edge_runtime.aggregator.inbox import Inbox
from edge_runtime.aggregator.opening import create_workspace
from edge_runtime.aggregator.planner import Planner
from edge_runtime.aggregator.quarantine import Quarantine
from edge_runtime.aggregator.records import RoundRecord
from edge_runtime.aggregator.workspace import Workspace
from edge_runtime.generator import Bundle, Weights
from edge_runtime.messages import (
    SCORE_UNITS,
    Header,
    Plan,
    PrivacyStatement,
    encode_batch,
    encode_plan,
    encode_summary,
    encode_update,
    name_of_table,
    new_id,
)
from edge_runtime.reception import Incoming
from edge_runtime.schema import Column, Constraint, Schema, Table, census_counts

FLEET = "testing"


def make_schema() -> Schema:
    return Schema(
        name="trips",
        columns=(
            Column(name="late", kind="boolean", condition=True),
            Column(name="hour", kind="integer", low=0.0, high=23.0),
            Column(name="origin", kind="category", values=("EWR", "JFK", "LGA"), other=True),
            Column(name="delay", kind="number", low=0.0, high=100.0, decimals=1, nullable=True),
        ),
    )


def make_table(schema: Schema, rows: int, *, seed: int, origin: int | None = None) -> Table:
    """Rows in which late follows the hour and the delay follows late."""
    rng = np.random.default_rng(seed)
    hour = rng.integers(5, 23, rows)
    late = rng.random(rows) < (hour - 4) / 30
    place = rng.integers(0, 4, rows) if origin is None else np.full(rows, origin)
    delay = np.round(np.clip(rng.gamma(2.0, 5.0, rows) + 40 * late, 0, 100), 1)
    missing = rng.random(rows) < 0.1
    labels = np.array(["EWR", "JFK", "LGA", "other"], dtype=object)
    return Table(
        schema=schema,
        columns={
            "late": late.astype(np.int8),
            "hour": hour.astype(np.int64),
            "origin": labels[place],
            "delay": np.where(missing, np.nan, delay),
        },
        missing={
            "late": np.zeros(rows, np.bool_),
            "hour": np.zeros(rows, np.bool_),
            "origin": np.zeros(rows, np.bool_),
            "delay": missing,
        },
    )


def write_config(directory: Path, schema: Schema, **changes: dict[str, Any]) -> Path:
    """An aggregator.toml; `changes` replaces or adds keys by section (`top` for the top level)."""
    schema.save(directory / "schema.json")
    sections: dict[str, dict[str, Any]] = {
        "fleet": {"name": FLEET, "devices": 2},
        "broker": {"host": "127.0.0.1", "port": 1},
        "data": {"dir": "data"},
        "schema": {"path": "schema.json"},
        "privacy": {"epsilon": 8.0, "delta": 1e-5},
        "rounds": {"count": 2, "quorum": 2, "deadline_s": 600.0},
        # The end of a training must not depend on what else the machine does.
        "fusion": {
            "hidden": 32,
            "epochs": 6,
            "batch": 128,
            "learning_rate": 0.01,
            "max_seconds": 600.0,
        },
        "guard": {"rows": 4000},
        "rows": {"minimum": 10, "maximum": 4000},
    }
    for name, keys in changes.items():
        sections.setdefault(name, {}).update(keys)
    top = sections.pop("top", {})
    lines = [f"{key} = {_toml(value)}" for key, value in top.items()]
    for name, keys in sections.items():
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in keys.items())]
    path = directory / "aggregator.toml"
    path.write_text("\n".join(lines))
    return path


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


@dataclass
class Device:
    """Makes the messages that a device would send, from its own rows and exact counts."""

    name: str
    table: Table
    schema: Schema
    sigma: float = 0.0
    epsilon: float | None = 1.0
    delta: float = 1e-5
    sequence: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))

    def header(self, kind: str, plan: Plan, bundle: Bundle | None, **changes: Any) -> Header:
        self.sequence += 1
        fields: dict[str, Any] = {
            "fleet": FLEET,
            "device": self.name,
            "id": new_id(),
            "sequence": self.sequence,
            "kind": kind,
            "schema_digest": self.schema.digest,
            "codec_digest": bundle.codec.digest if bundle else "",
            "bundle_digest": plan.bundle_digest or "",
            "plan_id": plan.id,
            "round": plan.round,
            "depth": bundle.lineage.depth + 1 if bundle and kind == "batch" else 0,
            "privacy": PrivacyStatement(mechanism="test", epsilon=self.epsilon, delta=self.delta),
            "extra": {} if kind == "batch" else {"sigma": self.sigma},
        }
        return msgspec.convert(msgspec.to_builtins(Header(**{**fields, **changes})), Header)

    def _noisy(self, counts: np.ndarray) -> np.ndarray:
        noise = np.rint(self.rng.normal(0, self.sigma, counts.shape)) if self.sigma else 0
        return (counts + noise).astype(np.int64)

    def census(self, plan: Plan, **changes: Any) -> bytes:
        counts = census_counts(self.table, self.schema)
        tensors = {f"census.{d}": self._noisy(c) for d, c in enumerate(counts)}
        return encode_summary(self.header("census", plan, None, **changes), tensors)

    def anchor(self, plan: Plan, bundle: Bundle, **changes: Any) -> bytes:
        codes = bundle.codec.encode(self.table).codes
        cards = bundle.codec.cardinalities
        assert plan.anchor is not None
        tensors = {}
        for table in plan.anchor.tables:
            shape = tuple(cards[d] for d in table)
            counts = np.zeros(shape, np.int64)
            np.add.at(counts, tuple(codes[:, d] for d in table), 1)
            tensors[name_of_table(table)] = self._noisy(counts)
        return encode_summary(self.header("anchor", plan, bundle, **changes), tensors)

    def score(self, plan: Plan, bundle: Bundle, *, nats: float, rows: int, **changes: Any) -> bytes:
        """A score of `rows` held-out rows with a mean loss of `nats`."""
        assert plan.score is not None
        clip = plan.score.clip_nats
        exact = np.array([nats / clip * rows, rows]) * SCORE_UNITS
        changes.setdefault("extra", {"sigma": self.sigma, "clip_nats": clip})
        header = self.header("score", plan, bundle, **changes)
        return encode_summary(header, {"score": self._noisy(np.rint(exact))})

    def update(self, plan: Plan, bundle: Bundle, delta: Weights, **changes: Any) -> bytes:
        assert plan.update is not None
        changes.setdefault("extra", {"clip_norm": plan.update.clip_norm})
        header = self.header("update", plan, bundle, **changes)
        return encode_update(header, delta, layout=bundle.layout)

    def batch(self, plan: Plan, bundle: Bundle, codes: np.ndarray, **changes: Any) -> bytes:
        return encode_batch(
            self.header("batch", plan, bundle, **changes),
            codes,
            cardinalities=bundle.codec.cardinalities,
            names=self.schema.names,
        )

    def batches(
        self, plan: Plan, bundle: Bundle, rows: int, *, parts: int = 2, seed: int = 0
    ) -> list[bytes]:
        """`rows` rows like those of this device, but not its own, in `parts` messages."""
        origin = {"EWR": 0, "JFK": 1, "LGA": 2, "other": 3}[self.table.columns["origin"][0]]
        fresh = make_table(self.schema, rows, seed=seed + 1000, origin=origin)
        codes = bundle.codec.encode(fresh).codes
        pieces: Sequence[np.ndarray] = np.array_split(codes, parts)
        return [
            self.batch(plan, bundle, np.ascontiguousarray(piece), part=i + 1, parts=parts)
            for i, piece in enumerate(pieces)
        ]


@dataclass
class Kit:
    """Everything of an aggregator except its link."""

    config: AggregatorConfig
    workspace: Workspace
    planner: Planner
    inbox: Inbox
    devices: dict[str, Device]

    def open(self, number: int, bundle: Bundle | None = None, **changes: Any) -> Plan:
        """Open a round with the planner's plan, or one that differs by `changes`."""
        plan = self.planner.make_plan(number, bundle.digest if bundle else None)
        plan = msgspec.structs.replace(plan, **changes)
        self.workspace.catalogue.open_round(
            RoundRecord(
                round=number,
                kind=plan.kind,
                plan_id=plan.id,
                plan=encode_plan(plan).decode(),
                status="open",
                started_unix_s=1000.0,
                ended_unix_s=None,
                reason="",
            )
        )
        return plan

    def census_round(self) -> Bundle:
        """Answer the census, make the first bundle and use it."""
        plan = self.open(0)
        acks = self.inbox.accept(
            [Incoming(d.name, "summary", d.census(plan)) for d in self.devices.values()]
        )
        assert [ack.status for ack in acks] == ["accepted"] * len(self.devices)
        bundle = first_generator(
            self.workspace.censuses(),
            schema=self.workspace.schema,
            config=self.config,
            privacy=self.workspace.privacy(),
        )
        self.workspace.add_bundle(bundle, status="published", reason="")
        self.inbox.use_codec(bundle.codec, bundle.layout)
        self.planner.close(0, now_unix_s=1001.0, reason="")
        return bundle

    def filled(self, *, rows: int = 1500) -> tuple[Plan, Bundle]:
        """A pool with one training round's batches and anchors."""
        bundle = self.census_round()
        plan = self.open(1, bundle)
        for index, device in enumerate(self.devices.values()):
            messages = [
                Incoming(device.name, "batch", data)
                for data in device.batches(plan, bundle, rows, seed=index)
            ]
            if plan.anchor is not None:
                messages.append(Incoming(device.name, "summary", device.anchor(plan, bundle)))
            assert {ack.status for ack in self.inbox.accept(messages)} == {"accepted"}
        return plan, bundle


def make_inbox(workspace: Workspace) -> Inbox:
    config = workspace.config
    return Inbox(
        data_dir=config.data_dir,
        fleet=config.fleet.name,
        schema=workspace.schema,
        catalogue=workspace.catalogue,
        pool=workspace.pool,
        quarantine=Quarantine(config.data_dir, max_bytes=config.limits.quarantine_bytes),
        max_rows=config.rows.maximum,
        gate=Gate(workspace),
    )


def make_kit(directory: Path, schema: Schema | None = None, **changes: dict[str, Any]) -> Kit:
    schema = schema or make_schema()
    config = load_config(write_config(directory, schema, **changes))
    workspace = create_workspace(config)
    devices = {
        "a": Device("a", make_table(schema, 3000, seed=1, origin=0), schema),
        "b": Device("b", make_table(schema, 1000, seed=2, origin=1), schema),
    }
    for device in devices.values():
        device.epsilon = None if config.privacy.limit is None else 0.1
    return Kit(
        config=config,
        workspace=workspace,
        planner=Planner(config=config, schema=schema, catalogue=workspace.catalogue),
        inbox=make_inbox(workspace),
        devices=devices,
    )


@pytest.fixture
def schema() -> Schema:
    return make_schema()


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    made = make_kit(tmp_path)
    yield made
    made.workspace.close()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[Callable[..., Kit]]:
    """Makes a fleet whose schema has constraints."""
    made: list[Kit] = []

    def make(*constraints: Constraint, schema: Schema | None = None, **changes: Any) -> Kit:
        whole = msgspec.structs.replace(schema or make_schema(), constraints=constraints)
        made.append(make_kit(tmp_path, whole, **changes))
        return made[-1]

    yield make
    for kit in made:
        kit.workspace.close()
