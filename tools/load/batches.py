"""Batches by the thousand: valid, each with rows and an id of its own, at 0.1 ms each.

`encode_batch` takes 40 times as long, most of it for the last tenth of compression. Here one batch
is encoded properly, and from then on its id, device and columns are replaced in the Arrow stream,
which is compressed quickly. What an aggregator reads is the same format.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import numpy as np
import zstandard

from edge_runtime.generator import GraphBundle
from edge_runtime.messages import Header, Plan, PrivacyStatement, encode_batch

__all__ = ["BatchMaker"]

#: of each column's reservoir that rows are cut from
_RESERVOIR = 1 << 20
_SEQUENCE = 10**9


class BatchMaker:
    """Makes batches that answer one plan.

    Parameters
    ----------
    plan : Plan
        Asks for rows.
    bundle : GraphBundle
        The plan's; every column has at most 256 codes.
    devices : sequence of str
        Names, all of the same length.
    size_bytes : int
        Of a batch as it travels, about.
    seed : int
        Of the rows.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        bundle: GraphBundle,
        devices: Sequence[str],
        size_bytes: int,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        cardinalities = bundle.codec.cardinalities
        # Uneven, as real columns are; independent: what a packed graph's rows are like is not
        # looked at, only that no two batches are alike.
        self._columns = [
            rng.choice(k, _RESERVOIR, p=rng.dirichlet(np.full(k, 2.0))).astype(np.uint8)
            for k in cardinalities
        ]
        self._rng = rng
        # Half the time of level 1 for the same size: its table of matches fits into the cache.
        quick = zstandard.ZstdCompressionParameters(
            strategy=zstandard.STRATEGY_FAST,
            window_log=15,
            hash_log=10,
            min_match=6,
            write_content_size=True,
        )
        self._compressor = zstandard.ZstdCompressor(compression_params=quick)
        self._plan, self._bundle = plan, bundle
        self._sequence = _SEQUENCE
        self._use(devices[0], 512)
        few = len(self.make(devices[0])[1])
        self._use(devices[0], 1024)
        per_row = (len(self.make(devices[0])[1]) - few) / 512
        self._use(devices[0], max(8, int(512 + (size_bytes - few) / per_row) // 8 * 8))

    def _use(self, device: str, rows: int) -> None:
        """Encode the batch that all others are made from; rows by the eight need no padding."""
        self.rows = rows
        plan, bundle = self._plan, self._bundle
        header = Header(
            fleet=plan.fleet,
            device=device,
            id="0" * 32,
            sequence=_SEQUENCE,
            kind="batch",
            schema_digest=bundle.schema.digest,
            codec_digest=bundle.codec.digest,
            bundle_digest=bundle.digest,
            plan_id=plan.id,
            part=1,
            parts=1_000_000,
            round=plan.round,
            depth=bundle.lineage.depth + 1,
            privacy=PrivacyStatement(mechanism="none", epsilon=None, delta=0.0),
        )
        codes = np.stack([column[:rows] for column in self._columns], axis=1).astype(np.int32)
        payload = encode_batch(
            header,
            codes,
            cardinalities=bundle.codec.cardinalities,
            names=bundle.schema.names,
        )
        raw = zstandard.ZstdDecompressor().decompress(payload)
        self._raw = np.frombuffer(bytearray(raw), np.uint8)
        # The columns come last, before an end mark of 8 bytes.
        self._body = len(raw) - 8 - rows * len(self._columns)
        self._id_at = raw.index(b'"id":"' + b"0" * 32) + 6
        self._device_at = raw.index(f'"device":"{device}"'.encode()) + 10
        self._sequence_at = raw.index(f'"sequence":{_SEQUENCE}'.encode()) + 11

    def make(self, device: str) -> tuple[str, bytes]:
        """Return id and payload of a new batch."""
        message_id = uuid.uuid4().hex
        self._sequence += 1
        self._put(self._id_at, message_id.encode())
        self._put(self._device_at, device.encode())
        self._put(self._sequence_at, str(self._sequence).encode())
        at = self._body
        starts = self._rng.integers(0, _RESERVOIR - self.rows, len(self._columns)).tolist()
        for column, start in zip(self._columns, starts, strict=True):
            self._raw[at : at + self.rows] = column[start : start + self.rows]
            at += self.rows
        return message_id, self._compressor.compress(self._raw)

    def _put(self, at: int, text: bytes) -> None:
        self._raw[at : at + len(text)] = np.frombuffer(text, np.uint8)
