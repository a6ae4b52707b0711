"""The guard at work: at the inbox, before fusion, on the score curve, and what it says."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime.aggregator.config import MetricsSettings
from edge_runtime.aggregator.guard.review import assess, review
from edge_runtime.aggregator.guard.rollback import curve, rollback
from edge_runtime.aggregator.metrics import Metrics
from edge_runtime.aggregator.status import status
from edge_runtime.errors import AggregatorError
from edge_runtime.fleet.broker import free_port
from edge_runtime.generator import Bundle
from edge_runtime.messages import AggregatorStatus, DeviceProgress, Plan, ScoreRequest
from edge_runtime.reception import Incoming
from edge_runtime.schema import Table

from .conftest import Device, Kit, make_inbox, make_kit, make_schema, make_table

SCORED = {"score": ScoreRequest(share=0.1, clip_nats=30.0), "holdout": 0.1}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Kit]:
    """Ten devices, each of one origin; counts have noise."""
    # Scores are added to the plans by hand: the counts' share must leave room for them.
    rounds = {"count": 9, "anchor_share": 0.15}
    kit = make_kit(tmp_path, fleet={"devices": 10}, rounds=rounds)
    kit.devices.clear()
    for number in range(10):
        name = f"d{number}"
        table = make_table(make_schema(), 1500, seed=number, origin=number % 3)
        kit.devices[name] = Device(
            name, table, make_schema(), sigma=4.0, epsilon=0.1, rng=np.random.default_rng(number)
        )
    yield kit
    kit.workspace.close()


def _send(kit: Kit, device: str, kind: str, *payloads: bytes) -> list[str]:
    acks = kit.inbox.accept([Incoming(device, kind, payload) for payload in payloads])
    return [f"{ack.status}: {ack.reason}" if ack.reason else ack.status for ack in acks]


def _codes(device: Device, bundle: Bundle, rows: int, seed: int = 1) -> np.ndarray:
    """Fresh rows like the device's own."""
    origin = {"EWR": 0, "JFK": 1, "LGA": 2, "other": 3}[device.table.columns["origin"][0]]
    return bundle.codec.encode(
        make_table(device.schema, rows, seed=seed + 5000, origin=origin)
    ).codes


def _poison(codes: np.ndarray, how: str, bundle: Bundle) -> np.ndarray:
    rng, made = np.random.default_rng(0), codes.copy()
    if how == "flip":
        made[:, 0] = 1 - made[:, 0]
    elif how == "constant":
        made[:] = made[0]
    elif how == "uniform":
        for d, size in enumerate(bundle.codec.cardinalities):
            made[:, d] = rng.integers(0, size, len(made))
    else:
        for d in range(made.shape[1]):
            made[:, d] = rng.permutation(made[:, d])
    return made


def _answer(kit: Kit, plan: Plan, bundle: Bundle, **poisoned: str) -> dict[str, list[str]]:
    """Every device answers with its anchor, then its rows."""
    said = {}
    for number, (name, device) in enumerate(kit.devices.items()):
        codes = _codes(device, bundle, 1500, seed=100 * plan.round + number)
        if name in poisoned:
            codes = _poison(codes, poisoned[name], bundle)
        said[name] = _send(kit, name, "summary", device.anchor(plan, bundle))
        said[name] += _send(kit, name, "batch", device.batch(plan, bundle, codes))
    return said


# batches --------------------------------------------------------------------------------------


def test_poisoned_batches_are_set_aside_and_one_origin_is_normal(fleet: Kit) -> None:
    bundle = fleet.census_round()
    plan = fleet.open(1, bundle)
    said = _answer(fleet, plan, bundle, d1="flip", d4="constant", d7="uniform", d8="shuffle")
    for name, (anchor, batch) in said.items():
        assert anchor == "accepted"
        if name in ("d1", "d4", "d7", "d8"):
            assert batch.startswith("quarantined: "), name
        else:
            assert batch == "accepted", batch
    assert "device's own counts" in said["d1"][1]
    assert "1 different rows among" in said["d4"][1]
    # Nothing is dropped: bytes and reason are kept.
    for name in ("d1", "d4", "d7", "d8"):
        (note,) = (fleet.config.data_dir / "quarantine" / name).glob("*.json")
        assert json.loads(note.read_text())["reason"].startswith(
            said[name][1].removeprefix("quarantined: ")
        )
        assert note.with_suffix(".bin").stat().st_size > 0
    assert fleet.workspace.catalogue.totals()["rows"] == 6 * 1500


def test_devices_of_one_class_only_are_normal(fleet: Kit) -> None:
    for number, device in enumerate(fleet.devices.values()):
        late = device.table.columns["late"] == number % 2
        device.table = device.table.take(np.flatnonzero(late))
    bundle = fleet.census_round()
    plan = fleet.open(1, bundle)
    for number, (name, device) in enumerate(fleet.devices.items()):
        codes = _codes(device, bundle, 3000, seed=number)
        own = codes[codes[:, 0] == number % 2][:500]
        if name in ("d2", "d3"):
            own = _poison(own, "flip", bundle)
        assert _send(fleet, name, "summary", device.anchor(plan, bundle)) == ["accepted"]
        (said,) = _send(fleet, name, "batch", device.batch(plan, bundle, own))
        assert (said == "accepted") == (name not in ("d2", "d3")), said
        if name in ("d2", "d3"):
            assert "of the rows differ from its device's own counts" in said
    assert review(fleet.workspace, fleet.inbox._gate, bundle.codec, 1) == []
    assert fleet.workspace.catalogue.totals()["rows"] == 8 * 500


def test_a_copy_is_set_aside_whoever_sends_it_and_after_a_restart(fleet: Kit) -> None:
    bundle = fleet.census_round()
    plan = fleet.open(1, bundle)
    first, second = fleet.devices["d0"], fleet.devices["d3"]  # of the same origin
    codes = _codes(first, bundle, 400)
    assert _send(fleet, "d0", "batch", first.batch(plan, bundle, codes)) == ["accepted"]
    again = second.batch(plan, bundle, codes[::-1].copy())
    (said,) = _send(fleet, "d3", "batch", again)
    assert "all 400 rows are those of batch" in said
    assert "device d0" in said
    fleet.inbox = make_inbox(fleet.workspace)
    fleet.inbox.use_codec(bundle.codec, bundle.layout)
    (said,) = _send(fleet, "d3", "batch", second.batch(plan, bundle, codes))
    assert "all 400 rows are those of batch" in said
    assert _send(
        fleet, "d3", "batch", second.batch(plan, bundle, _codes(second, bundle, 300, seed=11))
    ) == ["accepted"]


def test_what_a_full_disk_refused_is_no_copy_of_itself(
    fleet: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = fleet.census_round()
    plan = fleet.open(1, bundle)
    device = fleet.devices["d0"]
    payload = device.batch(plan, bundle, _codes(device, bundle, 300))
    with monkeypatch.context() as patched:
        patched.setattr(fleet.workspace.catalogue, "add_messages", _fail)
        with pytest.raises(OSError, match="full"):
            _send(fleet, "d0", "batch", payload)
    assert _send(fleet, "d0", "batch", payload) == ["accepted"]


def _fail(_records: object) -> None:
    raise OSError("the disk is full")


def test_a_batch_before_its_summary_is_judged_again_before_fusion(fleet: Kit) -> None:
    bundle = fleet.census_round()
    plan = fleet.open(1, bundle)
    device = fleet.devices["d2"]
    # Exchanged labels keep every single column, which is all that the census knows.
    rng = np.random.default_rng(3)
    codes = _codes(device, bundle, 3000)
    late, hour = codes[:, 0].copy(), codes[:, 1]
    codes[:, 0] = np.sort(late)[np.argsort(np.argsort(-hour + rng.random(len(hour))))]
    assert _send(fleet, "d2", "batch", device.batch(plan, bundle, codes)) == ["accepted"]
    (record,) = fleet.workspace.catalogue.messages(kind="batch")
    pooled = fleet.config.data_dir / record.path
    assert pooled.exists()
    assert _send(fleet, "d2", "summary", device.anchor(plan, bundle)) == ["accepted"]
    assert review(fleet.workspace, fleet.inbox._gate, bundle.codec, 1) == []
    (moved,) = fleet.workspace.catalogue.messages(kind="batch", status="quarantined")
    assert moved.id == record.id
    assert moved.path == f"quarantine/d2/{record.id}.parquet"
    assert (fleet.config.data_dir / moved.path).exists()
    assert not pooled.exists()
    assert len(fleet.workspace.pool_rows().codes) == 0
    note = json.loads((fleet.config.data_dir / moved.path).with_suffix(".json").read_text())
    assert note["reason"] == moved.reason
    # Asked again, the device hears the same.
    payload = device.batch(plan, bundle, codes, id=record.id)
    assert "refused" in _send(fleet, "d2", "batch", payload)[0]


def test_a_poisoned_device_is_set_aside_with_all_it_sent(fleet: Kit) -> None:
    bundle = fleet.census_round()
    for name in ("d5", "d6"):
        # Its real rows are wrong: its summary and its batch agree with each other.
        _exchange_labels(fleet.devices[name])
    plan = fleet.open(1, bundle)
    for name, device in fleet.devices.items():
        assert _send(fleet, name, "summary", device.anchor(plan, bundle)) == ["accepted"]
        codes = _codes(device, bundle, 400, seed=int(name[1]))
        if name in ("d5", "d6"):
            codes[:, 0] = 1 - codes[:, 0]
        assert _send(fleet, name, "batch", device.batch(plan, bundle, codes)) == ["accepted"]
    alarms = review(fleet.workspace, fleet.inbox._gate, bundle.codec, 1)
    assert {a.subject for a in alarms} == {"d5", "d6"}
    assert {a.kind for a in alarms} == {"device"}
    catalogue = fleet.workspace.catalogue
    assert {r.device for r in catalogue.messages(kind="anchor")} == fleet.devices.keys() - {
        "d5",
        "d6",
    }
    assert {r.device for r in catalogue.messages(kind="batch", status="quarantined")} == {
        "d5",
        "d6",
    }
    # What comes late from it in this round is set aside as well, in the next it is heard again.
    device = fleet.devices["d5"]
    late_one = device.batch(plan, bundle, _codes(device, bundle, 50, seed=77))
    assert "the fleet" in _send(fleet, "d5", "batch", late_one)[0]
    assert fleet.workspace.catalogue.rows_of(["d5"]) == {}
    assert fleet.workspace.outlying(2) == {}


def _exchange_labels(device: Device) -> None:
    table = device.table
    late = (1 - table.columns["late"]).astype(np.int8)
    device.table = Table(
        schema=table.schema,
        columns={**table.columns, "late": late},
        missing=dict(table.missing),
    )


def test_the_check_of_batches_can_be_switched_off(tmp_path: Path) -> None:
    kit = make_kit(tmp_path, guard={"batches": False})
    bundle = kit.census_round()
    plan = kit.open(1, bundle)
    device = kit.devices["a"]
    codes = np.zeros((300, 4), np.int32)
    assert _send(kit, "a", "batch", device.batch(plan, bundle, codes)) == ["accepted"]
    assert review(kit.workspace, kit.inbox._gate, bundle.codec, 1) == []
    kit.workspace.close()


# the score curve and rollback -----------------------------------------------------------------


def _next(kit: Kit, bundle: Bundle, number: int, status_: str = "published") -> Bundle:
    """Another generator of the next generation."""
    lineage = msgspec.structs.replace(
        bundle.lineage, parent=bundle.digest, depth=bundle.lineage.depth + 1, round=number
    )
    made = bundle.with_weights(bundle.weights, lineage=lineage, metrics={"number": float(number)})
    kit.workspace.add_bundle(made, status=status_, reason="")
    return made


def _scored(kit: Kit, bundle: Bundle, number: int, nats: float) -> Plan:
    plan = kit.open(number, bundle, **SCORED)
    for index, (name, device) in enumerate(kit.devices.items()):
        own = nats + 0.5 * np.sin(index) + 0.01 * np.sin(7 * index + number)
        device.sigma = 20.0
        score = device.score(plan, bundle, nats=own, rows=150)
        device.sigma = 4.0
        assert _send(kit, name, "summary", score) == ["accepted"]
    return plan


def test_a_bundle_that_is_worse_than_an_earlier_one_is_withdrawn(fleet: Kit) -> None:
    zero = fleet.census_round()
    one = _next(fleet, zero, 1)
    _scored(fleet, zero, 1, 12.0)
    two = _next(fleet, one, 2)
    _scored(fleet, one, 2, 9.0)
    assert rollback(fleet.workspace, round_number=2) is None
    three = _next(fleet, two, 3)
    _scored(fleet, two, 3, 9.03)
    assert rollback(fleet.workspace, round_number=3) is None
    plan = _scored(fleet, three, 4, 9.8)
    back = rollback(fleet.workspace, round_number=4)
    assert back is not None
    assert back.best == one.digest
    assert back.withdrawn == (two.digest, three.digest)
    assert [a.kind for a in back.alarms] == ["likelihood", "rollback"]
    assert all(a.severity == "critical" for a in back.alarms)
    in_force = fleet.workspace.bundle()
    assert in_force is not None
    assert in_force.digest == one.digest
    withdrawn = fleet.workspace.catalogue.bundles(status="withdrawn")
    assert [b.digest for b in withdrawn] == [two.digest, three.digest]
    assert "withdrawn in round 4: held-out real rows are 0." in withdrawn[0].reason
    # Once is enough; a device that was still at work on it is heard.
    assert rollback(fleet.workspace, round_number=4) is None
    device = fleet.devices["d0"]
    codes = _codes(device, three, 100)
    assert _send(fleet, "d0", "batch", device.batch(plan, three, codes)) == ["accepted"]
    shown = status(fleet.config.data_dir)
    assert shown["bundle"]["digest"] == one.digest
    assert len(shown["withdrawn"]) == 2
    assert [round(p["nll"]) for p in shown["curve"]] == [12, 9, 9, 10]


def test_repeated_rejections_return_to_the_best_score(fleet: Kit) -> None:
    zero = fleet.census_round()
    one = _next(fleet, zero, 1)
    _scored(fleet, zero, 1, 9.0)
    _scored(fleet, one, 2, 9.04)  # not significantly worse
    for number in (2, 3):
        _next(fleet, one, number, "rejected")
        assert rollback(fleet.workspace, round_number=number, rejected=True) is None
    _next(fleet, one, 4, "rejected")
    back = rollback(fleet.workspace, round_number=4, rejected=True)
    assert back is not None
    assert back.withdrawn == (one.digest,)
    assert {a.kind for a in back.alarms} == {"rejections", "rollback"}
    # From the best there is no further back, but people are told.
    again = rollback(fleet.workspace, round_number=4, rejected=True)
    assert again is not None
    assert again.withdrawn == ()
    assert [a.kind for a in again.alarms] == ["rejections"]


def test_after_a_drift_older_scores_are_about_other_rows(fleet: Kit) -> None:
    zero = fleet.census_round()
    one = _next(fleet, zero, 1)
    counted = {"extra": {"sigma": 4.0, "holdout": SCORED["holdout"]}}
    plan = _scored(fleet, zero, 1, 8.0)
    for name, device in fleet.devices.items():
        payload = device.anchor(plan, zero, **counted)
        assert _send(fleet, name, "summary", payload) == ["accepted"]
    assert review(fleet.workspace, fleet.inbox._gate, zero.codec, 1) == []
    for number, device in enumerate(fleet.devices.values()):
        # Flights are now all in the evening, and harder to foresee.
        rows = np.flatnonzero(device.table.columns["hour"] > 12)
        device.table = device.table.take(rows)
        device.rng = np.random.default_rng(900 + number)
    plan = _scored(fleet, one, 2, 9.5)
    for name, device in fleet.devices.items():
        payload = device.anchor(plan, one, **counted)
        assert _send(fleet, name, "summary", payload) == ["accepted"]
    alarms = review(fleet.workspace, fleet.inbox._gate, zero.codec, 2)
    assert [(a.kind, a.severity) for a in alarms] == [("drift", "notice")]
    assert "hour" in alarms[0].text
    assert fleet.workspace.drift_round == 2
    assert rollback(fleet.workspace, round_number=2) is None
    assert [p.bundle for p in curve(fleet.workspace)] == [one.digest]
    # The anchor has moved with the rows.
    anchor = fleet.workspace.anchor(one)
    assert anchor is not None
    table = anchor.one_way(1)
    assert table is not None
    evening = table.distribution[bundle_codes(one, 13) :].sum()
    assert evening > 0.97


def bundle_codes(bundle: Bundle, hour: int) -> int:
    return int(bundle.codec.code_of(1, hour))


# what it says ---------------------------------------------------------------------------------


def test_alarms_are_kept_with_their_beginning(fleet: Kit) -> None:
    zero = fleet.census_round()
    plan = fleet.open(1, zero)
    _answer(fleet, plan, zero)
    # A generator whose columns are independent has lost what relates late and hour.
    one = _next(fleet, zero, 1)
    first = assess(fleet.workspace, one, round_number=1, found=[])
    assert first.bundle_digest == one.digest
    assert {a.severity for a in first.alarms} == {"notice"}
    pairs = [a for a in first.alarms if a.kind == "pairs"]
    assert pairs
    assert "No earlier generator kept more" in pairs[0].text
    # Had an earlier one kept it, it would be a decline.
    kept = {f"pairs/{a.subject}": 1.0 for a in pairs}
    fleet.workspace.catalogue.put("guard.kept", json.dumps(kept))
    second = assess(fleet.workspace, one, round_number=2, found=[])
    third = assess(fleet.workspace, one, round_number=3, found=[])
    found = [a for a in third.alarms if a.kind == "pairs"]
    assert {a.severity for a in found} == {"warning"}
    assert {a.since_round for a in found} == {2}
    assert second.alarms == third.alarms
    shown = status(fleet.config.data_dir)["alarms"]
    assert [a["kind"] for a in shown] == [a.kind for a in third.alarms]
    assert shown[0]["severity"] == "warning"


def test_the_first_generator_is_not_judged_and_budgets_are_named(fleet: Kit) -> None:
    zero = fleet.census_round()
    plan = fleet.open(1, zero)
    assert assess(fleet.workspace, zero, round_number=0, found=[]).alarms == ()
    limit = fleet.config.privacy.limit
    assert limit is not None
    payload = fleet.devices["d0"].anchor(plan, zero)
    assert _send(fleet, "d0", "summary", payload) == ["accepted"]
    # The last round may spend all of it.
    plan = fleet.open(9, zero)
    device = fleet.devices["d1"]
    device.epsilon = 0.95 * limit
    assert _send(fleet, "d1", "summary", device.anchor(plan, zero)) == ["accepted"]
    (alarm,) = assess(fleet.workspace, zero, round_number=9, found=[]).alarms
    assert (alarm.kind, alarm.severity, alarm.value) == ("budget", "notice", 0.95 * limit)
    assert "1 of 10 devices (d1)" in alarm.text


def test_prometheus_reads_figures_and_alarms(fleet: Kit) -> None:
    zero = fleet.census_round()
    plan = fleet.open(1, zero)
    _answer(fleet, plan, zero)
    one = _next(fleet, zero, 1)
    _scored(fleet, one, 2, 9.0)
    alarms = assess(fleet.workspace, one, round_number=1, found=[])
    port = free_port()
    metrics = Metrics(MetricsSettings(port=port))
    try:
        assert "edge_runtime" not in _read(port)
        shown = AggregatorStatus(
            phase="round",
            round=2,
            rounds=9,
            devices={
                "d0": DeviceProgress(
                    status="idle",
                    epsilon=0.5,
                    quarantined=3,
                    throttled="slow: temperature 80 C",
                )
            },
            batches=10,
            rows=4000,
            quarantined=3,
            unauthentic=7,
            metrics={"validation_nll": 8.5, "none": None},
        )
        metrics.show(shown, alarms, curve(fleet.workspace))
        text = _read(port)
        with pytest.raises(AggregatorError, match="another port"):
            Metrics(MetricsSettings(port=port))
    finally:
        metrics.close()
    for line in (
        'edge_runtime_phase{phase="round"} 1.0',
        "edge_runtime_rows_accepted_total 4000.0",
        "edge_runtime_messages_quarantined_total 3.0",
        "edge_runtime_messages_unauthentic_total 7.0",
        'edge_runtime_devices{state="idle"} 1.0',
        'edge_runtime_device_epsilon{device="d0"} 0.5',
        'edge_runtime_device_throttled{device="d0",level="slow"} 1.0',
        'edge_runtime_candidate{figure="validation_nll"} 8.5',
        'edge_runtime_alarms{severity="critical"} 0.0',
    ):
        assert line in text.splitlines()
    assert 'edge_runtime_alarm{kind="pairs",severity="notice"' in text
    assert f'edge_runtime_score_nats{{bundle="{one.digest[:12]}",round="2"}} ' in text


def _read(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())
