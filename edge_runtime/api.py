"""The public `Generator`: fit on a table, sample, save, load.

Everything a single machine needs in four verbs; a fleet does the same through `device` and
`aggregator`, from the same parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import SamplingError, SchemaError
from edge_runtime.generator import (
    Bundle,
    Engine,
    Lineage,
    build_bundle,
    open_engine,
    sample_codes,
    sample_table,
)
from edge_runtime.schema import Schema, Table, infer_schema, read_table
from edge_runtime.schema.sources import Source
from edge_runtime.training.one_table import Tell, fit_open, fit_private

__all__ = ["Generator"]

#: Rows drawn between two decodings: the codes of one block stay in the cache.
BLOCK_ROWS = 65_536
#: Rejection sampling gives up once this many rows were drawn per row asked for.
MAX_DRAWS_PER_ROW = 1_000


class Generator:
    """A generator of synthetic rows: network weights, codec and the engine that runs them.

    Parameters
    ----------
    bundle : Bundle
        The loaded bundle.
    engine : str
        ``auto`` or the name of an engine.
    threads : int
        Threads of the engine.
    """

    def __init__(self, bundle: Bundle, *, engine: str = "auto", threads: int = 1) -> None:
        self.bundle = bundle
        self._engine_name = engine
        self._threads = threads
        self._engine: Engine | None = None

    @property
    def schema(self) -> Schema:
        """The schema of the rows that `sample` draws."""
        return self.bundle.schema

    @classmethod
    def load(cls, path: str | Path, *, engine: str = "auto", threads: int = 1) -> Generator:
        """Load a bundle and verify its digests.

        Raises
        ------
        BundleError
            When the file is damaged, incomplete or of another format.
        """
        return cls(Bundle.load(Path(path)), engine=engine, threads=threads)

    def save(self, path: str | Path) -> None:
        """Write the bundle to one file."""
        self.bundle.save(Path(path))

    @classmethod
    def fit(
        cls,
        frame: Source,
        schema: Schema | None = None,
        *,
        epsilon: float | None = None,
        delta: float = 1e-5,
        hidden: int = 128,
        epochs: int = 30,
        seed: int = 0,
        engine: str = "auto",
        on_progress: Tell | None = None,
    ) -> Generator:
        """Learn a generator from one table.

        Parameters
        ----------
        frame : object
            Anything Arrow can read (pandas, polars, pyarrow), or the path of a CSV or Parquet
            file.
        schema : Schema, optional
            The declaration of the table; inferred from the rows when absent, which is refused
            under privacy: bounds and categories are public and may not be read off the rows.
        epsilon : float, optional
            Privacy budget per row (add or remove one row). None learns without privacy.
        delta : float
            The probability part of the guarantee.
        hidden : int
            Units of each of the two hidden layers.
        epochs : int
            Passes over the rows at most; without privacy, training stops early when held-out
            likelihood no longer improves.
        seed : int
            Seed of everything that is not privacy noise.
        on_progress : callable, optional
            Called with a phase and its share done in 0..1.

        Raises
        ------
        SchemaError
            When `epsilon` is given without a schema.
        DataError
            When a value contradicts the schema, or the rows are marked as synthetic.
        """
        tell = on_progress or _silent
        tell("reading", 0.0)
        if schema is None:
            if epsilon is not None:
                raise SchemaError(
                    "epsilon is set but no schema is given: bounds and categories read off the "
                    "rows would tell about them; write one with: edge-runtime schema infer FILE"
                )
            schema = infer_schema(frame)[0]
        table = read_table(frame, schema)
        if epsilon is None:
            fitted = fit_open(table, schema, hidden=hidden, epochs=epochs, seed=seed, tell=tell)
        else:
            fitted = fit_private(
                table,
                schema,
                hidden=hidden,
                epochs=epochs,
                seed=seed,
                tell=tell,
                epsilon=epsilon,
                delta=delta,
            )
        tell("building", 0.0)
        bundle = build_bundle(
            schema,
            fitted.codec,
            fitted.layout,
            fitted.weights,
            lineage=Lineage(
                parent=None, depth=1, round=0, devices=1, rows=fitted.rows, privacy=fitted.privacy
            ),
            metrics=fitted.metrics,
            seed=seed,
        )
        tell("building", 1.0)
        return cls(bundle, engine=engine)

    def sample(
        self, rows: int, *, where: Mapping[str, object] | None = None, seed: int = 0
    ) -> Table:
        """Draw rows.

        Parameters
        ----------
        rows : int
            How many.
        where : mapping, optional
            Column names and the values they must have, e.g. ``{"late": True}``. Leading condition
            columns are clamped, others met by rejection.
        seed : int
            The same seed gives the same rows, whatever the batch size, engine threads or machine.

        Raises
        ------
        SamplingError
            When rows that meet `where` are too rare to be found by rejection.
        """
        return Table.concat(list(self.sample_blocks(rows, where=where, seed=seed)))

    def sample_blocks(
        self, rows: int, *, where: Mapping[str, object] | None = None, seed: int = 0
    ) -> Iterator[Table]:
        """Draw rows in blocks of bounded memory; the blocks together are `sample`'s rows."""
        if rows < 0:
            raise SamplingError(f"cannot draw {rows} rows: ask for 0 or more")
        if self._engine is None:
            self._engine = open_engine(self.bundle, engine=self._engine_name, threads=self._threads)
        key = hashlib.sha256(b"edge-runtime sample" + str(seed).encode()).digest()
        clamp, reject = self._conditions(where or {})
        if reject:
            for table in self._rejecting(rows, clamp, reject, where or {}, key=key):
                yield table.marked(self._mark)
            return
        for start in range(0, max(rows, 1), BLOCK_ROWS):
            block = min(BLOCK_ROWS, rows - start)
            yield sample_table(
                self._engine,
                self.bundle.codec,
                block,
                key=key,
                offset=start,
                clamp=_repeated(clamp, block),
            ).marked(self._mark)

    @property
    def _mark(self) -> dict[str, Any]:
        """What the mark of sampled rows says."""
        return {"bundle": self.bundle.digest, "depth": self.bundle.lineage.depth}

    def _rejecting(
        self,
        rows: int,
        clamp: Mapping[int, int],
        reject: Mapping[int, int],
        where: Mapping[str, object],
        *,
        key: bytes,
    ) -> Iterator[Table]:
        """Draw until enough rows meet the wishes that cannot be clamped."""
        assert self._engine is not None, "sample_blocks opens it"
        done = drawn = 0
        block = BLOCK_ROWS // 8
        while done < rows or drawn == 0:
            codes = sample_codes(
                self._engine, block, key=key, offset=drawn, clamp=_repeated(clamp, block)
            )
            kept = np.ones(block, np.bool_)
            for column, code in reject.items():
                kept &= codes[:, column] == code
            chosen = np.flatnonzero(kept)[: rows - done]
            drawn += block
            if len(chosen) or rows == 0:
                yield self.bundle.codec.decode(
                    np.ascontiguousarray(codes[chosen]), key=key, stream=1, offset=done
                )
            done += len(chosen)
            if done < rows and drawn > MAX_DRAWS_PER_ROW * max(rows, 100):
                wish = ", ".join(f"{name}={value!r}" for name, value in where.items())
                raise SamplingError(
                    f"only {done} of {drawn} drawn rows meet {wish}, {rows} were asked for; "
                    "declare the column as a condition in the schema and fit again, or ask for "
                    "fewer rows"
                )

    def _conditions(self, where: Mapping[str, object]) -> tuple[dict[int, int], dict[int, int]]:
        """Split wishes into leading condition columns (clamped) and the rest (rejected)."""
        wished: dict[int, int] = {}
        for name, value in where.items():
            if name not in self.schema.names:
                raise SamplingError(
                    f"no column {name!r}; the bundle has {', '.join(self.schema.names)}"
                )
            column = self.schema.names.index(name)
            wished[column] = self.bundle.codec.code_of(column, value)
        clamp: dict[int, int] = {}
        # Only an unbroken run of columns from the first one conditions all that follow.
        for column in range(len(self.schema.names)):
            if column not in wished:
                break
            clamp[column] = wished.pop(column)
        return clamp, wished


def _repeated(clamp: Mapping[int, int], rows: int) -> dict[int, NDArray[np.int32]]:
    return {column: np.full(rows, code, np.int32) for column, code in clamp.items()}


def _silent(_phase: str, _share: float) -> None:
    """Stand in for a progress callback."""
