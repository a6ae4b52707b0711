"""Valid objects that inputs of the corpus are made of: a table with a column of every kind."""

from __future__ import annotations

import numpy as np

from edge_runtime.generator import Layout
from edge_runtime.messages import Header, PrivacyStatement
from edge_runtime.schema import Codec, Column, Schema, Table
from edge_runtime.schema.constraints import Combinations, Order, Sum

__all__ = ["CSV", "DIGEST", "LAYOUT", "SCHEMA", "header", "some_codec"]

DIGEST = "a" * 64
#: of the updates that are decoded
LAYOUT = Layout((2, 3), 4)

SCHEMA = Schema(
    name="pumps",
    columns=(
        Column(name="fault", kind="boolean", condition=True),
        Column(name="site", kind="category", values=("a", "b"), other=True, nullable=True),
        Column(name="load", kind="number", low=0.0, high=10.0, unit="kW", nullable=True),
        Column(name="in", kind="integer", low=0, high=5),
        Column(name="out", kind="integer", low=0, high=5),
        Column(name="sum", kind="integer", low=0, high=10),
        Column(
            name="at",
            kind="timestamp",
            low=1_577_836_800_000_000.0,
            high=1_609_459_200_000_000.0,
        ),
    ),
    constraints=(
        Order(columns=("in", "sum")),
        Sum(total="sum", parts=("in", "out")),
        Combinations(columns=("fault", "site"), allowed=((True, "a"), (False, "b"))),
    ),
)

CSV = (
    b"fault,site,load,in,out,sum,at\n"
    b"true,a,1.25,1,2,3,2020-01-01T00:00:00Z\n"
    b'false,"b",,0,5,5,2020-06-01T12:30:00+02:00\n'
)


def header(kind: str, **extra: str | float) -> Header:
    """Return a header of a kind."""
    return Header(
        fleet="f",
        device="d",
        id="0" * 32,
        sequence=7,
        kind=kind,  # type: ignore[arg-type]
        schema_digest=DIGEST,
        privacy=PrivacyStatement(mechanism="dp-sgd", epsilon=2.5, delta=1e-5),
        extra={"sigma": 2.0, **extra},
    )


def some_codec() -> Codec:
    """Return a codec of `SCHEMA` with points and with knots."""
    rng = np.random.default_rng(0)
    rows = 200
    inflow, out = rng.integers(0, 6, rows), rng.integers(0, 6, rows)
    table = Table(
        schema=SCHEMA,
        columns={
            "fault": rng.integers(0, 2, rows).astype(np.int8),
            "site": np.array(["a", "b", "else"], object)[rng.integers(0, 3, rows)],
            "load": rng.random(rows) * 10,
            "in": inflow.astype(np.int64),
            "out": out.astype(np.int64),
            "sum": (inflow + out).astype(np.int64),
            "at": rng.integers(1_577_836_800_000_000, 1_609_459_200_000_000, rows)
            // 1_000_000
            * 1_000_000,
        },
        missing={name: np.zeros(rows, bool) for name in SCHEMA.names},
        file="<sample>",
    )
    return Codec.fit(table, SCHEMA, max_bins=4, knots=3)
