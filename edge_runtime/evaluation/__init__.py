"""How good the synthetic rows are: fidelity, utility, closeness, and the report for people."""

from __future__ import annotations

from edge_runtime.evaluation.compare import evaluate
from edge_runtime.evaluation.features import Features
from edge_runtime.evaluation.fidelity import Fidelity, PairScore, measure_fidelity
from edge_runtime.evaluation.frames import Frame
from edge_runtime.evaluation.network import Mlp
from edge_runtime.evaluation.privacy_figures import Closest, closest_records
from edge_runtime.evaluation.report import Report
from edge_runtime.evaluation.utility import (
    Score,
    TargetTask,
    TrainingChoice,
    score_network,
    train_and_score,
)

__all__ = [
    "Closest",
    "Features",
    "Fidelity",
    "Frame",
    "Mlp",
    "PairScore",
    "Report",
    "Score",
    "TargetTask",
    "TrainingChoice",
    "closest_records",
    "evaluate",
    "measure_fidelity",
    "score_network",
    "train_and_score",
]
