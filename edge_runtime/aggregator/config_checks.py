"""Which values of aggregator.toml are possible, beyond their types."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from edge_runtime.aggregator.guard_config import guard_checks
from edge_runtime.messages.limits import DEFAULT_LIMITS

if TYPE_CHECKING:
    # `config` calls this at the end of its reading.
    from edge_runtime.aggregator.config import AggregatorConfig

__all__ = ["first_problem"]

_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def first_problem(config: AggregatorConfig) -> str:
    """Return the first impossible value, in words; empty if there is none."""
    epsilon, rounds, fusion = config.privacy.limit, config.rounds, config.fusion
    checks: tuple[tuple[bool, str, Any], ...] = (
        (
            _IDENTIFIER.fullmatch(config.fleet.name) is not None,
            "fleet.name must be 1 to 63 of a-z 0-9 _ - and begin with a letter or digit",
            config.fleet.name,
        ),
        (config.fleet.devices >= 0, "fleet.devices must not be negative", config.fleet.devices),
        (0 < config.broker.port < 65536, "broker.port must be 1 to 65535", config.broker.port),
        (
            epsilon is None or (epsilon > 0 and math.isfinite(epsilon)),
            'privacy.epsilon must be a positive number or "none"',
            epsilon,
        ),
        (
            0 < config.privacy.delta < 1,
            "privacy.delta must lie between 0 and 1",
            config.privacy.delta,
        ),
        (rounds.count >= 1, "rounds.count must be at least 1", rounds.count),
        (rounds.quorum >= 1, "rounds.quorum must be at least 1", rounds.quorum),
        (
            config.fleet.devices == 0 or rounds.quorum <= config.fleet.devices,
            "rounds.quorum must not exceed fleet.devices",
            rounds.quorum,
        ),
        (rounds.deadline_s > 0, "rounds.deadline_s must be positive", rounds.deadline_s),
        (
            0 < rounds.census_share < 1,
            "rounds.census_share must lie between 0 and 1",
            rounds.census_share,
        ),
        (
            rounds.anchor_share == "auto" or 0 <= rounds.anchor_share < 1,
            'rounds.anchor_share must be "auto", or at least 0 and below 1',
            rounds.anchor_share,
        ),
        (
            rounds.score_share >= 0
            and rounds.score_share + (0.5 if rounds.anchor_share == "auto" else rounds.anchor_share)
            < 1,
            "rounds.score_share must be at least 0 and, with anchor_share, below 1",
            rounds.score_share,
        ),
        (rounds.score_clip > 0, "rounds.score_clip must be positive", rounds.score_clip),
        (
            0 <= rounds.holdout < 0.5 and (rounds.holdout > 0 or rounds.score_share == 0),
            "rounds.holdout must be at least 0 and below 0.5, and above 0 where scores are asked "
            "for",
            rounds.holdout,
        ),
        (
            config.train.steps >= 1 and config.train.expected_batch >= 1,
            "train.steps and train.expected_batch must be at least 1",
            (config.train.steps, config.train.expected_batch),
        ),
        (
            0.1 <= config.train.clip_norm <= 1e6 and config.train.learning_rate > 0,
            "train.clip_norm must be 0.1 to 1e6 and train.learning_rate positive",
            (config.train.clip_norm, config.train.learning_rate),
        ),
        (
            0 < config.rows.minimum <= config.rows.maximum and config.rows.share > 0,
            "rows needs share > 0 and 0 < minimum <= maximum",
            config.rows,
        ),
        (
            rounds.interactions >= 0,
            "rounds.interactions must not be negative",
            rounds.interactions,
        ),
        (
            fusion.bins == "auto" or fusion.bins >= 2,
            'fusion.bins must be "auto" or at least 2',
            fusion.bins,
        ),
        (
            fusion.prior == "auto" or 0 <= fusion.prior < 1,
            'fusion.prior must be "auto", or at least 0 and below 1',
            fusion.prior,
        ),
        (
            fusion.hidden >= 1 and fusion.epochs >= 1 and fusion.batch >= 1,
            "fusion.hidden, fusion.epochs and fusion.batch must be at least 1",
            (fusion.hidden, fusion.epochs, fusion.batch),
        ),
        (
            0 < fusion.validation_share < 1 and fusion.max_seconds > 0 and fusion.max_rows > 1,
            "fusion needs 0 < validation_share < 1, max_seconds > 0 and max_rows > 1",
            (fusion.validation_share, fusion.max_seconds, fusion.max_rows),
        ),
        (
            rounds.rollout[-1] == 1
            and rounds.rollout[0] > 0
            and list(rounds.rollout) == sorted(set(rounds.rollout)),
            "rounds.rollout must ascend from above 0 to 1",
            rounds.rollout,
        ),
        (
            0 <= rounds.rollout_failures < 1,
            "rounds.rollout_failures must be at least 0 and below 1",
            rounds.rollout_failures,
        ),
        *guard_checks(config.guard, config.metrics),
        (
            fusion.update_clip > 0 and fusion.server_learning_rate >= 0,
            "fusion.update_clip must be positive, fusion.server_learning_rate at least 0",
            (fusion.update_clip, fusion.server_learning_rate),
        ),
        (
            config.limits.queue_messages >= 1 and config.limits.quarantine_bytes >= 0,
            "limits.queue_messages must be at least 1, limits.quarantine_bytes at least 0",
            config.limits,
        ),
        (
            config.limits.queue_bytes >= 1 and config.limits.device_bytes_per_s >= 1,
            "limits.queue_bytes and limits.device_bytes_per_s must be at least 1",
            config.limits,
        ),
        (
            config.limits.device_burst_bytes >= DEFAULT_LIMITS.message_bytes,
            f"limits.device_burst_bytes must be {DEFAULT_LIMITS.message_bytes} or more, as a "
            "larger message would never be taken",
            config.limits,
        ),
    )
    for holds, rule, value in checks:
        if not holds:
            return f"{rule}, not {value!r}"
    return ""
