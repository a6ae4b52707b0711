"""Devices whose own counts are out of line with the fleet, by robust comparison with their peers.

Label skew is normal: devices are compared within the same condition only, and a device that shares
no condition with two others is not judged. Feature skew is normal, too: how far honest devices are
from each other is estimated from the fleet itself (median and median absolute deviation over
devices), so that a fifth of them poisoned moves no limit. Two statistics are used:

distance
    how far a device's shares of the other columns, given the condition, are from those of its
    peers (squared Euclidean distance less what noise and sampling add to it, which makes it
    unbiased; of all peers the lower median, so that poisoned peers do not count);
contrast
    how the other columns differ between two conditions, projected on how they differ in the rest of
    the fleet: 1 for a device like the others, 0 where condition and columns are unrelated
    (shuffled, uniform), -1 where labels are exchanged. What a device has of its own in every
    condition cancels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Table
from edge_runtime.aggregator.guard.batches import Finding

__all__ = ["DeviceLimits", "outlying_devices"]

F64 = npt.NDArray[np.float64]

#: a condition counts as held by a device from this many rows and deviations of its noise
_LEAST_ROWS, _LEAST_SIGMAS = 20.0, 4.0

#: scales the median absolute deviation to a standard deviation (normal distribution)
_MAD = 1.4826

#: peers below which a device is not judged
_LEAST_PEERS = 2


class DeviceLimits(NamedTuple):
    """What is allowed.

    Parameters
    ----------
    deviations : float
        Robust standard deviations from the fleet's median.
    distance : float
        Distance that is always allowed, the root over a column's squared differences of shares.
        Where honest devices differ by more than that they set no standard, and only contrasts are
        compared.
    contrast : float
        A device's projected contrast below this is out of line, once noise is allowed for.
    devices : int
        Comparable devices below which nobody is judged.
    """

    deviations: float = 6.0
    distance: float = 0.15
    contrast: float = 0.35
    devices: int = 5


class _Profile(NamedTuple):
    """Shares of one column given one condition: float64 [K], and the variance of each."""

    share: F64
    variance: F64


_Profiles = dict[tuple[int, int], _Profile]


def outlying_devices(
    tables: Mapping[str, Sequence[Table]],
    *,
    names: Sequence[str],
    conditions: Sequence[int] = (),
    limits: DeviceLimits | None = None,
) -> dict[str, Finding]:
    """Find devices whose counts are out of line with the fleet.

    Parameters
    ----------
    tables : mapping of str to sequence of Table
        Every device's own noisy counts.
    names : sequence of str
        Column names.
    conditions : sequence of int
        Condition columns; the first is the one that devices are compared within. Without any,
        whole columns are compared.
    limits : DeviceLimits, optional
        What is allowed.

    Returns
    -------
    dict of str to Finding
        By device, only those out of line.
    """
    limits = limits or DeviceLimits()
    given = conditions[0] if conditions else None
    profiles = {device: _profiles(own, given) for device, own in tables.items()}
    found = _far(profiles, limits)
    if given is not None:
        for device, finding in _contrary(profiles, names[given], limits).items():
            found.setdefault(device, finding)
    return found


def _profiles(tables: Sequence[Table], given: int | None) -> _Profiles:
    """Shares by (condition, column), of the conditions that the device surely holds.

    The noise of each share is that of its count and of the condition's sum; the device's rows are
    themselves a sample of what they come from.
    """
    found: _Profiles = {}
    for table in tables:
        if given is None:
            if table.counts.ndim != 1:
                continue
            column, block = table.columns[0], table.counts[None, :]
        else:
            if table.counts.ndim != 2 or given not in table.columns:
                continue
            first = table.columns[0] == given
            column = table.columns[1 if first else 0]
            block = table.counts if first else table.counts.T
        for condition, counts in enumerate(block):
            rows = float(counts.sum())
            error = math.sqrt(table.variance * len(counts))
            if rows < max(_LEAST_ROWS, _LEAST_SIGMAS * error):
                continue
            share = counts / rows
            sampled = np.clip(share, 0, 1) * (1 - np.clip(share, 0, 1)) / rows
            noise = table.variance * (1 - 2 * share + len(counts) * share**2) / rows**2
            found[condition, column] = _Profile(share, sampled + np.maximum(noise, 0.0))
    return found


def _far(profiles: Mapping[str, _Profiles], limits: DeviceLimits) -> dict[str, Finding]:
    """Devices that are far from most of their peers."""
    distances: dict[str, list[tuple[float, float]]] = {device: [] for device in profiles}
    for a, b in itertools.combinations(profiles, 2):
        both = _squared_distance(profiles[a], profiles[b])
        if both is not None:
            distances[a].append(both)
            distances[b].append(both)
    typical = {device: _closest_third(found) for device, found in distances.items() if found}
    if len(typical) < limits.devices:
        return {}
    values = np.array([value for value, _ in typical.values()])
    middle = float(np.median(values))
    if middle > limits.distance**2:
        # Peers that have little in common (a carrier with one destination) set no standard.
        return {}
    spread = _MAD * float(np.median(np.abs(values - middle)))
    found = {}
    for device, (value, error) in typical.items():
        if len(distances[device]) < _LEAST_PEERS:
            continue  # of two that disagree, nobody knows which is right
        allowed = max(0.0, middle) + limits.deviations * spread + 4 * error
        allowed = max(allowed, limits.distance**2 + 4 * error)
        if value > allowed:
            found[device] = Finding(
                "device",
                f"its counts of real rows are out of line with its peers': within the same "
                f"condition its shares differ from those of its closest third of peers by "
                f"{_root(value):.2f} a column (root of squares), honest devices' by "
                f"{_root(middle):.2f}, at most {_root(allowed):.2f} is allowed",
                _root(value),
                _root(middle),
                _root(allowed),
            )
    return found


def _squared_distance(a: _Profiles, b: _Profiles) -> tuple[float, float] | None:
    """Mean over shared (condition, column) of the squared distance less noise, and its error."""
    shared = a.keys() & b.keys()
    if not shared:
        return None
    total = variance = 0.0
    for key in shared:
        noise = a[key].variance + b[key].variance
        total += float(((a[key].share - b[key].share) ** 2 - noise).sum())
        variance += 2 * float((noise**2).sum())
    return total / len(shared), math.sqrt(variance) / len(shared)


def _closest_third(found: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sorted(found)[(len(found) - 1) // 3]


def _contrary(
    profiles: Mapping[str, _Profiles], condition: str, limits: DeviceLimits
) -> dict[str, Finding]:
    """Devices in which condition and columns are not related as in the rest of the fleet."""
    columns = sorted({column for own in profiles.values() for _, column in own})
    held = [
        {c for c, _ in own if all((c, column) in own for column in columns)}
        for own in profiles.values()
    ]
    pairs: dict[tuple[int, int], int] = {}
    for conditions in held:
        for pair in itertools.combinations(sorted(conditions), 2):
            pairs[pair] = pairs.get(pair, 0) + 1
    if not pairs:
        return {}
    one, two = max(pairs, key=lambda pair: (pairs[pair], -pair[0], -pair[1]))
    contrasts: dict[str, tuple[F64, F64]] = {}
    for (device, own), conditions in zip(profiles.items(), held, strict=True):
        if {one, two} <= conditions:
            contrasts[device] = (
                np.concatenate([own[two, d].share - own[one, d].share for d in columns]),
                np.concatenate([own[two, d].variance + own[one, d].variance for d in columns]),
            )
    if len(contrasts) < limits.devices:
        return {}
    projected = {device: _project(device, contrasts) for device in contrasts}
    values = np.array([value for value, _ in projected.values()])
    middle = float(np.median(values))
    spread = _MAD * float(np.median(np.abs(values - middle)))
    found = {}
    for device, (value, error) in projected.items():
        # How strong the relation is varies more among honest devices than its direction.
        allowed = min(limits.contrast, max(-0.25, middle - limits.deviations * spread)) - 4 * error
        if value < allowed:
            found[device] = Finding(
                "device",
                f"in its counts of real rows {condition} and the other columns are related "
                f"{value:+.2f} times as in the rest of the fleet (1 is alike, 0 unrelated, "
                f"-1 exchanged); others have {middle:+.2f}, at least {allowed:+.2f} is allowed",
                value,
                middle,
                allowed,
            )
    return found


def _project(device: str, contrasts: Mapping[str, tuple[F64, F64]]) -> tuple[float, float]:
    """Return a device's contrast in units of the fleet's, and the error that its noise makes."""
    own, variance = contrasts[device]
    others = np.stack([contrast for name, (contrast, _) in contrasts.items() if name != device])
    fleet = np.median(others, axis=0)
    square = float((fleet**2).sum())
    if square <= 0:
        return 1.0, 0.0
    return (
        float((own * fleet).sum()) / square,
        math.sqrt(float((variance * fleet**2).sum())) / square,
    )


def _root(value: float) -> float:
    return math.sqrt(max(0.0, value))
