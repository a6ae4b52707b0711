"""The public `Generator`: fit on a table, sample, save, load.

Everything a single machine needs in four verbs; a fleet does the same through `device` and
`aggregator`, from the same parts.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import SamplingError, SchemaError
from edge_runtime.generator import (
    Bundle,
    Engine,
    GraphBundle,
    GraphEngine,
    Layout,
    Lineage,
    Weights,
    build_bundle,
    initial_weights,
    load_bundle,
    open_engine,
    open_graph,
    sample_codes,
    sample_table,
)
from edge_runtime.kernel import PrivacyNoise
from edge_runtime.privacy import (
    Ledger,
    calibrate_counts,
    rdp_gaussian,
    release_counts,
    round_sigma,
)
from edge_runtime.schema import (
    Census,
    Codec,
    Schema,
    Table,
    census_counts,
    infer_schema,
    read_table,
)
from edge_runtime.schema.sources import Source
from edge_runtime.training import (
    TrainSettings,
    calibrate_settings,
    make_step,
    release_cost,
    train,
    train_private,
)

__all__ = ["Generator"]

#: Share of the budget (in Renyi divergence) for the noisy histograms behind the bins.
CENSUS_SHARE = 0.1
#: Rows drawn between two decodings: the codes of one block stay in the cache.
BLOCK_ROWS = 65_536
#: Rejection sampling gives up once this many rows were drawn per row asked for.
MAX_DRAWS_PER_ROW = 1_000


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    codec: Codec
    layout: Layout
    weights: Weights
    rows: float
    privacy: dict[str, Any]
    metrics: dict[str, Any]


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
        on_progress: Callable[[str, float], None] | None = None,
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
        if epsilon is None:
            fitted = _fit_open(table, schema, hidden=hidden, epochs=epochs, seed=seed, tell=tell)
        else:
            fitted = _fit_private(
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
            self._engine = _open(self.bundle, self._engine_name, self._threads)
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
        if isinstance(self.bundle, GraphBundle):
            return clamp, wished
        # Only an unbroken run of columns from the first one conditions all that follow.
        for column in range(len(self.schema.names)):
            if column not in wished:
                break
            clamp[column] = wished.pop(column)
        return clamp, wished


def _open(bundle: Bundle | GraphBundle, engine: str, threads: int) -> Engine | GraphEngine:
    if isinstance(bundle, GraphBundle):
        return open_graph(bundle, engine=engine, threads=threads)
    return open_engine(bundle, engine=engine, threads=threads)


def _repeated(clamp: Mapping[int, int], rows: int) -> dict[int, NDArray[np.int32]]:
    return {column: np.full(rows, code, np.int32) for column, code in clamp.items()}


def _silent(_phase: str, _share: float) -> None:
    """Stand in for a progress callback."""


def _fit_open(
    table: Table,
    schema: Schema,
    *,
    hidden: int,
    epochs: int,
    seed: int,
    tell: Callable[[str, float], None],
) -> _Fitted:
    codec = Codec.fit(table, schema)
    codes = codec.encode(table).codes
    layout = Layout(codec.cardinalities, hidden)
    counts = [
        np.bincount(column, minlength=k)
        for column, k in zip(codes.T, codec.cardinalities, strict=True)
    ]
    order = np.random.default_rng(seed).permutation(len(codes))
    held = order[: min(len(order) // 10, 5_000)]
    weights, history = train(
        initial_weights(layout, seed=seed, marginals=[c.astype(np.float64) for c in counts]),
        np.ascontiguousarray(codes[order[len(held) :]]),
        layout=layout,
        epochs=epochs,
        validation=np.ascontiguousarray(codes[held]) if len(held) else None,
        seed=seed,
        on_progress=lambda step, steps: tell("training", step / steps),
    )
    best = history.epochs[history.best_epoch - 1]
    return _Fitted(
        codec=codec,
        layout=layout,
        weights=weights,
        rows=float(len(codes)),
        privacy={"epsilon": None, "delta": None, "unit": schema.privacy_unit},
        metrics={} if best.validation is None else {"validation_nll": best.validation},
    )


def _fit_private(
    table: Table,
    schema: Schema,
    *,
    hidden: int,
    epochs: int,
    seed: int,
    tell: Callable[[str, float], None],
    epsilon: float,
    delta: float,
) -> _Fitted:
    noise = PrivacyNoise()
    ledger = Ledger(sqlite3.connect(":memory:"), epsilon_limit=epsilon, delta=delta)
    census = _census(table, schema, ledger=ledger, noise=noise, epsilon=epsilon, delta=delta)
    codec = Codec.from_census(schema, census)
    layout = Layout(codec.cardinalities, hidden)
    # A twentieth of the rows averages the noise out well; more than 512 rows only cost time.
    batch = int(np.clip(census.rows / 20, 64, 512))
    steps = int(np.clip(min(epochs, 20) * census.rows / batch, 200, 2_000))
    settings = calibrate_settings(
        TrainSettings(
            steps=steps,
            expected_batch=batch,
            clip_norm=1.0,
            learning_rate=1e-2,
            noise_multiplier=1.0,
        ),
        rows_public=census.rows,
        parameters=layout.parameters,
        spent=ledger.rdp_spent(),
        epsilon=epsilon,
        delta=delta,
    )
    entry = ledger.spend(
        key="train",
        what="training",
        rdp=release_cost(settings, census.rows, layout.parameters),
        details={"steps": steps},
    )
    weights = train_private(
        initial_weights(layout, seed=seed, marginals=codec.code_counts(census)),
        codec.encode(table).codes,
        layout=layout,
        settings=settings,
        rows_public=census.rows,
        entry=entry,
        noise=noise,
        step=make_step(layout),
        on_progress=lambda step, steps: tell("training", step / steps),
    )
    assert weights is not None, "nothing stops this run early"
    return _Fitted(
        codec=codec,
        layout=layout,
        weights=weights,
        rows=census.rows,
        privacy={
            "epsilon": ledger.epsilon_spent(),
            "delta": delta,
            "unit": schema.privacy_unit,
        },
        metrics={},
    )


def _census(
    table: Table,
    schema: Schema,
    *,
    ledger: Ledger,
    noise: PrivacyNoise,
    epsilon: float,
    delta: float,
) -> Census:
    width = len(schema.columns)
    sigma = round_sigma(
        calibrate_counts(
            epsilon=epsilon, delta=delta, sensitivity_squared=width, share=CENSUS_SHARE
        )
    )
    entry = ledger.spend(
        key="census",
        what="histograms of every column",
        rdp=rdp_gaussian(float(sigma) / math.sqrt(width)),
        details={"sigma": str(sigma)},
    )
    noisy = release_counts(
        entry,
        {str(column): cells for column, cells in enumerate(census_counts(table, schema))},
        sensitivity_squared=width,
        sigma=sigma,
        noise=noise,
    )
    return Census.of([noisy[str(column)] for column in range(width)], sigma=float(sigma))
