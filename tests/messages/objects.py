"""Strategies that draw every message object, at and between its limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from edge_runtime.messages import (
    Ack,
    AggregatorStatus,
    AnchorRequest,
    DeviceProgress,
    DeviceState,
    Header,
    Plan,
    PrivacyStatement,
    RowRequest,
    ScoreRequest,
    TrainRequest,
    UpdateRequest,
)

ids = st.from_regex(r"\A[a-z0-9][a-z0-9_-]{0,62}\Z").filter(lambda text: text != "all")
hex32 = st.text("0123456789abcdef", min_size=32, max_size=32)
hex64 = st.text("0123456789abcdef", min_size=64, max_size=64)
counts = st.integers(0, 2**63 - 1)
fractions = st.floats(0, 1)
positive = st.floats(0, exclude_min=True, allow_infinity=False)
not_negative = st.floats(0, allow_infinity=False)
deltas = st.floats(0, 1, exclude_max=True)
# Surrogates are not text; everything else is.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
optional_epsilon = st.none() | not_negative

statements = st.builds(
    PrivacyStatement,
    mechanism=texts,
    epsilon=optional_epsilon,
    delta=deltas,
    unit=texts,
    accountant=texts,
)
extras = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    texts | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    max_size=8,
)


@st.composite
def headers(draw: st.DrawFn, kind: str | None = None) -> Header:
    kind = kind or draw(st.sampled_from(["batch", "census", "anchor", "score", "update"]))
    extra: dict[str, Any] = draw(extras)
    if kind != "batch":
        extra["sigma"] = draw(not_negative | st.integers(0, 1000))
    if kind in ("score", "update"):
        extra["clip_nats" if kind == "score" else "clip_norm"] = draw(positive)
    parts = draw(st.integers(1, 1_000_000))
    return Header(
        fleet=draw(ids),
        device=draw(ids),
        id=draw(hex32),
        sequence=draw(counts),
        kind=kind,  # type: ignore[arg-type]
        schema_digest=draw(hex64),
        codec_digest=draw(st.just("") | hex64),
        bundle_digest=draw(st.just("") | hex64),
        plan_id=draw(st.just("") | hex32),
        part=draw(st.integers(1, parts)),
        parts=parts,
        round=draw(counts),
        depth=draw(counts),
        seed=draw(st.just("") | hex64),
        privacy=draw(statements),
        extra=extra,
    )


trains = st.builds(
    TrainRequest,
    steps=st.integers(1, 10_000_000),
    expected_batch=st.integers(1, 10_000_000),
    clip_norm=st.floats(0.1, 1e6),
    learning_rate=positive,
    averaging=st.floats(0, 1, exclude_max=True),
)
tables = st.sets(st.integers(0, 65_535), min_size=1, max_size=4).map(lambda t: tuple(sorted(t)))
# Half each: score and anchor together leave something for training.
shares = st.floats(0, 0.49, exclude_min=True)
anchors = st.builds(
    AnchorRequest,
    share=shares,
    tables=st.lists(tables, min_size=1, max_size=5, unique=True).map(tuple),
)
scores = st.builds(ScoreRequest, share=shares, clip_nats=positive)
updates = st.builds(UpdateRequest, clip_norm=positive)


@st.composite
def row_requests(draw: st.DrawFn) -> RowRequest:
    low, high = sorted([draw(counts), draw(counts)])
    clamp = draw(st.sampled_from(["own", "balanced", "wish"]))
    weights = st.lists(st.floats(0, 1e6), min_size=1, max_size=9).filter(lambda w: sum(w) > 0)
    return RowRequest(
        share=draw(positive),
        minimum=low,
        maximum=high,
        clamp=clamp,  # type: ignore[arg-type]
        wish=tuple(draw(weights)) if clamp == "wish" else (),
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    common: dict[str, Any] = {
        "fleet": draw(ids),
        "id": draw(hex32),
        "round": draw(counts),
        "schema_digest": draw(hex64),
        "epsilon_after": draw(st.none() | positive),
        "delta": draw(deltas),
        "deadline_s": draw(positive),
        "quorum": draw(st.integers(1, 2**62)),
    }
    kind = draw(st.sampled_from(["census", "measure", "train", "sample"]))
    if kind == "census":
        return Plan(kind="census", census_sigma=draw(st.none() | not_negative), **common)
    if kind == "sample":
        return Plan(kind="sample", bundle_digest=draw(hex64), rows=draw(row_requests()), **common)
    score = draw(st.none() | scores)
    holdout = st.floats(0, 0.5, exclude_min=score is not None, exclude_max=True)
    common |= {"bundle_digest": draw(hex64), "score": score, "holdout": draw(holdout)}
    if kind == "measure":
        anchor = draw(anchors if score is None else st.none() | anchors)
        return Plan(kind="measure", anchor=anchor, **common)
    return Plan(
        kind="train",
        train=draw(trains),
        anchor=draw(st.none() | anchors),
        rows=draw(row_requests()),
        update=draw(st.none() | updates),
        **common,
    )


states = st.builds(
    DeviceState,
    device=ids,
    status=st.sampled_from(
        ["online", "offline", "waiting", "measuring", "training", "sampling", "sending", "idle",
         "declined", "stopped"]
    ),
    plan_id=st.just("") | hex32,
    round=counts,
    progress=fractions,
    private=st.booleans(),
    epsilon_spent=optional_epsilon,
    epsilon_limit=optional_epsilon,
    delta=deltas,
    outbox=counts,
    bytes_up=counts,
    rows_sent=counts,
    reason=texts,
    software=texts,
)  # fmt: skip
progresses = st.builds(
    DeviceProgress,
    status=texts,
    round=counts,
    batches=counts,
    rows=counts,
    quarantined=counts,
    bytes=counts,
    epsilon=optional_epsilon,
)
statuses = st.builds(
    AggregatorStatus,
    phase=st.sampled_from(["waiting", "census", "round", "fusing", "done", "failed", "offline"]),
    round=counts,
    rounds=counts,
    devices=st.dictionaries(ids, progresses, max_size=4),
    batches=counts,
    rows=counts,
    quarantined=counts,
    bundle_digest=st.just("") | hex64,
    progress=fractions,
    private=st.booleans(),
    metrics=st.dictionaries(
        texts, st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=4
    ),
    reason=texts,
)
acks = st.builds(
    Ack,
    id=st.just("") | hex32,
    sequence=counts,
    sha256=hex64,
    status=st.sampled_from(["accepted", "duplicate", "quarantined", "refused"]),
    reason=texts,
)

names = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=10),
    min_size=1,
    max_size=6,
    unique=True,
)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Header, np.ndarray, list[int], list[str]]:
    columns = draw(names)
    cardinalities = [draw(st.sampled_from([1, 2, 18, 255, 256, 257, 65_536])) for _ in columns]
    rows = draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    codes = rng.integers(0, cardinalities, (rows, len(columns))).astype(np.int32)
    if rows:
        codes[0] = np.array(cardinalities) - 1
    return draw(headers(kind="batch")), codes, cardinalities, columns


@st.composite
def summaries(draw: st.DrawFn) -> tuple[Header, dict[str, np.ndarray], list[int]]:
    sizes = draw(st.lists(st.integers(1, 20), min_size=1, max_size=12))
    kind = draw(st.sampled_from(["census", "anchor", "score"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def noisy(*shape: int) -> np.ndarray:
        return rng.integers(-(2**48), 2**48, shape, dtype=np.int64, endpoint=True)

    if kind == "census":
        tensors = {f"census.{d}": noisy(k) for d, k in enumerate(sizes)}
    elif kind == "score":
        tensors = {"score": noisy(2)}
    else:
        chosen = st.sets(st.integers(0, len(sizes) - 1), min_size=1, max_size=4)
        listed = draw(st.lists(chosen.map(sorted).map(tuple), min_size=1, max_size=6, unique=True))
        tensors = {
            ".".join(map(str, ("table", *table))): noisy(*(sizes[d] for d in table))
            for table in listed
        }
    return draw(headers(kind=kind)), tensors, sizes


def entropy_bytes(codes: np.ndarray) -> float:
    """Bytes per row that independent columns of these frequencies need at least."""
    bits = 0.0
    for column in codes.T:
        frequencies = np.bincount(column) / len(column)
        bits -= sum(p * math.log2(p) for p in frequencies if p > 0)
    return bits / 8
