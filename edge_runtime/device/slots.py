"""Two slots for bundles: the one in use, and the one to go back to.

A bundle that a plan names for the first time is on trial: it is loaded, its engine held against the
float weights, a first batch drawn and turned into values. Only then does it take the first slot, in
one transaction, and what was there moves to the second. Each trial is counted before it begins, so
that a bundle which takes the whole process down with it is given up as well.
"""

from __future__ import annotations

import logging

import msgspec

from edge_runtime import __version__
from edge_runtime.device.bench import Bench
from edge_runtime.device.store import Store
from edge_runtime.errors import (
    BundleError,
    EdgeRuntimeError,
    EngineError,
    MissingExtraError,
    StoreError,
)
from edge_runtime.generator import (
    Bundle,
    Engine,
    GraphBundle,
    GraphEngine,
    open_engine,
    open_graph,
    sample_codes,
)
from edge_runtime.generator.selfcheck import self_check

__all__ = ["Slots", "load_slots", "show_slots", "take_bundle"]

_LOG = logging.getLogger(__name__)

_KEY = "bundle.slots"
#: Trials that may end without a result: power is also cut for other reasons.
_TRIALS = 3
#: refused bundles that are remembered
_REFUSED = 8
#: rows of the first batch, and their public noise: the same trial everywhere
_ROWS, _KEY_OF_TRIAL = 256, bytes(32)


class Slots(msgspec.Struct, frozen=True, kw_only=True):
    """Which bundles are where, by digest.

    Parameters
    ----------
    current, previous : str
        In use, and to go back to; empty before the first.
    refused : dict of str to str
        Bundles that have failed, and why.
    software : str
        The release that has tried them: another one tries again.
    """

    current: str = ""
    previous: str = ""
    refused: dict[str, str] = {}
    software: str = __version__

    @property
    def kept(self) -> set[str]:
        """Bundles whose files must stay."""
        return {self.current, self.previous} - {""}


def load_slots(store: Store) -> Slots:
    """Read the slots."""
    data = store.get(_KEY)
    slots = Slots() if data is None else msgspec.json.decode(data, type=Slots)
    if slots.software != __version__:
        return Slots(current=slots.current, previous=slots.previous)
    return slots


def take_bundle(bench: Bench, digest: str) -> Bundle | GraphBundle | None:
    """Return the bundle that a plan names, once it has proved itself; None when it is not here.

    Raises
    ------
    BundleError
        It has failed, now or before. What was in use before is in use still.
    StoreError
        The disk refuses.
    """
    slots = load_slots(bench.store)
    if digest in slots.refused:
        raise BundleError(f"bundle {digest[:12]} failed its trial: {slots.refused[digest]}")
    if not bench.bundles.has(digest):
        return None
    if digest == slots.current:
        bench.bundles.end_trial(digest)  # where the agent ended just after the switch
        return bench.bundles.load(digest)
    trials = bench.bundles.begin_trial(digest)
    try:
        if trials > _TRIALS:
            raise BundleError(f"the agent ended {_TRIALS} times while it was tried")
        bundle = bench.bundles.load(digest)
        if bundle is not None:
            _try(bench, bundle)
            slots = Slots(current=digest, previous=slots.current, refused=slots.refused)
            _put(bench, slots)
            bench.bundles.prune(but=slots.kept)
    except (StoreError, MissingExtraError):
        # Nothing was found out about the bundle.
        bench.bundles.end_trial(digest)
        raise
    except EdgeRuntimeError as error:
        back = slots.current[:12] or "none"
        _LOG.error("bundle %s failed its trial, back to %s: %s", digest[:12], back, error.public)
        refused = dict(list(slots.refused.items())[1 - _REFUSED :]) | {digest: error.public}
        _put(bench, msgspec.structs.replace(slots, refused=refused))
        bench.bundles.remove(digest)
        bench.bundles.end_trial(digest)
        raise BundleError(f"bundle {digest[:12]} failed its trial: {error.public}") from error
    bench.bundles.end_trial(digest)
    return bundle


def show_slots(bench: Bench) -> None:
    """Bring the slots into the reported state."""
    slots = load_slots(bench.store)
    bench.reporter.set(bundle=slots.current, previous_bundle=slots.previous)


def _put(bench: Bench, slots: Slots) -> None:
    bench.store.put(_KEY, msgspec.json.encode(slots))
    show_slots(bench)


def _try(bench: Bench, bundle: Bundle | GraphBundle) -> None:
    """Run a bundle's engine, check it, draw a first batch and turn it into values.

    Raises
    ------
    EngineError, RangeError, ShapeError
        Something of that does not work.
    MissingExtraError
        The engine of a packed graph is not installed, which is not the bundle's fault.
    """
    engine = _open(bench, bundle)
    try:
        if isinstance(bundle, Bundle) and not isinstance(engine, GraphEngine):
            self_check(engine, bundle.weights, rows=_ROWS)
        codes = sample_codes(engine, _ROWS, key=_KEY_OF_TRIAL)
    finally:
        engine.close()
    bundle.codec.decode(codes, key=_KEY_OF_TRIAL)


def _open(bench: Bench, bundle: Bundle | GraphBundle) -> Engine | GraphEngine:
    config = bench.config.engine
    if isinstance(bundle, GraphBundle):
        return open_graph(bundle, threads=config.threads)
    try:
        return open_engine(bundle, engine=config.name, threads=config.threads)
    except (EngineError, MissingExtraError):
        # A device may be set up for another engine than the bundle is for: plans that draw rows
        # are declined then, others need none. Any engine tells whether the bundle works.
        return open_engine(bundle, engine="auto", threads=config.threads)
