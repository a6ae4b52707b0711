"""Batches under the generator they come from, at the inbox, before fusion and after a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.aggregator.guard.review import assess, review
from edge_runtime.generator import Bundle

from .conftest import Kit, make_inbox, make_kit, make_schema, make_table
from .guard.test_relations import taught
from .test_guard import _answer, _next, _send


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[Kit, Bundle]]:
    """Two devices and a generator that knows how the columns follow each other."""
    kit = make_kit(tmp_path, rounds={"count": 9})
    bundle = taught(kit.census_round())
    kit.workspace.add_bundle(bundle, status="published", reason="")
    yield kit, bundle
    kit.workspace.close()


def _shuffled(bundle: Bundle, rows: int, seed: int) -> np.ndarray:
    codes = bundle.codec.encode(make_table(make_schema(), rows, seed=seed + 900, origin=0)).codes
    return np.random.default_rng(seed).permuted(codes, axis=0)


def test_shuffled_columns_are_set_aside_at_the_inbox(small: tuple[Kit, Bundle]) -> None:
    kit, bundle = small
    plan = kit.open(1, bundle)
    device = kit.devices["a"]
    (said,) = _send(kit, "a", "batch", device.batch(plan, bundle, _shuffled(bundle, 400, 1)))
    assert said.startswith("quarantined: how its columns follow each other is kept to")
    honest = device.batches(plan, bundle, 400, parts=1)
    assert _send(kit, "a", "batch", *honest) == ["accepted"]
    assert review(kit.workspace, kit.inbox._gate, bundle.codec, 1) == []
    assert kit.workspace.catalogue.rows_of(["a"]) == {("a", 1): 400}


def test_what_a_device_sent_before_goes_with_what_shows_it(small: tuple[Kit, Bundle]) -> None:
    """Each of its batches is too small to tell, also across a restart; an honest one stays."""
    kit, bundle = small
    said: list[str] = []
    for number in range(1, 6):
        plan = kit.open(number, bundle)
        if number == 3:
            kit.inbox = make_inbox(kit.workspace)
            kit.inbox.use_codec(bundle.codec, bundle.layout)
        liar, honest = kit.devices["a"], kit.devices["b"]
        lie = _shuffled(bundle, 32, 10 * number + 2)
        said += _send(kit, "a", "batch", liar.batch(plan, bundle, lie))
        fine = honest.batches(plan, bundle, 32, parts=1, seed=number)
        assert _send(kit, "b", "batch", *fine) == ["accepted"]
        review(kit.workspace, kit.inbox._gate, bundle.codec, number)
    assert said[0] == "accepted"
    assert any("batches together" in one for one in said), said
    messages = kit.workspace.catalogue.messages
    aside = messages(kind="batch", status="quarantined", device="a")
    # More than were refused at the door: earlier ones have followed.
    assert len(aside) > sum(one.startswith("quarantined") for one in said)
    assert 1 in {record.round for record in aside}
    assert len(messages(kind="batch", device="b")) == 5


def test_the_gate_reads_one_device_and_only_once(
    small: tuple[Kit, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, bundle = small
    plan = kit.open(1, bundle)
    for name, device in kit.devices.items():
        assert _send(kit, name, "summary", device.anchor(plan, bundle)) == ["accepted"]
    read: list[str] = []
    original = Path.read_bytes

    def noted(path: Path) -> bytes:
        if "summaries" in path.parts:
            read.append(path.parent.name)
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", noted)
    device = kit.devices["a"]
    for seed in range(3):
        batch = device.batches(plan, bundle, 60, parts=1, seed=seed)
        assert _send(kit, "a", "batch", *batch) == ["accepted"]
    # Its counts of this round, and its census.
    assert read == ["device=a"] * len(read)
    assert 1 <= len(read) <= 2
    again = kit.open(2, bundle)
    assert _send(kit, "a", "summary", device.anchor(again, bundle)) == ["accepted"]
    before = len(read)
    batch = device.batches(again, bundle, 60, parts=1, seed=9)
    assert _send(kit, "a", "batch", *batch) == ["accepted"]
    assert len(read) > before


def test_after_a_drift_earlier_generators_are_measured_anew(tmp_path: Path) -> None:
    """What one kept of another population is no decline; what one keeps of this one is."""
    kit = make_kit(tmp_path)
    zero = kit.census_round()
    plan = kit.open(1, zero)
    _answer(kit, plan, zero)
    one = _next(kit, zero, 1)
    independent = _next(kit, one, 2)
    first = assess(kit.workspace, independent, round_number=1, found=[])
    kept = {f"pairs/{a.subject}": 1.0 for a in first.alarms if a.kind == "pairs"}
    assert kept
    kit.workspace.catalogue.put("guard.kept", json.dumps(kept))
    assert _severities(kit, independent, 1) == {"warning"}
    kit.workspace.catalogue.put("guard.kept", json.dumps(kept))
    kit.workspace.note_drift(1)
    assert _severities(kit, independent, 1) == {"notice"}
    # An earlier generator that keeps this population's dependence makes it a decline.
    kit.workspace.add_bundle(taught(zero, depth=2), status="published", reason="")
    assert "warning" in _severities(kit, independent, 1)
    kit.workspace.close()


def _severities(kit: Kit, bundle: Bundle, number: int) -> set[str]:
    found = assess(kit.workspace, bundle, round_number=number, found=[])
    return {a.severity for a in found.alarms if a.kind == "pairs"}
