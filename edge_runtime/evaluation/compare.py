"""One call that compares two tables and says how good the second one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from edge_runtime.errors import EvaluationError
from edge_runtime.evaluation.features import Features
from edge_runtime.evaluation.fidelity import Fidelity, measure_fidelity
from edge_runtime.evaluation.frames import Frame
from edge_runtime.evaluation.histograms import column_figures
from edge_runtime.evaluation.ordered import Ordered, is_ordered
from edge_runtime.evaluation.privacy_figures import closest_records
from edge_runtime.evaluation.report import Report
from edge_runtime.evaluation.series import series_figures
from edge_runtime.evaluation.utility import TargetTask, TrainingChoice, train_and_score
from edge_runtime.schema import Schema, Table

__all__ = ["evaluate"]

#: a holdout of a fifth, when none is given
_HOLDOUT_SHARE = 0.2


def evaluate(
    real: Any,
    synthetic: Any,
    *,
    schema: Schema | None = None,
    holdout: Any = None,
    target: str | None = None,
    inputs: Sequence[str] | None = None,
    public_scaling: bool = False,
    privacy: Mapping[str, Any] | None = None,
    baselines: Sequence[Mapping[str, Any]] | None = None,
    choice: TrainingChoice | None = None,
    title: str = "",
    max_rows: int = 50_000,
    seed: int = 0,
) -> Report:
    """Compare synthetic rows with real ones.

    Parameters
    ----------
    real, synthetic : path, frame or Table
        Anything `read_table` reads. `real` are the rows the generator may have learnt from; rows
        that are marked as synthetic are refused there and in `holdout`.
    schema : Schema, optional
        Inferred from `real` when None (the real table's own schema when it is a `Table`). With a
        sequence, series are compared as well: autocorrelations and spectra.
    holdout : path, frame or Table, optional
        Real rows the generator never saw: test rows and the real-vs-real ceiling. A fifth of
        `real` when None, which the report then says.
    target : str, optional
        Column to predict; utility is left out when None.
    inputs : sequence of str, optional
        Columns the prediction may use; all but the target when None.
    public_scaling : bool
        Scale numbers by the schema's bounds and not by the rows trained on.
    privacy : mapping, optional
        The statement the rows came with: ``epsilon`` (None is WITHOUT privacy), ``delta``,
        ``unit``, ``mechanism``, ``accountant``.
    baselines : sequence of mapping, optional
        Utility figures measured elsewhere, shown above the release:
        ``{"name", "value", "rows", "note", "kind"}``. All real rows are scored here when None.
    choice : TrainingChoice, optional
        Of the scoring network.
    title : str
    max_rows : int
        Rows compared on each side by the fidelity metrics.
    seed : int

    Returns
    -------
    Report

    Raises
    ------
    EvaluationError, DataError
        The tables do not fit the schema, or have no rows.

    Examples
    --------
    >>> report = evaluate("real.csv", "synthetic.parquet", target="late")   # doctest: +SKIP
    >>> report.to_html("report.html")                                       # doctest: +SKIP
    """
    if schema is None:
        schema = real.schema if isinstance(real, (Table, Frame)) else Schema.infer(real)
    train, test, made, series = _sides(real, synthetic, holdout, schema, seed=seed)

    # The ceiling is limited by the smaller side, so both are measured on equally many rows.
    compared = min(max_rows, train.rows, test.rows, made.rows)
    fidelity = measure_fidelity(train, made, max_rows=compared, seed=seed)
    ceiling = measure_fidelity(train, test, max_rows=compared, seed=seed)
    figures: dict[str, Any] = {
        "title": title or f"Synthetic {schema.name}",
        "table": schema.name,
        "rows": {"real": train.rows, "held_out": test.rows, "synthetic": made.rows},
        "holdout_given": holdout is not None,
        "seed": seed,
        "fidelity": _fidelity_figures(fidelity, ceiling),
        "columns": column_figures(train, made, fidelity, ceiling),
        "closest": asdict(closest_records(train, test, made, seed=seed)),
        "privacy": dict(privacy) if privacy is not None else None,
    }
    if series is not None:
        figures["series"] = series
    if target is not None:
        figures["utility"] = _utility_figures(
            train, test, made,
            task=TargetTask.of(train.schema, target, inputs),
            public_scaling=public_scaling,
            baselines=baselines,
            choice=choice,
            seed=seed,
        )  # fmt: skip
    return Report(figures)


def _sides(
    real: Any, synthetic: Any, holdout: Any, schema: Schema, *, seed: int
) -> tuple[Frame, Frame, Frame, dict[str, Any] | None]:
    """Return rows learnt from, held-out and synthetic ones, and figures of series where they are.

    Without held-out rows a fifth of the real ones is set aside; of series the last fifth of each.
    """
    if is_ordered(schema):
        assert schema.sequence is not None, "it is ordered"
        whole, drawn = Ordered.of(real, schema), Ordered.of(synthetic, schema, synthetic=True)
        _check_rows(whole.frame, drawn.frame)
        if holdout is None:
            held = whole.last_part(_HOLDOUT_SHARE)
            held[0], held[-1] = False, True
            learnt, later = whole.take(~held), whole.take(held)
        else:
            learnt, later = whole, Ordered.of(holdout, schema)
        series = series_figures(learnt, later, drawn, every=_every(schema), seed=seed)
        return learnt.frame, later.frame, drawn.frame, series
    rows, made = Frame.of(real, schema), Frame.of(synthetic, schema, synthetic=True)
    _check_rows(rows, made)
    if holdout is not None:
        return rows, Frame.of(holdout, schema), made, None
    held = np.random.default_rng(seed).random(rows.rows) < _HOLDOUT_SHARE
    # A table of a handful of rows may draw none: keep one on either side.
    held[0], held[-1] = False, True
    return rows.take(~held), rows.take(held), made, None


def _every(schema: Schema) -> str:
    sequence = schema.sequence
    if sequence is None or sequence.every is None:
        return ""
    column = schema.columns[schema.index(sequence.order)]
    unit = "s" if column.kind == "timestamp" else column.unit
    return f"{sequence.every:g} {unit}".strip()


def _check_rows(rows: Frame, made: Frame) -> None:
    if not rows.rows or not made.rows:
        raise EvaluationError(f"{rows.rows} real and {made.rows} synthetic rows; both need some")


def _fidelity_figures(fidelity: Fidelity, ceiling: Fidelity) -> dict[str, Any]:
    best = {(pair.a, pair.b): pair.score for pair in ceiling.pair_scores}
    return {
        "shapes": fidelity.shapes,
        "pairs": fidelity.pairs,
        "ceiling": {"shapes": ceiling.shapes, "pairs": ceiling.pairs},
        "rows_compared": fidelity.rows,
        "pair_scores": [
            {**asdict(pair), "ceiling": best[pair.a, pair.b]} for pair in fidelity.pair_scores
        ],
    }


def _utility_figures(
    train: Frame,
    test: Frame,
    made: Frame,
    *,
    task: TargetTask,
    public_scaling: bool,
    baselines: Sequence[Mapping[str, Any]] | None,
    choice: TrainingChoice | None,
    seed: int,
) -> dict[str, Any]:
    features = Features.public(train.schema, task.inputs) if public_scaling else None
    scores = [dict(score) for score in baselines or ()]
    if baselines is None:
        whole = train_and_score(train, test, task, features=features, choice=choice, seed=seed)
        scores.append(
            {
                "name": "all real rows together",
                "kind": "real",
                "value": whole.value,
                "rows": whole.rows,
                "note": whole.reason or "what no private release can be expected to beat",
            }
        )
    release = train_and_score(made, test, task, features=features, choice=choice, seed=seed)
    scores.append(
        {
            "name": "the synthetic rows",
            "kind": "release",
            "value": release.value,
            "rows": release.rows,
            "note": release.reason,
        }
    )
    return {
        "target": task.target,
        "inputs": list(task.inputs),
        "metric": task.metric,
        "test_rows": len(task.labelled(test)[1]),
        "scores": scores,
    }
