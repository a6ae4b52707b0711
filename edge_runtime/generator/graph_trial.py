"""Tries a packed graph before anybody else does, in a process of its own.

A graph that was damaged or made for another runtime may end the process that runs it; then only
the trial ends.
"""

from __future__ import annotations

import math
import sys
import time

import msgspec
import numpy as np

from edge_runtime.errors import EdgeRuntimeError, EngineError
from edge_runtime.generator.graph_bundle import GraphBundle
from edge_runtime.generator.graph_engine import open_graph

__all__ = ["Trial", "try_graph"]

_ROWS = 1024
#: Where a piece is drawn again, alone: not at a border of blocks.
_PIECE = (100, 107)
#: Integer arithmetic whose scales follow the batch changes some codes with it; more than this means
#: that rows depend on each other.
_LEAST_AGREEMENT = 0.95
_TIMEOUT_S = 120.0
_CHILD = "from edge_runtime.generator.graph_trial import child; child()"


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a trial found.

    Attributes
    ----------
    rows : int
        Rows drawn.
    distinct : int
        Different rows among them.
    agreement : float
        Share of codes that are the same when a row is drawn beside other rows.
    thousand_rows_per_s : float
    """

    rows: int
    distinct: int
    agreement: float
    thousand_rows_per_s: float


def try_graph(bundle: GraphBundle, *, timeout_s: float = _TIMEOUT_S) -> Trial:
    """Run the graph and hold it to the contract.

    Raises
    ------
    EngineError
        If it does not honour the contract, or ends or stalls the process that runs it.
    """
    import subprocess  # noqa: PLC0415 - a device of plain bundles does without

    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, a constant program
            [sys.executable, "-c", _CHILD],
            input=bundle.to_bytes(),
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"the graph did not finish {_ROWS} rows in {timeout_s:.0f} s") from error
    if done.returncode < 0:
        raise EngineError(
            f"the graph ended the process that ran it (signal {-done.returncode}); is the file "
            f"damaged, or made for another version of {bundle.runtime}?"
        )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise EngineError(f"the graph could not be tried: {' '.join(last)}")
    result = msgspec.json.decode(done.stdout.splitlines()[-1], type=dict[str, str | Trial])
    error_text, trial = result.get("error"), result.get("trial")
    if not isinstance(trial, Trial):
        raise EngineError(str(error_text))
    return trial


def child() -> None:
    """Try the bundle on standard input and print the result; run by `try_graph` alone."""
    bundle = GraphBundle.from_bytes(sys.stdin.buffer.read())
    try:
        result: dict[str, str | Trial] = {"trial": _run(bundle)}
    except EdgeRuntimeError as error:
        result = {"error": str(error)}
    sys.stdout.write("\n" + msgspec.json.encode(result).decode() + "\n")


def _run(bundle: GraphBundle) -> Trial:
    engine = open_graph(bundle)
    codes = engine.draw(_ROWS, key=bytes(32))
    start = time.perf_counter()
    again = engine.draw(_ROWS, key=bytes(32))
    seconds = time.perf_counter() - start
    if not np.array_equal(codes, again):
        raise EngineError("the graph gives other rows for the same noise: it must not be random")
    first, end = _PIECE
    piece = engine.draw(end - first, key=bytes(32), offset=first)
    agreement = float((piece == codes[first:end]).mean())
    if agreement < _LEAST_AGREEMENT:
        raise EngineError(
            f"only {agreement:.0%} of the codes stay the same when rows are drawn beside others: "
            "a row must depend on its own noise alone"
        )
    distinct = len(np.unique(codes, axis=0))
    if distinct == 1 and math.prod(engine.cardinalities) > 1:
        raise EngineError(f"all of {_ROWS} rows are the same: does the graph use its noise?")
    return Trial(
        rows=_ROWS,
        distinct=distinct,
        agreement=agreement,
        thousand_rows_per_s=_ROWS / seconds / 1e3,
    )
