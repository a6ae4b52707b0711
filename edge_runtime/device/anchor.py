"""The anchor: noisy low-order counts of codes, which keep what each device alone smooths away."""

from __future__ import annotations

import logging
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from edge_runtime.device.bench import Bench
from edge_runtime.device.budget import counts_cost, counts_sigma
from edge_runtime.device.census import CENSUS_KEY
from edge_runtime.device.clamp import NoisyCounts, combine, noisy_rows
from edge_runtime.errors import PlanError
from edge_runtime.kernel import PrivacyNoise, count_codes, count_pairs
from edge_runtime.messages import AnchorRequest, Header, Plan, decode_summary, encode_summary
from edge_runtime.privacy import release_counts
from edge_runtime.schema import Codec, Schema

__all__ = ["ANCHOR_KEY", "Released", "release_anchor"]

_LOG = logging.getLogger(__name__)

I64 = npt.NDArray[np.int64]

#: where the device keeps the last anchor it released: the message itself
ANCHOR_KEY = "release.anchor"


def release_anchor(
    bench: Bench,
    plan: Plan,
    request: AnchorRequest,
    *,
    codes: npt.NDArray[np.int32],
    codec: Codec,
    schema: Schema,
) -> None:
    """Release one-way counts of all columns and the pair counts a plan asks for, once per plan.

    Parameters
    ----------
    codes : int32 [rows, columns]
        Real rows.
    """
    key = f"{plan.id}/anchor"
    columns = len(codec.cardinalities)
    _check_pairs(request.pairs, columns)
    # One row adds 1 to one cell of every column and of every pair.
    sensitivity_squared = columns + len(request.pairs)
    entry = bench.ledger.find(key)
    if entry is not None and entry.released:
        return
    bench.reporter.set(status="measuring", progress=0.0, reason="")
    if entry is None:
        sigma = counts_sigma(
            sensitivity_squared=sensitivity_squared,
            spent=bench.ledger.rdp_spent(),
            epsilon_after=plan.epsilon_after,
            delta=bench.ledger.delta,
            share=request.share,
        )
        entry = bench.ledger.spend(
            key=key,
            what="anchor",
            rdp=counts_cost(sigma=sigma, sensitivity_squared=sensitivity_squared)
            if sigma
            else None,
            details={"round": plan.round, "sigma": str(sigma), "pairs": len(request.pairs)},
        )
    bench.show_spent()
    sigma = Fraction(entry.details["sigma"])
    noisy = release_counts(
        entry,
        _counts(codes, codec.cardinalities, request.pairs),
        sensitivity_squared=sensitivity_squared,
        sigma=sigma,
        noise=PrivacyNoise(),
    )
    statement = bench.statement(entry, mechanism="discrete-gaussian", schema=schema)
    with bench.store.transaction():
        header = bench.header(
            plan=plan,
            kind="anchor",
            privacy=statement,
            codec_digest=codec.digest,
            extra={"sigma": float(sigma)},
        )
        payload = encode_summary(header, noisy)
        bench.outbox.add(sequence=header.sequence, id=header.id, kind="summary", payload=payload)
        bench.ledger.mark_released(key, header.id)
        bench.store.put(ANCHOR_KEY, payload)
    _LOG.info("anchor released with noise of standard deviation %.4g per count", float(sigma))


def _check_pairs(pairs: tuple[tuple[int, int], ...], columns: int) -> None:
    # A pair counted twice would be paid for twice and sent once.
    if len(set(pairs)) != len(pairs) or any(b >= columns for _, b in pairs):
        raise PlanError(f"the plan's anchor names a pair twice, or columns beyond {columns - 1}")


def _counts(
    codes: npt.NDArray[np.int32],
    cardinalities: tuple[int, ...],
    pairs: tuple[tuple[int, int], ...],
) -> dict[str, I64]:
    counts = {
        f"one_way.{column}": count_codes(codes[:, column], cardinality)
        for column, cardinality in enumerate(cardinalities)
    }
    for a, b in pairs:
        counts[f"pair.{a}.{b}"] = count_pairs(
            codes[:, a], codes[:, b], cardinalities[a], cardinalities[b]
        )
    return counts


class Released:
    """What this device has released so far and may use again without any further cost.

    Parameters
    ----------
    bench : Bench
        For the store that keeps the last census and anchor.
    schema : Schema
        A census of another schema does not count.
    codec : Codec
        An anchor of another codec does not count.
    """

    def __init__(self, *, bench: Bench, schema: Schema, codec: Codec) -> None:
        self._codec = codec
        self._schema = schema
        census = bench.store.get(CENSUS_KEY)
        anchor = bench.store.get(ANCHOR_KEY)
        self._census = self._usable(census, census=True)
        self._anchor = self._usable(anchor, census=False)

    def _usable(
        self, data: bytes | None, *, census: bool
    ) -> tuple[Header, dict[str, I64], float] | None:
        if data is None:
            return None
        header, tensors = decode_summary(data)
        if header.schema_digest != self._schema.digest:
            return None
        if not census and header.codec_digest != self._codec.digest:
            return None
        return header, tensors, float(header.extra["sigma"])

    def rows(self) -> float | None:
        """Estimate of the device's rows, or None before any release."""
        releases = []
        for release, prefix in ((self._anchor, "one_way"), (self._census, "census")):
            if release is not None:
                _, tensors, sigma = release
                releases.append((_columns(tensors, prefix), sigma))
        return noisy_rows(releases) if releases else None

    def conditions(self) -> list[NoisyCounts]:
        """Noisy histogram over codes of each leading condition column that has one."""
        histograms = []
        for column in self._schema.conditions:
            estimates = []
            cardinality = self._codec.cardinalities[column]
            if self._anchor is not None:
                _, tensors, sigma = self._anchor
                estimates.append(NoisyCounts(tensors[f"one_way.{column}"].astype(float), sigma))
            if self._census is not None:
                _, tensors, sigma = self._census
                cells = tensors[f"census.{column}"]
                # Cells are codes where each value has one of its own; bins would need a mapping.
                if cells.size == cardinality and self._schema.columns[column].kind in (
                    "category",
                    "boolean",
                ):
                    estimates.append(NoisyCounts(cells.astype(float), sigma))
            if not estimates:
                break
            histograms.append(combine(estimates))
        return histograms

    def condition_pairs(self) -> dict[tuple[int, int], NoisyCounts]:
        """Noisy pair counts of neighbouring condition columns, where the anchor has them."""
        if self._anchor is None:
            return {}
        _, tensors, sigma = self._anchor
        found = {}
        for a in self._schema.conditions[:-1]:
            pair = tensors.get(f"pair.{a}.{a + 1}")
            if pair is not None:
                found[(a, a + 1)] = NoisyCounts(pair.astype(float), sigma)
        return found


def _columns(tensors: dict[str, I64], prefix: str) -> list[I64]:
    count = sum(name.startswith(f"{prefix}.") for name in tensors)
    return [tensors[f"{prefix}.{column}"] for column in range(count)]
