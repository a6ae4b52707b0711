"""Two questions about bundles: does one hold together, and how do two differ."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EdgeRuntimeError, EngineError
from edge_runtime.generator.bundle import Bundle
from edge_runtime.generator.engine import available_engines, open_engine
from edge_runtime.generator.graph_bundle import GraphBundle
from edge_runtime.generator.graph_engine import open_graph
from edge_runtime.generator.graph_trial import try_graph
from edge_runtime.generator.layout import I32
from edge_runtime.generator.reference import nll
from edge_runtime.generator.sampler import sample_codes
from edge_runtime.generator.selfcheck import self_check

__all__ = ["Check", "diff_bundles", "verify_bundle"]

_ROWS = 20_000
#: What engines promise each other (docs/engines.md).
_LEAST_AGREEMENT = 0.999
_KEY = b"edge-runtime compares bundles ok"


class Check(NamedTuple):
    """One thing that was looked at; `found` is for people."""

    name: str
    fine: bool
    found: str


def verify_bundle(bundle: Bundle | GraphBundle) -> list[Check]:
    """Run a bundle in every engine that is installed and hold the engines to each other.

    What reading has checked already (digests, sizes, shapes) is not repeated.

    Returns
    -------
    list of Check
    """
    if isinstance(bundle, GraphBundle):
        return [_attempt(f"engine {bundle.runtime}", partial(_tried, bundle))]
    codes = sample_codes(open_engine(bundle, engine="numpy"), _ROWS, key=_KEY)
    checks = []
    for name in available_engines():
        if name == "tflite" and bundle.tflite is None:
            checks.append(Check("engine tflite", True, "not looked at: no .tflite file in it"))
        else:
            checks.append(_attempt(f"engine {name}", partial(_run, bundle, name, codes)))
    return checks


def _attempt(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except EdgeRuntimeError as error:
        return Check(name, False, str(error))


def _tried(bundle: GraphBundle) -> str:
    trial = try_graph(bundle)
    return (
        f"{trial.distinct} different rows among {trial.rows}; {trial.agreement:.2%} of the codes "
        "do not depend on other rows"
    )


def _run(bundle: Bundle, name: str, expected: I32) -> str:
    engine = open_engine(bundle, engine=name)
    try:
        health = self_check(engine, bundle.weights)
        same = float((sample_codes(engine, len(expected), key=_KEY) == expected).mean())
    finally:
        engine.close()
    if same < _LEAST_AGREEMENT:
        raise EngineError(f"only {same:.3%} of the codes are those of engine numpy")
    return (
        f"{health.nll:.4g} nats a row where {health.expected_nll:.4g} is expected; "
        f"{same:.3%} of the codes are those of engine numpy"
    )


def diff_bundles(old: Bundle | GraphBundle, new: Bundle | GraphBundle) -> dict[str, Any]:
    """Say what differs; equal parts are left out.

    Returns
    -------
    dict
        ``kind``, ``schema``, ``codec``, ``layout``: old and new. ``lineage``, ``metrics``: old and
        new by name. ``weights``: by tensor, ``largest`` change and ``relative`` change (the norm
        of the change by the norm of the old). ``columns``: total variation distance between rows
        of both, by column. ``nats``: how much less likely, in nats, rows of the old one are under
        the new than under the old.
    """
    found: dict[str, Any] = {}
    if old.digest == new.digest:
        return found

    def note(name: str, a: object, b: object) -> None:
        if a != b:
            found[name] = [a, b]

    note("kind", _kind(old), _kind(new))
    note("schema", old.schema.digest, new.schema.digest)
    note("codec", old.codec.digest, new.codec.digest)
    for name in ("lineage", "metrics"):
        parts = [msgspec.to_builtins(getattr(b, name)) for b in (old, new)]
        changed = {
            key: [part.get(key) for part in parts]
            for key in sorted({*parts[0], *parts[1]})
            if parts[0].get(key) != parts[1].get(key)
        }
        if changed:
            found[name] = changed
    if isinstance(old, Bundle) and isinstance(new, Bundle):
        note("layout", old.layout.to_dict(), new.layout.to_dict())
        note("tflite", old.tflite is not None, new.tflite is not None)
        if old.layout == new.layout:
            found |= _weights(old, new)
    if old.schema.names == new.schema.names and old.codec.cardinalities == new.codec.cardinalities:
        rows = [_rows(bundle) for bundle in (old, new)]
        found["columns"] = {
            name: _distance(a, b, size)
            for name, a, b, size in zip(
                old.schema.names, rows[0].T, rows[1].T, old.codec.cardinalities, strict=True
            )
        }
        if isinstance(old, Bundle) and isinstance(new, Bundle):
            found["nats"] = _nats(new, rows[0]) - _nats(old, rows[0])
    return found


def _kind(bundle: Bundle | GraphBundle) -> str:
    return f"{bundle.runtime} graph" if isinstance(bundle, GraphBundle) else "network"


def _weights(old: Bundle, new: Bundle) -> dict[str, Any]:
    changes = {}
    for name, a, b in zip(old.weights._fields, old.weights, new.weights, strict=True):
        step = (b - a).astype(np.float64)
        if step.any():
            size = float(np.linalg.norm(a.astype(np.float64)))
            changes[name] = {
                "largest": float(np.abs(step).max()),
                "relative": float(np.linalg.norm(step)) / size if size else None,
            }
    return {"weights": changes} if changes else {}


def _rows(bundle: Bundle | GraphBundle) -> I32:
    engine = open_graph(bundle) if isinstance(bundle, GraphBundle) else open_engine(bundle)
    try:
        return sample_codes(engine, _ROWS, key=_KEY)
    finally:
        engine.close()


def _nats(bundle: Bundle, codes: I32) -> float:
    parts = [nll(bundle.weights, bundle.layout, part) for part in np.array_split(codes, 40)]
    return float(np.concatenate(parts).mean())


def _distance(a: npt.NDArray[np.int32], b: npt.NDArray[np.int32], size: int) -> float:
    counts = [np.bincount(codes, minlength=size) / len(codes) for codes in (a, b)]
    return float(np.abs(counts[0] - counts[1]).sum() / 2)
