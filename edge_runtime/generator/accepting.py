"""Rows that meet wishes and keep the constraints of their schema, and how many were drawn for them.

Three ways, from the cheapest: leading columns are forced; columns near the front are drawn from the
network's exact distribution given the wish and the constraints among them, and forced as well;
whatever is left is met by rejection, on codes before anything is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import SamplingError
from edge_runtime.generator.bundle import Bundle
from edge_runtime.generator.conditional import Leading, leading_given, no_leading
from edge_runtime.generator.engine import Engine
from edge_runtime.generator.graph_bundle import GraphBundle
from edge_runtime.generator.graph_engine import GraphEngine
from edge_runtime.generator.layout import I32
from edge_runtime.generator.sampler import sample_codes, sample_table
from edge_runtime.schema import Rules, Table

__all__ = ["Drawing"]

#: rows drawn between two decodings: the codes of one block stay in the cache
_BLOCK_ROWS = 65_536
#: the first block of a rejection, from which the rate is judged
_FIRST_ROWS = 8192
#: rejection gives up once this many rows were drawn per row asked for, but not before
_MOST_DRAWS_PER_ROW, _LEAST_DRAWS = 1_000, 100_000
#: streams of the key: codes, decoding (see `sample_table`), the choice of leading codes
_CODES, _VALUES, _LEADING = 0, 1, 2


class Drawing(Iterator[Table]):
    """Draws rows in blocks of bounded memory; iterate over it once.

    Row i is the same whatever the number of rows, the engine, its threads or the machine.

    Parameters
    ----------
    bundle : Bundle or GraphBundle
        A packed graph draws whole rows: wishes and constraints are met by rejection alone.
    engine : Engine or GraphEngine
        Of the bundle.
    rows : int
        How many.
    key : bytes
        32 public bytes.
    wished : mapping of int to int
        Codes that columns must have.
    wish : str
        The same for people.
    mark : mapping
        What the mark of synthetic rows says.

    Attributes
    ----------
    drawn : int
        Rows drawn so far; 0 where nothing is subject to rejection.
    accepted : int
        Those of them that meet the wishes and keep the constraints.
    """

    def __init__(
        self,
        bundle: Bundle | GraphBundle,
        engine: Engine | GraphEngine,
        *,
        rows: int,
        key: bytes,
        wished: Mapping[int, int],
        wish: str = "",
        mark: Mapping[str, Any],
    ) -> None:
        if rows < 0:
            raise SamplingError(f"cannot draw {rows} rows: ask for 0 or more")
        self.rows = rows
        self.drawn = self.accepted = 0
        self._bundle, self._engine = bundle, engine
        self._key, self._mark, self._wish = key, mark, wish
        self._rules = Rules(bundle.codec)
        self._wished = dict(wished)
        self._leading = self._allowed(_leading(bundle, self._wished))
        forced = self._leading.codes.shape[1]
        computed = self._rules.computed
        # A computed value follows the other columns, not its code: it is looked at in the end.
        self._reject = {c: k for c, k in wished.items() if c >= forced or c in computed}
        self._blocks = self._filtered() if self.rejects else self._plain()

    @property
    def rejects(self) -> bool:
        """Whether some of the rows drawn may be rejected."""
        return bool(self._reject) or self._rules.active

    @property
    def acceptance(self) -> float | None:
        """Share of the rows drawn so far that were accepted; None where none is rejected."""
        return self.accepted / self.drawn if self.drawn else None

    def __next__(self) -> Table:
        return next(self._blocks).marked(self._mark)

    def _allowed(self, leading: Leading) -> Leading:
        """Leave out combinations of leading codes that no later code can make possible."""
        constraints = self._bundle.schema.constraints
        names = set(self._bundle.schema.names[: leading.codes.shape[1]])
        # Only where a constraint is about leading columns alone is its answer final here.
        if not any(set(constraint.columns) <= names for constraint in constraints):
            return leading
        codes = np.zeros((len(leading.codes), len(self._bundle.codec.cardinalities)), np.int32)
        codes[:, : leading.codes.shape[1]] = leading.codes
        possible = self._rules.possible(codes, among=names)
        if not (leading.shares * possible).sum():
            raise SamplingError(
                f"no row {f'with {self._wish} ' if self._wish else ''}can keep the schema's "
                f"constraints ({'; '.join(map(str, constraints))}); ask for something else"
            )
        shares = leading.shares * possible
        return leading._replace(shares=shares / shares.sum())

    def _forced(self, rows: int, offset: int) -> dict[int, I32]:
        """Leading codes of the rows from an offset on."""
        return self._leading.draw(rows, key=self._key, stream=_LEADING, offset=offset)

    def _plain(self) -> Iterator[Table]:
        for start in range(0, max(self.rows, 1), _BLOCK_ROWS):
            block = min(_BLOCK_ROWS, self.rows - start)
            yield sample_table(
                self._engine,
                self._bundle.codec,
                block,
                key=self._key,
                offset=start,
                clamp=self._forced(block, start),
            )

    def _filtered(self) -> Iterator[Table]:
        """Draw until enough rows are accepted."""
        done = survived = 0
        block = _FIRST_ROWS
        while done < self.rows or not self.drawn:
            codes = sample_codes(
                self._engine,
                block,
                key=self._key,
                stream=_CODES,
                offset=self.drawn,
                clamp=self._forced(block, self.drawn),
            )
            self.drawn += block
            codes = np.ascontiguousarray(codes[self._survives(codes)])
            table = self._kept(codes, offset=survived)
            survived += len(codes)
            self.accepted += table.rows
            if table.rows or not self.rows:
                yield table.take(slice(0, self.rows - done))
            done += table.rows
            if done < self.rows:
                self._give_up(done)
                block = _BLOCK_ROWS

    def _survives(self, codes: I32) -> npt.NDArray[np.bool_]:
        kept = self._rules.possible(codes, wished=self._reject)
        for column, code in self._reject.items():
            if column not in self._rules.computed:
                kept &= codes[:, column] == code
        return kept

    def _kept(self, codes: I32, *, offset: int) -> Table:
        table, _ = self._rules.decode(codes, key=self._key, stream=_VALUES, offset=offset)
        met = np.ones(table.rows, np.bool_)
        for column in self._reject.keys() & set(self._rules.computed):
            name = self._bundle.schema.names[column]
            values = table.columns[name].astype(np.float64)
            found, _ = self._bundle.codec.bins[name].encode(values, table.missing[name])
            met &= found == self._reject[column]
        return table if met.all() else table.take(met)

    def _give_up(self, done: int) -> None:
        limit = max(_LEAST_DRAWS, _MOST_DRAWS_PER_ROW * self.rows)
        # Once it is clear that the limit comes first, there is no point in drawing up to it.
        hopeless = self.drawn >= _LEAST_DRAWS and done * limit < self.rows * self.drawn / 2
        if self.drawn < limit and not hopeless:
            return
        asked = [f"meet {self._wish}"] if self._reject else []
        asked += ["keep the schema's constraints"] if self._rules.active else []
        ways = []
        if self._reject:
            ways.append(
                "declare the column as a condition in the schema, first of all, and fit again, or "
                "ask for less"
            )
        if self._rules.active:
            ways.append(
                "hold the real rows against the constraints ("
                f"{'; '.join(map(str, self._bundle.schema.constraints))}), train longer, or loosen "
                "them"
            )
        raise SamplingError(
            f"{self.accepted} of {self.drawn:,} rows drawn ({self.accepted / self.drawn:.2g}) "
            f"{' and '.join(asked)}; that is too rare for the {self.rows:,} asked for: "
            f"{'; or '.join(ways)}"
        )


def _leading(bundle: Bundle | GraphBundle, wished: Mapping[int, int]) -> Leading:
    if isinstance(bundle, GraphBundle):
        return no_leading()
    index = bundle.schema.index
    return leading_given(
        bundle.quantised.tensors,
        bundle.layout,
        wished,
        reach=[max(map(index, c.columns)) for c in bundle.schema.constraints],
    )
