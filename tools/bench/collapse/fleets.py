"""Whole fleets, through the project's own code: ours, and one that lives on its own rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from edge_runtime.aggregator.config import (
    FusionSettings,
    GuardSettings,
    RoundSettings,
    RowSettings,
    TrainPlanSettings,
)
from edge_runtime.aggregator.guard.rollback import curve as score_curve_of
from edge_runtime.aggregator.strategies import STRATEGIES, Candidate, Material
from edge_runtime.device.config import TrainingConfig
from edge_runtime.fleet.simulation import Simulation
from edge_runtime.generator import Bundle, initial_weights, reference
from edge_runtime.messages import Alarm
from edge_runtime.schema import Codec, read_table
from edge_runtime.training import train
from tools.bench.collapse.curve import CLIP_NATS
from tools.bench.collapse.tables import FleetTable

__all__ = ["OPEN_GATE", "Cost", "FleetRun", "Poison", "SelfConsuming", "run_fleet"]

I32 = npt.NDArray[np.int32]
Poison = Callable[[I32], I32]

#: a guard that publishes every candidate, so that only the score curve can stop a collapse
OPEN_GATE = GuardSettings(limit=1.0, table_limit=1.0, nll_margin=1e9)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """How much work a fleet does; `budget` shares are of each round's."""

    hidden: int = 64
    steps: int = 100
    batch: int = 64
    learning_rate: float = 1e-2
    rows_share: float = 0.5
    fusion_epochs: int = 8
    anchor_share: float = 0.2
    score_share: float = 0.2
    holdout: float = 0.2


@dataclass(kw_only=True)
class FleetRun:
    """What a fleet left: one entry per round in each list.

    `bundles` are the generators in force, `alarms` those of warnings and above, `notices` the
    others, `quarantined` messages set aside by device.
    """

    codec: Codec
    bundles: list[Bundle] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    alarms: list[list[Alarm]] = field(default_factory=list)
    notices: list[list[Alarm]] = field(default_factory=list)
    quarantined: dict[str, list[str]] = field(default_factory=dict)
    pooled: dict[str, int] = field(default_factory=dict)
    curve: list[tuple[float, float]] = field(default_factory=list)
    cpu_seconds: float = 0.0
    bytes_up: float = 0.0

    def first(self, kind: str) -> int | None:
        """Return the first round (from 1) with an alarm of a kind, or None."""
        rounds = [n for n, found in enumerate(self.alarms, 1) if any(a.kind == kind for a in found)]
        return rounds[0] if rounds else None


def run_fleet(
    table: FleetTable,
    *,
    rounds: int,
    epsilon: float | None,
    cost: Cost,
    seed: int,
    strategy: str = "pool",
    guard: GuardSettings | None = None,
    poison: Mapping[str, Poison] | None = None,
    drift: Sequence[Mapping[str, pd.DataFrame]] | None = None,
    on_round: Callable[[int, str], None] | None = None,
) -> FleetRun:
    """Run a census and so many rounds, guard and all.

    Parameters
    ----------
    poison : mapping of str to callable, optional
        What these devices send in the place of what they have sampled.
    drift : sequence of mapping of str to DataFrame, optional
        Rows of every device in round 1, 2, ...
    """
    sections: dict[str, Any] = {
        "train": TrainPlanSettings(
            steps=cost.steps, expected_batch=cost.batch, learning_rate=cost.learning_rate
        ),
        "rows": RowSettings(share=cost.rows_share, minimum=50, maximum=4000),
        "fusion": FusionSettings(
            strategy=strategy, hidden=cost.hidden, epochs=cost.fusion_epochs, max_seconds=3600.0
        ),
        "guard": guard or GuardSettings(),
        "training": TrainingConfig(minimum_rows=20),
    }
    with Simulation(
        schema=table.schema,
        devices=table.devices,
        epsilon=epsilon,
        rounds=RoundSettings(
            count=rounds,
            anchor_share=cost.anchor_share,
            score_share=cost.score_share,
            score_clip=CLIP_NATS,
            holdout=cost.holdout,
        ),
        seed=seed,
        **sections,
    ) as fleet:
        fleet.census()
        run = FleetRun(codec=fleet.bundle.codec)
        SelfConsuming.teacher = np.concatenate(
            [
                run.codec.encode(read_table(frame, table.schema)).codes
                for frame in table.devices.values()
            ]
        )
        for name, lie in (poison or {}).items():
            fleet.devices[name].poison = lie
        for number in range(1, rounds + 1):
            if drift is not None:
                for name, frame in drift[number - 1].items():
                    fleet.devices[name].replace_rows(frame)
            run.reasons.append(fleet.round(number).reason)
            run.bundles.append(fleet.bundle)
            found = fleet.workspace.alarms().alarms
            if on_round is not None:
                on_round(number, run.reasons[-1])
            run.alarms.append([a for a in found if a.severity != "notice"])
            run.notices.append([a for a in found if a.severity == "notice"])
        run.curve = [(p.nll, p.noise_error) for p in score_curve_of(fleet.workspace)]
        for kind in ("batch", "anchor", "score"):
            for record in fleet.workspace.catalogue.messages(kind=kind, status="quarantined"):
                run.quarantined.setdefault(record.device, []).append(record.reason)
        for record in fleet.workspace.catalogue.messages(kind="batch"):
            run.pooled[record.device] = run.pooled.get(record.device, 0) + record.rows
        devices = fleet.devices.values()
        run.cpu_seconds = float(np.mean([d.cpu_seconds for d in devices]))
        run.bytes_up = float(np.mean([d.bytes_up for d in devices]))
    return run


class SelfConsuming:
    """A fusion as it must not be: the next generator learns from the last one's rows alone.

    The first one is a good one, from real rows: a collapse needs something to lose. What follows
    is told by the state beside the bundle.
    """

    name: ClassVar[str] = "self-consuming"
    needs_updates: ClassVar[bool] = False
    #: what the first generator learns from: int32 [rows, D]
    teacher: ClassVar[I32]
    #: gradient steps of every generation
    steps: ClassVar[int] = 400

    def fuse(
        self,
        material: Material,
        settings: FusionSettings,  # noqa: ARG002 - the strategies' interface
        *,
        should_stop: Callable[[], bool],
        on_progress: Callable[[float], None],  # noqa: ARG002 - as above
    ) -> Candidate:
        """See `Strategy.fuse`."""
        layout, rows = material.layout, self.teacher
        if material.state:
            rng = np.random.default_rng(material.seed)
            noise = rng.random((len(rows), layout.columns), dtype=np.float32)
            rows = reference.sample(material.weights, layout, noise)
        marginals = [
            np.bincount(rows[:, d], minlength=k) for d, k in enumerate(layout.cardinalities)
        ]
        weights, _ = train(
            initial_weights(
                layout, seed=material.seed, marginals=[m.astype(np.float64) for m in marginals]
            ),
            rows,
            layout=layout,
            steps=self.steps,
            batch=256,
            learning_rate=5e-3,
            seed=material.seed,
            should_stop=should_stop,
        )
        return Candidate(weights, {}, {"living-on-itself": np.ones(1, np.float32)})


STRATEGIES[SelfConsuming.name] = SelfConsuming
