"""Schema files, and the codec's file with the schema inside."""

from __future__ import annotations

import numpy as np

from edge_runtime.errors import CodecError, SchemaError
from edge_runtime.schema import Codec, Column, Schema, check_fleet
from edge_runtime.schema.sequence import Sequence
from tools.fuzz.contract import Decoder
from tools.fuzz.mutations import mutate_json
from tools.fuzz.samples import SCHEMA, some_codec

__all__ = ["DECODERS", "seeds"]


def _schema(data: bytes) -> None:
    """Read a schema and do what a device does before it adopts it."""
    schema = Schema.from_json(data)
    check_fleet(schema)
    if Schema.from_json(schema.to_json()).digest != schema.digest:
        raise AssertionError("a schema does not come back from its own JSON")
    schema.learnt.to_text()


def _codec(data: bytes) -> None:
    codec = Codec.from_json(data)
    codes = np.zeros((2, len(codec.cardinalities)), np.int32)
    codec.decode(codes, key=bytes(32))


DECODERS = (
    Decoder("schema", _schema, (SchemaError,), mutate_json),
    Decoder("codec", _codec, (CodecError,), mutate_json),
)


def seeds() -> dict[str, list[bytes]]:
    """Make valid inputs."""
    series = Schema(
        name="series",
        columns=(
            Column(name="who", kind="category", values=("a", "b")),
            Column(name="at", kind="timestamp", low=0.0, high=1e12),
            Column(name="x", kind="number", low=0.0, high=1.0, decimals=2),
        ),
        sequence=Sequence(lags=2, entity="who", order="at", every=60.0),
    )
    return {
        "schema": [SCHEMA.to_json(), series.to_json()],
        "codec": [some_codec().to_json()],
    }
