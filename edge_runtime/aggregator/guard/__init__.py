"""The guard: judges batches, devices and candidates, follows the score curve, raises alarms.

Pure functions of arrays and noisy tables, without catalogue, files or link, so that a simulation
uses the very same code. `review` connects them with the aggregator's data directory.
"""

from __future__ import annotations

from edge_runtime.aggregator.guard.alarms import (
    AlarmLimits,
    budget_alarms,
    drift_alarms,
    kept_figures,
    likelihood_alarm,
    measure_alarms,
    ordered,
)
from edge_runtime.aggregator.guard.batches import BatchLimits, Finding, judge_batch
from edge_runtime.aggregator.guard.candidates import Verdict, judge, paired_error
from edge_runtime.aggregator.guard.copies import CopyIndex
from edge_runtime.aggregator.guard.curve import (
    Comparison,
    CurvePoint,
    best_point,
    compare_bundles,
    score_curve,
    worsened,
)
from edge_runtime.aggregator.guard.devices import DeviceLimits, outlying_devices
from edge_runtime.aggregator.guard.drift import Drift, find_drift
from edge_runtime.aggregator.guard.measures import ColumnFacts, Measure, column_facts, measure

__all__ = [
    "AlarmLimits",
    "BatchLimits",
    "ColumnFacts",
    "Comparison",
    "CopyIndex",
    "CurvePoint",
    "DeviceLimits",
    "Drift",
    "Finding",
    "Measure",
    "Verdict",
    "best_point",
    "budget_alarms",
    "column_facts",
    "compare_bundles",
    "drift_alarms",
    "find_drift",
    "judge",
    "judge_batch",
    "kept_figures",
    "likelihood_alarm",
    "measure",
    "measure_alarms",
    "ordered",
    "outlying_devices",
    "paired_error",
    "score_curve",
    "worsened",
]
