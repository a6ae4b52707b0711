"""Tables and models that are given as files: CSV, on a device and compressed, and pickles."""

from __future__ import annotations

import gzip
import io
import pickle
import tempfile
from pathlib import Path

from edge_runtime.device.source import CsvSource
from edge_runtime.errors import DataError, ModelImportError, SchemaError
from edge_runtime.importing.sdv.pickle_names import list_names
from edge_runtime.schema import infer_schema, read_table
from tools.fuzz.contract import Decoder
from tools.fuzz.samples import CSV, SCHEMA

__all__ = ["DECODERS", "seeds"]

_DIRECTORY = tempfile.TemporaryDirectory(prefix="er-fuzz-")
_PATH = Path(_DIRECTORY.name)
_ROWS_AT_MOST = 100_000


def _source(data: bytes) -> None:
    """Read as a device does, from where it stopped, until nothing is left."""
    path = _PATH / "rows.csv"
    path.write_bytes(data)
    source = CsvSource(path=path, follow=bool(len(data) % 2), piece_bytes=256)
    position = None
    for _ in range(_ROWS_AT_MOST):
        piece = source.read(SCHEMA, position)
        if not piece.more:
            return
        if position is not None and piece.position.offset <= position.offset:
            raise AssertionError("the source stands still and says that there is more")
        position = piece.position
    raise AssertionError("the source does not end")


def _compressed(data: bytes) -> None:
    path = _PATH / "rows.csv.gz"
    path.write_bytes(data)
    read_table(path, SCHEMA)


DECODERS = (
    Decoder("source", _source, (DataError,)),
    Decoder("gzip", _compressed, (DataError,)),
    Decoder(
        "infer",
        lambda data: infer_schema(io.StringIO(data.decode(errors="replace"))),
        (DataError, SchemaError),
    ),
    Decoder("pickle", lambda data: list_names(data, file="x.pkl"), (ModelImportError,)),
)


def seeds() -> dict[str, list[bytes]]:
    """Make valid inputs."""
    named = pickle.dumps(Path("x"), protocol=4)
    return {
        "source": [CSV, CSV.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + CSV],
        "gzip": [gzip.compress(CSV, mtime=0)],
        "infer": [CSV],
        "pickle": [named, pickle.dumps(Path("x"), protocol=0)],
    }
