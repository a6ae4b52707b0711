"""The planner: what the fleet is asked for next. A state machine over the catalogue, no clock.

```
waiting --quorum online--> round 0 (census) open --answered--> fusing --> closed
                           round 1..count   open --answered--> fusing --> closed ... done
```
A fleet that is given a packed graph (`bundle.packed`) has no census and no fusion: its rounds, from
1 on, ask for rows and are closed once they are answered.

A round is committed before its plan is published and every transition is in the catalogue, so a
restarted aggregator goes on where it was: an open round keeps its plan and its start, a round
that was fusing is fused again from the same pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from edge_runtime.aggregator.advice import Advice, read_advice
from edge_runtime.aggregator.budget import Schedule, make_schedule
from edge_runtime.aggregator.catalogue import Catalogue
from edge_runtime.aggregator.config import AggregatorConfig
from edge_runtime.aggregator.records import RoundRecord
from edge_runtime.aggregator.rollout import STOPPED, decide
from edge_runtime.aggregator.sizing import anchor_share, moment_shares, only_counts
from edge_runtime.aggregator.strategies import find_strategy
from edge_runtime.messages import (
    AnchorRequest,
    DeviceState,
    MomentsRequest,
    Plan,
    RowRequest,
    ScoreRequest,
    TrainRequest,
    UpdateRequest,
    decode_plan,
    encode_plan,
    new_id,
)
from edge_runtime.schema import Schema, census_sensitivity_squared, following

__all__ = ["Planner", "Step"]

#: of a round's budget that counts and scores may have together: training needs a rest
_MOST_SHARE = 0.95
#: device states that mean "reachable"
_AWAY = frozenset({"offline", "stopped"})


Phase = Literal["waiting", "census", "round", "fusing", "done", "failed"]


class Step(NamedTuple):
    """What is to be done now.

    `action` is "wait", "open" (publish `plan`), "fuse" (round `number` has been answered) or
    "done"; `phase` is that of the aggregator's status; `progress` 0 to 1; `reason` for people.
    """

    action: Literal["wait", "open", "fuse", "done"]
    phase: Phase
    number: int
    progress: float
    reason: str
    plan: Plan | None = None


class Planner:
    """Opens rounds, decides when they have been answered, and closes them.

    Parameters
    ----------
    config : AggregatorConfig
        Rounds, budget and requests.
    schema : Schema
        The fleet's schema.
    catalogue : Catalogue
        Where rounds are kept.

    Raises
    ------
    ConfigError
        If the strategy is unknown or the budget is too small.
    """

    def __init__(self, *, config: AggregatorConfig, schema: Schema, catalogue: Catalogue) -> None:
        self._config = config
        self._schema = schema
        self._catalogue = catalogue
        # Here, so that an unknown name ends the aggregator at its start and not in a round.
        self._strategy = find_strategy(config.fusion.strategy)
        self._waiting_for = -1
        self._began_unix_s = 0.0
        self.schedule: Schedule = make_schedule(
            epsilon=config.privacy.limit,
            delta=config.privacy.delta,
            rounds=config.rounds.count,
            census_share=config.rounds.census_share,
            census_sensitivity_squared=census_sensitivity_squared(schema),
        )

    @property
    def current_plan(self) -> Plan | None:
        """The plan of the latest round, or None before the census."""
        rounds = self._catalogue.rounds()
        return decode_plan(rounds[-1].plan.encode()) if rounds else None

    def step(
        self, *, now_unix_s: float, states: Mapping[str, DeviceState], bundle_digest: str | None
    ) -> Step:
        """Look at the fleet and move on if something is due.

        Parameters
        ----------
        now_unix_s : float
            The wall clock.
        states : mapping of str to DeviceState
            The last state of every device, by id.
        bundle_digest : str or None
            The generator in force; None before the census is fused.
        """
        rounds = self._catalogue.rounds()
        if not rounds:
            online = sum(state.status not in _AWAY for state in states.values())
            quorum = self._config.rounds.quorum
            if online < quorum:
                reason = f"{online} of {quorum} devices online"
                return Step("wait", "waiting", 0, min(1.0, online / quorum), reason)
            first = 1 if self._config.bundle.packed else 0
            return self._open(first, now_unix_s, bundle_digest)
        last = rounds[-1]
        if last.status == "open":
            return self._look(last, now_unix_s, states)
        if last.status == "fusing":
            return Step("fuse", "fusing", last.round, 0.0, last.reason)
        if last.round < self._config.rounds.count:
            return self._open(last.round + 1, now_unix_s, bundle_digest)
        return Step("done", "done", last.round, 1.0, f"{last.round} rounds done")

    def close(self, number: int, *, now_unix_s: float, reason: str) -> None:
        """Record that a round's answers have been used."""
        self._catalogue.mark_round(number, "closed", reason=reason, ended_unix_s=now_unix_s)

    def make_plan(self, number: int, bundle_digest: str | None) -> Plan:
        """Return the plan of a round: 0 is the census, from 1 on training."""
        config, rounds = self._config, self._config.rounds
        if config.bundle.packed:
            return self._sample_plan(number, bundle_digest)
        census = number == 0
        anchor = None
        advice = read_advice(self._catalogue)
        # A strategy of updates has nothing to go by without them.
        measure = not (census or self._strategy.needs_updates) and (
            advice.moments is not None or only_counts(config, advice.rows_of)
        )
        share = min(anchor_share(config, advice.rows_of), _MOST_SHARE - rounds.score_share)
        moments = advice.moments if measure else None
        if measure:
            share = 1.0 - rounds.score_share
        if moments is not None:
            anchor, moments = self._measure_together(moments, most=share)
        elif not census and share > 0:
            anchor = AnchorRequest(share=share, tables=self._tables(advice, number))
        score = None
        if not census and rounds.score_share > 0:
            score = ScoreRequest(share=rounds.score_share, clip_nats=rounds.score_clip)
        train, rows = config.train, config.rows
        asks = not census and not measure
        updates = asks and self._strategy.needs_updates
        return Plan(
            fleet=config.fleet.name,
            id=new_id(),
            round=number,
            kind="census" if census else "measure" if measure else "train",
            schema_digest=self._schema.digest,
            bundle_digest=None if census else bundle_digest,
            epsilon_after=self.schedule.epsilon_after[number],
            delta=config.privacy.delta,
            deadline_s=rounds.deadline_s,
            quorum=rounds.quorum,
            census_sigma=self.schedule.census_sigma if census else None,
            train=None
            if not asks
            else TrainRequest(
                steps=train.steps,
                expected_batch=train.expected_batch,
                clip_norm=train.clip_norm,
                learning_rate=train.learning_rate,
                averaging=train.averaging,
            ),
            anchor=anchor,
            moments=moments,
            score=score,
            holdout=0.0 if census else rounds.holdout,
            rows=None
            if not asks
            else RowRequest(
                share=rows.share, minimum=rows.minimum, maximum=rows.maximum, clamp=rows.clamp
            ),
            update=UpdateRequest(clip_norm=config.fusion.update_clip) if updates else None,
        )

    def _measure_together(
        self, moments: MomentsRequest, *, most: float
    ) -> tuple[AnchorRequest | None, MomentsRequest]:
        """Return what a round of counts alone counts and sums, `most` of its budget together.

        Means come with single columns, and with pairs of the condition and each column that has no
        scores; products have a round to themselves.
        """
        replace = msgspec.structs.replace
        if moments.order > 1:
            return None, replace(moments, share=most)
        given = moments.given
        single, means = (most * share for share in moment_shares(self._config))
        others = [d for d in range(len(self._schema.columns)) if d not in (given, *moments.columns)]
        tables: list[tuple[int, ...]] = (
            [(d,) for d in (given, *moments.columns)] if single > 0 else []
        )
        tables += [tuple(sorted((given, d))) for d in others]
        if not tables:
            return None, replace(moments, share=means)
        if single == 0.0:
            # The census told single columns well enough; pairs get as much as means do.
            single = means = most * moment_shares(self._config)[1] / 2
        anchor = AnchorRequest(share=single, tables=tuple(tables))
        return anchor, replace(moments, share=means)

    def _sample_plan(self, number: int, bundle_digest: str | None) -> Plan:
        config = self._config
        return Plan(
            fleet=config.fleet.name,
            id=new_id(),
            round=number,
            kind="sample",
            schema_digest=self._schema.digest,
            bundle_digest=bundle_digest,
            # Nothing is spent; what devices have spent elsewhere they state all the same.
            epsilon_after=config.privacy.limit,
            delta=config.privacy.delta,
            deadline_s=config.rounds.deadline_s,
            quorum=config.rounds.quorum,
            rows=RowRequest(
                share=config.rows.share, minimum=config.rows.minimum, maximum=config.rows.maximum
            ),
        )

    def _tables(self, advice: Advice, number: int) -> tuple[tuple[int, ...], ...]:
        """Return what the anchor counts: every column is in at least one table.

        Interactions, once there is a pool that tells which; pairs for what they leave out. Of
        windows, a column is paired with the conditions at the first step, and with itself from
        step to step: how a series goes on is what single steps do not tell.
        """
        total = len(self._schema.columns)
        pairs = self._config.rounds.pairs == "conditions"
        conditions = self._schema.conditions if pairs else ()
        later = following(self._schema) if pairs else {}
        tables = list(advice.interactions) if number > 1 else []
        together = [set(table) for table in tables]
        wanted = [(a, b) for a in conditions for b in range(a + 1, total) if b not in later]
        wanted += [(before, column) for column, before in later.items()]
        tables += [pair for pair in wanted if not any(set(pair) <= each for each in together)]
        covered = {column for table in tables for column in table}
        return (*((d,) for d in range(total) if d not in covered), *tables)

    def _open(self, number: int, now_unix_s: float, bundle_digest: str | None) -> Step:
        plan = self.make_plan(number, bundle_digest)
        if number > 0:
            plan = msgspec.structs.replace(plan, rollout=self._config.rounds.rollout[0])
        self._catalogue.open_round(
            RoundRecord(
                round=number,
                kind=plan.kind,
                plan_id=plan.id,
                plan=encode_plan(plan).decode(),
                status="open",
                started_unix_s=now_unix_s,
                ended_unix_s=None,
                reason="",
            )
        )
        phase: Phase = "census" if number == 0 else "round"
        return Step("open", phase, number, 0.0, f"plan {plan.id[:8]} published", plan)

    def _look(
        self, record: RoundRecord, now_unix_s: float, states: Mapping[str, DeviceState]
    ) -> Step:
        """Whether an open round has been answered well enough."""
        plan = decode_plan(record.plan.encode())
        answered, declined = self._answers(plan, states)
        expected = self._config.fleet.devices
        quorum = self._config.rounds.quorum
        if record.round != self._waiting_for:
            # Begun in the future by a clock that has been put back: the wait begins anew. So does
            # that of a stage at a restart: when its plan went out is not kept.
            self._waiting_for = record.round
            staged = record.round > 0 and len(self._config.rounds.rollout) > 1
            self._began_unix_s = now_unix_s if staged else min(record.started_unix_s, now_unix_s)
        waited_s = now_unix_s - self._began_unix_s
        counts = f"{len(answered)} of {expected or '?'} devices answered"
        if declined:
            counts += f", {len(declined)} declined ({', '.join(sorted(declined))})"
        phase: Phase = "census" if record.round == 0 else "round"
        everyone = expected > 0 and len(answered) + len(declined) >= expected
        late = waited_s >= self._config.rounds.deadline_s
        if plan.rollout < 1:
            # Before anything is fused: a stopped one is for people to look at, and a stage that is
            # late makes way for the next.
            return self._roll_out(
                record, plan, states, now_unix_s=now_unix_s,
                answered=answered, declined=declined, late=late, counts=counts,
            )  # fmt: skip
        if len(answered) >= quorum and (everyone or late):
            reason = counts + ("" if everyone else f" by the deadline after {waited_s:.0f} s")
            if plan.kind == "sample":
                self.close(record.round, now_unix_s=now_unix_s, reason=reason)
                return Step("wait", phase, record.round, 1.0, reason)
            self._catalogue.mark_round(record.round, "fusing", reason=reason)
            return Step("fuse", "fusing", record.round, 0.0, reason)
        if late or everyone:
            counts += f"; the quorum is {quorum}: waiting on"
        progress = min(1.0, len(answered) / max(expected, quorum))
        return Step("wait", phase, record.round, progress, counts)

    def _roll_out(
        self,
        record: RoundRecord,
        plan: Plan,
        states: Mapping[str, DeviceState],
        *,
        now_unix_s: float,
        answered: set[str],
        declined: set[str],
        late: bool,
        counts: str,
    ) -> Step:
        """Look whether an open round's plan goes to more of the fleet."""
        rounds = self._config.rounds
        steps = rounds.rollout
        wait = Step("wait", "round", record.round, plan.rollout, record.reason or counts)
        # A configuration without stages takes a rollout that was stopped to its end.
        if record.reason.startswith(STOPPED) and len(steps) > 1:
            return wait
        decision = decide(
            plan,
            steps=steps,
            most_failures=rounds.rollout_failures if len(steps) > 1 else 1.0,
            known=states.keys() | self._catalogue.devices().keys(),
            answered=answered,
            declined=declined,
            late=late or len(steps) == 1,
        )
        if decision.stop:
            self._catalogue.mark_round(record.round, "open", reason=decision.stop)
            return wait._replace(reason=decision.stop)
        share = f"plan for {plan.rollout:.2g} of the fleet"
        if decision.share is None:
            return wait._replace(reason=f"{share}; {counts}")
        wider = msgspec.structs.replace(plan, rollout=decision.share)
        reason = f"plan for {decision.share:.2g} of the fleet, after {counts}"
        self._began_unix_s = now_unix_s  # each stage has the whole of the deadline
        self._catalogue.replace_plan(record.round, encode_plan(wider).decode(), reason=reason)
        return Step("open", "round", record.round, wider.rollout, reason, wider)

    def _answers(self, plan: Plan, states: Mapping[str, DeviceState]) -> tuple[set[str], set[str]]:
        """Devices that have answered a plan completely, and those that declined it.

        A device has answered when all parts of its messages are in the catalogue, or when it
        says that it is idle after this plan with an empty outbox: a device with too few rows
        sends its counts only.
        """
        parts = {
            "census": plan.kind == "census",
            "batch": plan.rows is not None,
            "anchor": plan.anchor is not None,
            "moments": plan.moments is not None,
            "score": plan.score is not None,
            "update": plan.update is not None,
        }
        kinds = [kind for kind, asked in parts.items() if asked]
        answered = self._catalogue.complete(plan.id, kinds)
        said = {d: s for d, s in states.items() if s.plan_id == plan.id and s.outbox == 0}
        answered |= {d for d, s in said.items() if s.status == "idle"}
        declined = {d for d, s in said.items() if s.status == "declined"} - answered
        return answered, declined
