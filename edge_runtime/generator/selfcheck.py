"""Weights that were just trained are tried before anything is drawn from them.

What is tried depends on the weights alone, never on a real row.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from edge_runtime.errors import EngineError
from edge_runtime.generator.bundle import Bundle
from edge_runtime.generator.engine import Engine, open_engine
from edge_runtime.generator.layout import Layout, Weights
from edge_runtime.generator.public_noise import Uniforms
from edge_runtime.generator.quantize import Quantised, quantize
from edge_runtime.generator.reference import check_codes, nll, sample

__all__ = ["Health", "Opened", "open_checked", "self_check"]

#: Rows drawn for the check: 20 ms on a small board.
_ROWS = 256
#: The mean likelihood of an engine's rows may differ by chance, 5 standard errors, and by what int8
#: costs, measured at .0005 nats for 8 columns (docs/bundle.md) and allowed 40 times that.
_STANDARD_ERRORS = 5.0
_NATS_PER_COLUMN = 0.0025


class Health(NamedTuple):
    """What a check found: rows drawn and their mean negative log-likelihood, in nats per row.

    `expected_nll` is that of rows which the float network drew itself from the same noise.
    """

    rows: int
    nll: float
    expected_nll: float


class Opened(NamedTuple):
    """A checked engine.

    `own` says whether it runs the weights asked for, `worst_error` how far their int8 form is off
    (in nats, see `Quantised`), and `reason` what was wrong with them otherwise.
    """

    engine: Engine
    own: bool
    worst_error: float
    reason: str


def self_check(engine: Engine, weights: Weights, *, rows: int = _ROWS, seed: int = 0) -> Health:
    """Draw rows from public noise and hold them against the float weights.

    Parameters
    ----------
    engine : Engine
        Runs the int8 form of `weights`.
    weights : Weights
    rows : int
    seed : int
        Of the noise.

    Raises
    ------
    EngineError
        If a code lies outside its column, a clamped code is not kept, or the rows are not as
        likely as those that the float network draws.
    """
    layout = engine.layout
    noise = Uniforms(seed).draw(rows, layout.columns)
    # Every third row asks for a code of the first column, as devices do.
    asked = np.arange(rows) % layout.cardinalities[0]
    noise[::3, 0] = 1 + asked[::3]
    codes = engine.generate(noise)
    check_codes(codes, layout)
    if (codes[::3, 0] != asked[::3]).any():
        raise EngineError(f"engine {engine.name} does not keep the codes it is asked for")
    drawn = nll(weights, layout, codes)
    expected = nll(weights, layout, sample(weights, layout, noise))
    difference = drawn - expected
    if not np.isfinite(difference).all():
        raise EngineError("the likelihood of rows is not a finite number")
    allowed = _NATS_PER_COLUMN * layout.columns
    allowed += _STANDARD_ERRORS * float(difference.std()) / np.sqrt(rows)
    if abs(difference.mean()) > allowed:
        raise EngineError(
            f"rows of engine {engine.name} have a negative log-likelihood of {drawn.mean():.4g} "
            f"nats where {expected.mean():.4g} is expected (within {allowed:.2g})"
        )
    return Health(rows, float(drawn.mean()), float(expected.mean()))


def open_checked(
    bundle: Bundle, weights: Weights, *, engine: str = "auto", threads: int = 1
) -> Opened:
    """Open own weights, or the bundle's where those fail their check.

    Parameters
    ----------
    bundle : Bundle
        Its graphs run the weights; its own weights are the way back.
    weights : Weights
        Locally trained.
    engine, threads
        As `open_engine`.

    Raises
    ------
    EngineError
        If the bundle's own weights fail as well: then it is not the weights.
    MissingExtraError
        If the engine's package is not installed.
    """
    try:
        # Weights of any size may come here; what overflows is found below.
        with np.errstate(over="ignore", invalid="ignore"):
            own = replace(bundle, weights=weights, quantised=_quantised(weights, bundle.layout))
            return Opened(_checked(own, engine, threads), True, own.quantised.worst_error, "")
    except EngineError as error:
        reason = error.public
    return Opened(_checked(bundle, engine, threads), False, bundle.quantised.worst_error, reason)


def _checked(bundle: Bundle, name: str, threads: int) -> Engine:
    engine = open_engine(bundle, engine=name, threads=threads)
    try:
        self_check(engine, bundle.weights)
    except EngineError:
        engine.close()
        raise
    return engine


def _quantised(weights: Weights, layout: Layout) -> Quantised:
    quantised = quantize(weights, layout)
    if not np.isfinite(quantised.worst_error):
        raise EngineError("the logits of some rows are not finite numbers")
    return quantised
