"""The public `Generator`: fit on a table, sample, save, load.

Everything a single machine needs in four verbs; a fleet does the same through `device` and
`aggregator`, from the same parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.errors import SamplingError, SchemaError
from edge_runtime.generator import (
    Bundle,
    Drawing,
    Engine,
    GraphBundle,
    GraphEngine,
    Imputation,
    Lineage,
    build_bundle,
    impute,
    load_bundle,
    open_engine,
    open_graph,
    roll,
)
from edge_runtime.schema import (
    Schema,
    Table,
    infer_schema,
    read_open,
    read_table,
    to_windows,
)
from edge_runtime.schema.sources import Source
from edge_runtime.training.one_table import Tell, fit_open, fit_private

__all__ = ["Generator"]


class Generator:
    """A generator of synthetic rows: network weights, codec and the engine that runs them.

    Parameters
    ----------
    bundle : Bundle or GraphBundle
        The loaded bundle.
    engine : str
        ``auto`` or the name of an engine.
    threads : int
        Threads of the engine.
    """

    def __init__(
        self, bundle: Bundle | GraphBundle, *, engine: str = "auto", threads: int = 1
    ) -> None:
        self.bundle = bundle
        self._engine_name = engine
        self._threads = threads
        self._engine: Engine | GraphEngine | None = None

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
        return cls(load_bundle(path), engine=engine, threads=threads)

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
        tflite: bool = False,
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
        engine : str
            What will run it, see `open_engine`.
        tflite : bool
            Whether the bundle carries the sampler as a .tflite file too.
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
        if schema.sequence is not None and not schema.sequence.columns:
            if epsilon is not None and schema.sequence.every is None:
                raise SchemaError(
                    "epsilon is set and the schema's sequence has no every: without a grid one row "
                    "more would move all windows behind it; declare order and every"
                )
            # Under privacy a row may be in one window only.
            table = to_windows(table, overlapping=epsilon is None).table
            schema = table.schema
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
            tflite=tflite,
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
            Column names and the values they must have, e.g. ``{"late": True}``; a number stands
            for its whole bin. Columns at the front (conditions are) are set, others met by
            rejection. Where rows are rejected, the share that was accepted is the `acceptance` of
            the table's mark, ``table.synthetic``.
        seed : int
            The same seed gives the same rows, whatever the batch size, engine threads or machine.

        Raises
        ------
        SamplingError
            When rows that meet `where` and the schema's constraints are too rare to be found by
            rejection.
        """
        drawing = self.sample_blocks(rows, where=where, seed=seed)
        table = Table.concat(list(drawing))
        if drawing.acceptance is not None and table.synthetic is not None:
            return table.marked({**table.synthetic, "acceptance": drawing.acceptance})
        return table

    def sample_blocks(
        self, rows: int, *, where: Mapping[str, object] | None = None, seed: int = 0
    ) -> Drawing:
        """Draw rows in blocks of bounded memory; the blocks together are `sample`'s rows.

        The result is an iterator of tables that counts what it draws: see `Drawing`.
        """
        where = where or {}
        return Drawing(
            self.bundle,
            self._open(),
            rows=rows,
            key=hashlib.sha256(b"edge-runtime sample" + str(seed).encode()).digest(),
            wished=self._wished(where),
            wish=", ".join(f"{name}={value!r}" for name, value in where.items()),
            mark=self._mark,
        )

    def sample_series(
        self,
        series: int,
        length: int,
        *,
        where: Mapping[str, object] | None = None,
        seed: int = 0,
    ) -> Table:
        """Draw series of rows from a generator whose schema declares a sequence.

        Parameters
        ----------
        series, length : int
            How many, and rows of each.
        where : mapping, optional
            Values that static columns must have.
        seed : int
            The same seed gives the same series, whatever their number.

        Returns
        -------
        Table
            With the number of the series and of the step; series one after the other.

        Raises
        ------
        SamplingError
            See `edge_runtime.generator.roll`; or the bundle is a packed graph.
        """
        bundle, engine = self._trained("sampling series"), self._open()
        assert not isinstance(engine, GraphEngine), "it runs a packed graph only"
        return roll(
            bundle,
            engine,
            series=series,
            length=length,
            key=hashlib.sha256(b"edge-runtime series" + str(seed).encode()).digest(),
            wished=self._wished(where or {}),
        ).marked(self._mark)

    def _open(self) -> Engine | GraphEngine:
        if self._engine is None:
            name, threads = self._engine_name, self._threads
            if isinstance(self.bundle, GraphBundle):
                self._engine = open_graph(self.bundle, engine=name, threads=threads)
            else:
                self._engine = open_engine(self.bundle, engine=name, threads=threads)
        return self._engine

    def impute(
        self, frame: Source | Table, *, draws: int = 0, seed: int = 0, first: int = 0
    ) -> Imputation:
        """Fill the missing cells of given rows.

        Parameters
        ----------
        frame : object
            As for `fit`; any cell may be missing. The cells that are there stay as they are.
        draws : int
            0 fills in the most likely category or the median number. With n > 0 there are n
            tables, each drawn given what is known: their spread says how sure the values are.
        seed : int
            The same seed fills a row in the same way, wherever it is done.
        first : int
            Number of the first row, so that rows filled in parts equal rows filled at once.

        Returns
        -------
        Imputation
            Its tables are marked as synthetic: do not learn from them.

        Raises
        ------
        DataError
            When a value contradicts the schema.
        SamplingError
            For a packed graph, or a negative number of draws.
        """
        bundle = self._trained("imputing")
        table = read_open(frame, self.schema)
        key = hashlib.sha256(b"edge-runtime impute" + str(seed).encode()).digest()
        made = impute(bundle, table, draws=draws, key=key, first=first)
        mark = {**self._mark, "imputed": made.cells}
        return made._replace(tables=[filled.marked(mark) for filled in made.tables])

    @property
    def _mark(self) -> dict[str, Any]:
        """What the mark of sampled rows says."""
        return {"bundle": self.bundle.digest, "depth": self.bundle.lineage.depth}

    def _wished(self, where: Mapping[str, object]) -> dict[int, int]:
        """Codes that columns must have."""
        wished: dict[int, int] = {}
        for name, value in where.items():
            if name not in self.schema.names:
                raise SamplingError(
                    f"no column {name!r}; the bundle has {', '.join(self.schema.names)}"
                )
            column = self.schema.names.index(name)
            wished[column] = self.bundle.codec.code_of(column, value)
        return wished

    def _trained(self, what: str) -> Bundle:
        """Return the bundle where it has weights that say how likely a row is."""
        if isinstance(self.bundle, GraphBundle):
            raise SamplingError(
                f"{what} needs the network's distribution of a column given others, which a "
                "packed graph does not tell: take a bundle that was fitted here, or draw rows "
                "and choose among them"
            )
        return self.bundle


def _silent(_phase: str, _share: float) -> None:
    """Stand in for a progress callback."""
