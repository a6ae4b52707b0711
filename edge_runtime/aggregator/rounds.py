"""What an aggregator does in a round, without link, threads or clock.

`Service` drives it from MQTT and the wall clock, the fleet's simulation from a loop. Whoever
drives it, the order is the same: `step` says what is due, `fuse` makes a result, `settle` commits
it, `adopt` takes up what is in force then, and only after that the round is closed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from edge_runtime.aggregator.advice import give_advice
from edge_runtime.aggregator.anchor import census_anchor
from edge_runtime.aggregator.config import AggregatorConfig
from edge_runtime.aggregator.fusion import Outcome, first_generator, next_generator
from edge_runtime.aggregator.guard.gate import Gate
from edge_runtime.aggregator.guard.review import assess, review
from edge_runtime.aggregator.guard.rollback import rollback
from edge_runtime.aggregator.inbox import Inbox
from edge_runtime.aggregator.opening import create_workspace
from edge_runtime.aggregator.packed import serve_packed
from edge_runtime.aggregator.planner import Planner, Step
from edge_runtime.aggregator.quarantine import Quarantine
from edge_runtime.errors import CatalogueError, EdgeRuntimeError
from edge_runtime.generator import Bundle, GraphBundle
from edge_runtime.messages import Alarm, Alarms, DeviceState

__all__ = ["Rounds"]

_LOG = logging.getLogger(__name__)


class Rounds:
    """One fleet's inbox, planner and fusion over one data directory.

    Parameters
    ----------
    config : AggregatorConfig
        From `load_config`; the caller holds the data directory.

    Raises
    ------
    AggregatorError
        If the data directory belongs to another fleet.
    """

    def __init__(self, config: AggregatorConfig) -> None:
        self._config = config
        self.workspace = create_workspace(config)
        self.catalogue = self.workspace.catalogue
        self.planner = Planner(
            config=config, schema=self.workspace.schema, catalogue=self.catalogue
        )
        self._gate = Gate(self.workspace)
        self.inbox = Inbox(
            data_dir=config.data_dir,
            fleet=config.fleet.name,
            schema=self.workspace.schema,
            catalogue=self.catalogue,
            pool=self.workspace.pool,
            quarantine=Quarantine(config.data_dir, max_bytes=config.limits.quarantine_bytes),
            max_rows=config.rows.maximum,
            gate=self._gate,
        )
        swept = self.workspace.pool.sweep(self.catalogue.paths(kind="batch"))
        if swept:
            _LOG.info("removed %d files that were written but never committed", swept)
        #: what the guard has found in the round that is being fused
        self._found: list[Alarm] = []
        #: the generator in force; None before the census is fused and beside a packed graph
        self.bundle: Bundle | None = None
        #: the graph that is served instead
        self.packed: GraphBundle | None = None

    def close(self) -> None:
        """Close the catalogue."""
        self.workspace.close()

    def restore(self) -> None:
        """Take up the generator in force, as it was before a restart."""
        if self._config.bundle.packed:
            self.packed = serve_packed(self.workspace, self._config.bundle.packed)
            self.inbox.use_codec(self.packed.codec)
            return
        bundle = self.workspace.bundle()
        if bundle is not None:
            self.bundle = bundle
            self.inbox.use_codec(bundle.codec, bundle.layout)

    @property
    def digest(self) -> str:
        """Digest of what devices are given, empty before there is anything."""
        given = self.packed or self.bundle
        return "" if given is None else given.digest

    def step(self, *, now_unix_s: float, states: Mapping[str, DeviceState]) -> Step:
        """Look at the fleet and move on if something is due; see `Planner.step`."""
        return self.planner.step(
            now_unix_s=now_unix_s,
            states=states,
            bundle_digest=self.digest or None,
        )

    def fuse(
        self,
        number: int,
        *,
        should_stop: Callable[[], bool],
        on_progress: Callable[[float], None],
    ) -> Outcome | Bundle:
        """Make the first generator (round 0) or a judged candidate.

        Before, the guard sets aside what the round's answers show to be wrong, and takes back a
        generator that their scores show to be worse than an earlier one. The result itself is
        not committed.

        Raises
        ------
        AggregatorError, TrainingError
            As `fusion.first_generator` and `fusion.next_generator`.
        """
        workspace = self.workspace
        privacy = workspace.privacy()
        if number == 0:
            return first_generator(
                workspace.censuses(),
                schema=workspace.schema,
                config=self._config,
                privacy=privacy,
            )
        current = self.bundle
        assert current is not None
        self._found = review(workspace, self._gate, current.codec, number)
        if self._roll_back(number):
            current = workspace.bundle()
            assert current is not None
        anchor = workspace.anchor(current)
        reference = anchor or census_anchor(current.codec, workspace.censuses())
        return next_generator(
            current=current,
            pool=workspace.pool_rows(),
            rows_of=workspace.rows_of_devices(current),
            anchor=anchor,
            moments=workspace.moments(current),
            reference=reference,
            round_number=number,
            config=self._config,
            privacy=privacy,
            should_stop=should_stop,
            on_progress=on_progress,
            updates=workspace.updates(current),
            state=workspace.state(current),
        )

    def already_made(self, number: int) -> str | None:
        """Reason of the generator that a round has made before a crash; None if it made none."""
        made = [b for b in self.catalogue.bundles(status=None) if b.round == number]
        return made[-1].reason if made else None

    def settle(self, number: int, result: Outcome | Bundle) -> str:
        """Commit what a fusion has made; what became of it, for people.

        The round itself is closed by the caller, after `adopt`.
        """
        if isinstance(result, Bundle):
            self.workspace.add_bundle(result, status="published", reason="")
            return f"bundle {result.digest[:12]} from the census"
        verdict = result.verdict
        self.workspace.add_bundle(
            result.bundle,
            status="published" if verdict.accepted else "rejected",
            reason=verdict.reason,
            state=result.state,
        )
        if verdict.accepted:
            return f"bundle {result.bundle.digest[:12]} published"
        return f"candidate rejected: {verdict.reason}{self._roll_back(number, rejected=True)}"

    def adopt(self, number: int) -> Alarms:
        """Take up the generator in force after a fusion, and say what is wrong with it."""
        self.restore()
        assert self.bundle is not None
        give_advice(self.workspace, self.bundle, self._config)
        return assess(self.workspace, self.bundle, round_number=number, found=self._found)

    def _roll_back(self, number: int, *, rejected: bool = False) -> str:
        """Return to the best bundle if the guard says so; what was done, for people."""
        back = rollback(self.workspace, round_number=number, rejected=rejected)
        if back is None:
            return ""
        self._found += back.alarms
        if not back.withdrawn:
            return f"; {back.reason}"
        text = f"; rolled back to bundle {back.best[:12]}: {back.reason}"
        _LOG.error("round %d%s", number, text)
        return text

    def without(self, number: int, error: EdgeRuntimeError, *, now_unix_s: float) -> str:
        """Close a round whose fusion has failed, and say so.

        Raises
        ------
        EdgeRuntimeError
            `error`, for the census: without a first generator there are no further rounds. And
            where the catalogue has failed: the round is fused again once it answers.
        """
        if number == 0 or isinstance(error, CatalogueError):
            raise error
        reason = f"no new generator: {error}"
        _LOG.error("round %d: %s", number, reason)
        self.planner.close(number, now_unix_s=now_unix_s, reason=reason)
        return reason
