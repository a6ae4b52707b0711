"""The worst row on the worst device, again and again: how much one row's presence shows.

The canary is a row of codes that no other row has, in every column: its counts stand alone, and
its gradient lies mostly in parameters that no other row moves. The attacker knows all other rows,
the plan, the bundle and this software. Scores of runs with and without the canary, one per view:

* `counts`: log of the likelihood ratio of the noisy counts;
* `steps`: the same of all noisy gradient sums, which the accounting gives away and a device does
  not: at full sampling no attack can be better, and it checks the training's mechanism exactly;
* `weights`: the released network, by features of the canary under it, weighed on shadow runs;
* `rows`, `clamped rows`: a batch drawn with free or clamped conditions, by features as well;
* `everything`: counts and steps together, against the claim for all releases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from audit.device import DELTA, I32, Recorder, Released, Setting, digest, run_device
from edge_runtime.evaluation.audit import Audited, from_rates
from edge_runtime.evaluation.membership import Discriminant, area, closeness, true_positives_at
from edge_runtime.generator import Layout, Weights, initial_weights
from edge_runtime.training import GradientStep, TrainSettings, make_step
from edge_runtime.training.flat import F32, FlatWeights
from edge_runtime.training.step import Clipped

__all__ = [
    "FULL",
    "SAMPLED",
    "VIEWS",
    "Verdict",
    "Watch",
    "attack",
    "canary_row",
    "other_rows",
    "verdicts",
]

F64 = npt.NDArray[np.float64]

LAYOUT = Layout((6, 8, 8, 6, 4), 16)

_TRAIN = TrainSettings(
    steps=12,
    # Above every noisy count of a small device: each row takes part in each step.
    expected_batch=512,
    clip_norm=1.0,
    learning_rate=0.05,
    noise_multiplier=0.0,
)

#: Small data takes part whole: Gaussian mechanisms only, where audits are exact.
FULL = Setting(layout=LAYOUT, epsilon=8.0, train=_TRAIN, rows=600)
#: Poisson samples of a quarter: the accounting's other half. The row count was released before.
SAMPLED = Setting(
    layout=LAYOUT,
    epsilon=8.0,
    train=msgspec.structs.replace(_TRAIN, steps=24, expected_batch=1),
    rows=600,
    rows_public=4.0,
)

#: views judged by their likelihood ratio, and those whose features a discriminant weighs
EXACT = ("counts", "steps", "everything")
LEARNT = ("weights", "rows", "clamped rows")
VIEWS = (*EXACT, *LEARNT)

#: Breaks or records what a device does; given the honest step.
StepMaker = Callable[[GradientStep], GradientStep]


class Watch:
    """A gradient step that also notes what an attacker who sees the weights works out.

    Parameters
    ----------
    inner : GradientStep
        What the device runs.
    canary : int32 [1, D]
    others : int32 [rows, D]
        The other rows, which the attacker knows.

    Attributes
    ----------
    directions, background : list of float32 [parameters with masked ones]
        Of each step: the canary's clipped gradient, and the sum of the other rows'.
    sums : list of float32 [parameters with masked ones]
        The device's own sums before noise: released as they are where there is no privacy.
    """

    name = "watched"

    def __init__(self, inner: GradientStep, *, canary: I32, others: I32) -> None:
        self.layout = inner.layout
        self._inner = inner
        # The attacker's own arithmetic, which a broken device does not touch.
        self._own = make_step(inner.layout, engine="numpy")
        self._canary, self._others = canary, others
        self.directions: list[F32] = []
        self.background: list[F32] = []
        self.sums: list[F32] = []

    def __call__(
        self, weights: Weights, codes: I32, clip_norm: float, out: FlatWeights | None = None
    ) -> Clipped:
        """See `GradientStep`."""
        for rows, seen in ((self._canary, self.directions), (self._others, self.background)):
            total = FlatWeights(self.layout)
            self._own(weights, rows, clip_norm, total)
            seen.append(total.vector)
        clipped = self._inner(weights, codes, clip_norm, out)
        self.sums.append(FlatWeights(self.layout, clipped.gradient).vector)
        return clipped

    def plain(
        self,
        weights: Weights,
        codes: I32,
        row_weights: F32 | None = None,
        out: FlatWeights | None = None,
    ) -> tuple[Weights, F32]:
        """See `GradientStep`."""
        return self._inner.plain(weights, codes, row_weights, out)

    def nll(self, weights: Weights, codes: I32) -> F32:
        """See `GradientStep`."""
        return self._inner.nll(weights, codes)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one view proved.

    Attributes
    ----------
    view : str
    claimed : float
        Epsilon that the ledger states for what this view shows; infinite without privacy.
    audited : Audited
    area, found : float
        Area under the ROC curve, and the share of canaries found at 1 % false alarms.
    runs : int
        Judged runs, half of them with the canary.
    """

    view: str
    claimed: float
    audited: Audited
    area: float
    found: float
    runs: int


def other_rows(layout: Layout, rows: int, *, seed: int = 0) -> I32:
    """Draw rows that never use a column's last code, and whose columns follow one another."""
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, k - 1, rows) for k in layout.cardinalities], axis=1)
    for column in range(1, layout.columns):
        follow = rng.random(rows) < 0.7
        codes[follow, column] = codes[follow, column - 1] % (layout.cardinalities[column] - 1)
    return np.ascontiguousarray(codes.astype(np.int32))


def canary_row(layout: Layout) -> I32:
    """Return the last code of every column, which no other row has, int32 [1, D]."""
    return np.array([layout.cardinalities], np.int32) - 1


def attack(
    setting: Setting,
    *,
    others: I32,
    runs: int,
    seed: int,
    confidence: float = 0.95,
    noise: Callable[[bytes], Recorder] = Recorder,
    step: StepMaker | None = None,
) -> dict[str, Verdict]:
    """Run devices with and without the canary and judge every view of what they release.

    Parameters
    ----------
    setting : Setting
    others : int32 [rows, D]
        Rows every device has.
    runs : int
        Devices, half of them with the canary; a third of them serve as shadow runs.
    seed : int
    confidence : float
        Of each bound.
    noise, step : callable
        Make a device's noise from its seed, and its gradient step from the honest one: what a test
        breaks.
    """
    layout = setting.layout
    canary = canary_row(layout)
    start = initial_weights(layout, seed=seed)
    honest = make_step(layout, engine="numpy")
    views: dict[str, list[F64]] = {view: [] for view in VIEWS}
    claims: dict[str, float] = {}
    for run in range(runs):
        key = digest(b"canary", str(seed).encode(), str(run).encode())
        present = run % 2 == 0
        watch = Watch(honest if step is None else step(honest), canary=canary, others=others)
        released = run_device(
            setting,
            np.concatenate([others, canary]) if present else others,
            start=start,
            seed=key,
            step=watch,
            noise=noise(key),
        )
        claims = _claims(released)
        for view, features in _look(released, setting, watch, start=start, canary=canary):
            views[view].append(np.atleast_1d(np.asarray(features, np.float64)))
    return verdicts(
        {view: np.array(rows) for view, rows in views.items() if rows},
        claims,
        confidence=confidence,
    )


def _claims(released: Released) -> dict[str, float]:
    claims = dict.fromkeys(VIEWS, released.epsilon)
    # Given the counts, the noisy sums are the training's alone. Weights and rows depend on the
    # counts as well, through the number of rows and the clamped conditions.
    return claims | {"counts": released.epsilon_counts, "steps": released.epsilon_training}


def _look(
    released: Released, setting: Setting, watch: Watch, *, start: Weights, canary: I32
) -> Iterator[tuple[str, npt.ArrayLike]]:
    """Yield what each view shows of the canary: a likelihood ratio, or features."""
    counts, steps = _counts_ratio(released, canary), _steps_ratio(released, setting, watch)
    yield "counts", counts
    yield "steps", steps
    yield "everything", counts + steps
    yield "weights", _weight_features(released, watch, start=start, canary=canary)
    if setting.rows == 0:
        return
    yield "rows", _row_features(released.rows.free, canary)
    yield "clamped rows", _row_features(released.rows.clamped, canary)


def _counts_ratio(released: Released, canary: I32) -> float:
    cells = [
        float(released.counts[f"one_way.{column}"][code]) for column, code in enumerate(canary[0])
    ]
    # Without noise any scale tells the same.
    return sum(cell - 0.5 for cell in cells) / (released.sigma or 1.0) ** 2


def _steps_ratio(released: Released, setting: Setting, watch: Watch) -> float:
    sigma = (released.noise or 1.0) * setting.train.clip_norm
    total = 0.0
    for seen, direction, background in zip(
        released.sums or watch.sums, watch.directions, watch.background, strict=True
    ):
        # At less than full sampling the others' part is known up to their draws only.
        rest = seen - released.sampling * background
        length = float(np.dot(direction, direction))
        exponent = (float(np.dot(rest, direction)) - 0.5 * length) / sigma**2
        total += float(
            np.logaddexp(np.log1p(-released.sampling), np.log(released.sampling) + exponent)
            if released.sampling < 1.0
            else exponent
        )
    return total


def _weight_features(
    released: Released, watch: Watch, *, start: Weights, canary: I32
) -> npt.NDArray[np.float64]:
    layout = watch.layout
    moved = FlatWeights(layout, released.weights).vector - FlatWeights(layout, start).vector
    first = watch.directions[0]
    codes = canary[0] + np.array(layout.offsets[:-1])
    return np.array(
        [
            -float(np.dot(moved, first)),
            # Adam moves by the sign of a gradient rather than by its size.
            -float(np.dot(moved, np.sign(first))),
            float(watch.nll(released.weights, canary)[0]),
            float((released.weights.b3 - start.b3)[codes].sum()),
        ]
    )


def _row_features(rows: I32, canary: I32) -> npt.NDArray[np.float64]:
    same = rows == canary
    return np.array(
        [*same.mean(axis=0), np.mean(same.sum(axis=1) >= 2), closeness(canary, rows)[0]]
    )


def verdicts(
    views: Mapping[str, F64], claims: Mapping[str, float], *, confidence: float
) -> dict[str, Verdict]:
    """Judge scores; runs with the canary are the even ones.

    Parameters
    ----------
    views : mapping of float64 [runs, features]
    claims : mapping of float
    confidence : float
        Of each bound.
    """
    found = {}
    for view, features in views.items():
        inside, outside = features[0::2], features[1::2]
        if view in LEARNT:
            shadows = inside.shape[0] // 3
            learnt = Discriminant(inside[:shadows], outside[:shadows])
            a, b = learnt.score(inside[shadows:]), learnt.score(outside[shadows:])
        else:
            a, b = inside[:, 0], outside[:, 0]
        # Zero is the ratio's own threshold, where the ratio's scale is known.
        exact = view in EXACT and np.isfinite(claims[view])
        audited = from_rates(
            a, b, delta=DELTA, confidence=confidence, threshold=0.0 if exact else None
        )
        found[view] = Verdict(
            view=view,
            claimed=claims[view],
            audited=audited,
            area=area(a, b),
            found=true_positives_at(a, b, 0.01),
            runs=a.size + b.size,
        )
    return found
