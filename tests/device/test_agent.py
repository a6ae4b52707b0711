"""The real process over a real broker: the whole path, kills, and what must never be seen."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import re
import signal
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_runtime.device.store import Store
from edge_runtime.fleet.broker import Broker
from edge_runtime.generator import Bundle, Lineage
from edge_runtime.messages import decode_batch, decode_summary, encode_plan
from edge_runtime.privacy import Ledger
from edge_runtime.schema import Schema

#: modules that a device must do without, whatever else is installed beside it
HEAVY = (
    "pandas",
    "pyarrow",
    "onnx",
    "tflite",
    "click",
    "rich",
    "scipy",
    "sqlalchemy",
    "matplotlib",
)

_PROBE = f"""
import sys
from edge_runtime.device.__main__ import main
code = main(sys.argv[1:])
print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules])
print("RUNTIME", "onnxruntime" in sys.modules)
sys.exit(code)
"""


def ledger_of(device: Any) -> Ledger:
    return Ledger(
        Store(device.state_dir / "device.sqlite").connection, epsilon_limit=8.0, delta=1e-5
    )


def run_census(stand_in: Any, kit: SimpleNamespace, schema: Schema) -> None:
    stand_in.publish_schema(schema)
    plan = stand_in.publish_plan(kit.census_plan(schema, epsilon=1.0))
    stand_in.wait_state("idle", plan=plan)


def look(device: Any, seen: set[bytes]) -> set[bytes]:
    """Add the checkpoint that is now saved, if one is, to those seen before."""
    path = device.state_dir / "device.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        seen.update(hashlib.sha256(row[0]).digest() for row in database.execute(_CHECKPOINTS))
    return seen


_CHECKPOINTS = "SELECT data FROM checkpoints"


def without_digests(text: str) -> str:
    """Random hexadecimal numbers may hold any digits by chance."""
    return re.sub(r"[0-9a-f]{12,}", "", text)


def assert_unseen(text: str, words: list[str]) -> None:
    for word in words:
        found = re.search(rf"(?<![\w.]){re.escape(word)}(?!\w)", without_digests(text))
        assert found is None, text[max(0, found.start() - 200) : found.end() + 200]


def test_the_whole_path_shows_progress_and_no_row(
    device: Any, stand_in: Any, kit: SimpleNamespace, schema: Schema, bundle: Bundle
) -> None:
    # Values that are clamped, unknown or plain: none may be seen anywhere.
    rows = kit.make_rows(kit.ROWS - 3)
    rows += [
        ["true", "5", "SECRETVILLE", "1234.5"],
        ["false", "6", "EWR", "987654.3"],
        ["true", "7", "JFK", "2718.3"],
    ]
    kit.write_csv(device.source, rows)
    process = device.start("-c", _PROBE)
    run_census(stand_in, kit, schema)
    plan = stand_in.publish_plan(kit.train_plan(bundle, steps=1200))
    stand_in.wait_state("waiting")  # for the bundle, which comes late
    stand_in.publish_bundle(bundle)
    done = stand_in.wait_state("idle", plan=plan, timeout_s=60.0)

    assert done.outbox == 0
    assert 5.98 < done.epsilon_spent <= 6.0
    assert done.rows_sent == sum(len(codes) for _, codes in stand_in.batches.values())
    assert done.bytes_up == sum(len(data) for topic, data in stand_in.wire if "state" not in topic)
    peak_kb = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1])  # type: ignore[index]
    print(f"peak RSS of the agent: {peak_kb / 1024:.1f} MB")

    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0
    stopped = stand_in.wait_state("stopped")
    assert stopped.plan_id == plan.id

    # A person could follow it, and not more than twice a second.
    seen = [state for _, state in stand_in.states]
    assert {"waiting", "training", "idle", "stopped"} <= {state.status for state in seen}
    times = [when for when, _ in stand_in.states][:-1]  # the farewell comes when it comes
    assert all(b - a > 0.35 for a, b in itertools.pairwise(times[1:])), times
    training = [state.progress for state in seen if state.status == "training"]
    assert training == sorted(training)

    log = device.log.read_text()
    assert "HEAVY []" in log
    assert "RUNTIME True" in log
    secrets = [str(kit.ROWS), "SECRETVILLE", "1234.5", "987654.3", "2718.3", "1874", "1872"]
    assert_unseen(log, secrets)
    for topic, payload in stand_in.wire:
        assert_unseen(topic, secrets)
        if "state" in topic:
            fields = json.loads(payload)
            fields.pop("bytes_up")  # of messages: any number may come up
            assert_unseen(json.dumps(fields), secrets)
        elif "batch" in topic:
            header, _ = decode_batch(
                payload, cardinalities=bundle.codec.cardinalities, names=schema.names
            )
            assert_unseen(str(header), secrets)
        else:
            header, tensors = decode_summary(payload)
            assert_unseen(str(header), secrets)
            # Exact counts of every column would add up to the same exact number of rows.
            sums = {int(tensor.sum()) for tensor in tensors.values()}
            assert len(sums) > 1
    assert peak_kb < 120 * 1024


def test_killed_at_any_moment_it_pays_once_and_loses_nothing(
    device: Any, stand_in: Any, kit: SimpleNamespace, schema: Schema, bundle: Bundle
) -> None:
    device.extra = "[training]\ncheckpoint_s = 0.0\ncheckpoint_steps = 25\n"
    process = device.start()
    run_census(stand_in, kit, schema)
    stand_in.publish_bundle(bundle)
    plan = stand_in.publish_plan(kit.train_plan(bundle, steps=2400))
    rng = random.Random(7)
    seen: set[bytes] = set()
    for number in range(5):
        # Once before anything can have been saved, then after some more saved checkpoints: where
        # between two of them the kill falls is left to chance.
        wanted = len(seen) + (rng.randint(1, 4) if number else 0)
        kit.wait_for("checkpoints", lambda n=wanted: len(look(device, seen)) >= n, timeout_s=60.0)
        process.kill()
        process.wait()
        process = device.start()
    done = stand_in.wait_state("idle", plan=plan, timeout_s=90.0)

    ledger = ledger_of(device)
    assert [entry.what for entry in ledger.entries()] == ["census", "anchor", "training"]
    assert ledger.epsilon_spent() == done.epsilon_spent <= 6.0
    batches = [header for header, _ in stand_in.batches.values()]
    assert sorted(header.part for header in batches) == list(range(1, batches[0].parts + 1))
    assert len({header.seed for header in batches}) == 1
    kinds = sorted(header.kind for header, _ in stand_in.summaries.values())
    assert kinds == ["anchor", "census"]
    sequences = [
        header.sequence for header, _ in (*stand_in.batches.values(), *stand_in.summaries.values())
    ]
    assert len(set(sequences)) == len(sequences)
    assert "resumed at step" in device.log.read_text()


def test_a_killed_broker_costs_nothing(
    device: Any, broker: Broker, kit: SimpleNamespace, schema: Schema, bundle: Bundle
) -> None:
    device.port = broker.port
    stand_in = kit.StandIn(port=broker.port)
    try:
        device.start()
        run_census(stand_in, kit, schema)
        stand_in.publish_bundle(bundle)
        stand_in.answer = ""
        plan = stand_in.publish_plan(kit.train_plan(bundle, steps=200))
        kit.wait_for("something unanswered", lambda: len(stand_in.arrivals) > 1)
        broker.kill()
        stand_in.answer = "accepted"
        broker.restart()
        # A killed broker has forgotten everything: the links publish what is retained again.
        done = stand_in.wait_state("idle", plan=plan, timeout_s=60.0)
        assert done.outbox == 0
        headers = [header for header, _ in stand_in.batches.values()]
        assert sorted(header.part for header in headers) == list(range(1, headers[0].parts + 1))
        assert len(stand_in.summaries) == 2
    finally:
        device.end()
        stand_in.close()


def test_it_works_before_the_broker_is_there(
    device: Any, broker: Broker, kit: SimpleNamespace, schema: Schema
) -> None:
    device.port = broker.port
    broker.kill()
    device.start()
    kit.wait_for("the log says so", lambda: str(broker.port) in device.log.read_text())
    assert "no broker answers at 127.0.0.1" in device.log.read_text()
    broker.restart()
    stand_in = kit.StandIn(port=broker.port)
    try:
        run_census(stand_in, kit, schema)
    finally:
        device.end()
        stand_in.close()


def test_silence_is_answered_by_sending_again(
    device: Any, stand_in: Any, kit: SimpleNamespace, schema: Schema
) -> None:
    stand_in.answer = ""
    device.start()
    stand_in.publish_schema(schema)
    plan = stand_in.publish_plan(kit.census_plan(schema))
    kit.wait_for("the message twice", lambda: len(stand_in.arrivals) >= 2)
    assert len(set(stand_in.arrivals)) == 1
    state = stand_in.wait_state("sending", plan=plan)
    assert state.outbox == 1
    stand_in.answer = "duplicate"
    stand_in.wait_state("idle", plan=plan)


def test_a_refused_message_is_kept_with_its_reason(
    device: Any, stand_in: Any, kit: SimpleNamespace, schema: Schema
) -> None:
    stand_in.answer = "refused"
    device.start()
    stand_in.publish_schema(schema)
    plan = stand_in.publish_plan(kit.census_plan(schema))
    stand_in.wait_state("idle", plan=plan)
    device.end()
    assert "refused by the aggregator: as the test asks" in device.log.read_text()
    rows = sqlite3.connect(device.state_dir / "device.sqlite").execute(
        "SELECT status, reason FROM outbox"
    )
    assert rows.fetchall() == [("refused", "as the test asks")]


def test_a_lost_device_is_shown_as_offline(
    device: Any, stand_in: Any, kit: SimpleNamespace
) -> None:
    process = device.start()
    stand_in.wait_state("waiting")
    process.kill()
    state = stand_in.wait_state("offline")
    assert state.device == "one"


def test_a_plan_beyond_the_budget_is_declined_visibly(
    device: Any, stand_in: Any, kit: SimpleNamespace, schema: Schema
) -> None:
    device.start()
    stand_in.publish_schema(schema)
    plan = stand_in.publish_plan(kit.census_plan(schema, epsilon=9.0))
    state = stand_in.wait_state("declined", plan=plan)
    assert "limit is 8" in state.reason
    assert state.epsilon_spent == 0.0
    # The next plan is a new question.
    plan = stand_in.publish_plan(kit.census_plan(schema, epsilon=1.0))
    stand_in.wait_state("idle", plan=plan)


def test_rubbish_on_the_topics_is_ignored(
    device: Any, stand_in: Any, kit: SimpleNamespace, schema: Schema, bundle: Bundle
) -> None:
    device.start()
    stand_in.wait_state("waiting")
    topics = stand_in.topics
    foreign = encode_plan(kit.census_plan(schema, fleet="other"))
    for topic in (topics.schema, topics.plan, topics.ack("one")):
        for payload in (b"\xff\x00", b"{}", b"[" * 5000, b"", foreign):
            stand_in.link.publish(topic, payload).wait(5.0)
    run_census(stand_in, kit, schema)
    # A bundle under a wrong name is not taken; the right one, later, is.
    plan = stand_in.publish_plan(kit.train_plan(bundle, steps=10))
    stand_in.wait_state("waiting", plan=plan)
    stand_in.link.publish(topics.bundle(bundle.digest), b"no bundle at all", retain=True).wait(5.0)
    kit.wait_for("refusal", lambda: "has digest" in device.log.read_text())
    stand_in.publish_bundle(bundle)
    stand_in.wait_state("idle", plan=plan)


def test_one_state_directory_has_one_agent(
    device: Any, stand_in: Any, kit: SimpleNamespace
) -> None:
    device.start()
    stand_in.wait_state("waiting")
    second = device.start()
    assert second.wait(20) == 2
    assert "another agent works in" in device.log.read_text()


@pytest.fixture
def broken(device: Any) -> Any:
    device.state_dir.mkdir()
    (device.state_dir / "device.sqlite").write_bytes(b"rubbish" * 1000)
    return device


def test_a_damaged_store_ends_with_advice_and_no_traceback(broken: Any) -> None:
    process = broken.start()
    assert process.wait(20) == 1
    log = broken.log.read_text()
    assert "keep it aside" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("left", [None, b""])
def test_without_the_account_that_was_there_it_does_not_begin_another(
    device: Any, stand_in: Any, left: bytes | None
) -> None:
    first = device.start()
    stand_in.wait_state("waiting")
    first.terminate()
    assert first.wait(20) == 0
    for path in device.state_dir.glob("device.sqlite*"):
        path.unlink()
    if left is not None:
        (device.state_dir / "device.sqlite").write_bytes(left)
    assert device.start().wait(20) == 1
    log = device.log.read_text()
    assert "is gone or empty, and with it the account of the privacy already spent" in log
    assert "Traceback" not in log
    # As the message says: with other rows it may begin anew.
    (device.state_dir / "lock").unlink()
    device.start()
    assert stand_in.wait_state("waiting").epsilon_spent == 0.0


def test_a_file_damaged_under_the_running_agent_ends_it_with_advice(
    device: Any, stand_in: Any, kit: SimpleNamespace, schema: Schema
) -> None:
    process = device.start()
    stand_in.wait_state("waiting")
    path = device.state_dir / "device.sqlite"
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(path.stat().st_size - 100))
    path.with_name("device.sqlite-wal").write_bytes(b"")
    stand_in.publish_schema(schema)
    stand_in.publish_plan(kit.census_plan(schema))
    assert process.wait(30) == 1
    log = device.log.read_text()
    assert "device.sqlite is damaged" in log
    assert "Traceback" not in log


def test_a_wrong_configuration_is_said_in_one_line(device: Any) -> None:
    device.extra = "[limits]\nstorebytes = 3\n"
    process = device.start()
    assert process.wait(20) == 2
    log = device.log.read_text()
    assert "storebytes" in log
    assert log.count("\n") == 1


def test_a_device_that_returns_after_ten_rounds_goes_on_from_the_current_bundle(
    device: Any, stand_in: Any, kit: SimpleNamespace, schema: Schema, bundle: Bundle
) -> None:
    """What it had paid for is finished and sent; of the rounds it missed it sees the last."""
    device.extra = "[training]\ncheckpoint_s = 0.0\ncheckpoint_steps = 20\n"
    process = device.start()
    run_census(stand_in, kit, schema)
    stand_in.publish_bundle(bundle)
    first = stand_in.publish_plan(kit.train_plan(bundle, steps=1500))
    kit.wait_for("a checkpoint", lambda: look(device, set()))
    process.kill()
    process.wait()

    current = bundle
    for number in range(2, 12):
        lineage = Lineage(
            parent=current.digest, depth=number - 1, round=number, devices=1, rows=1.0, privacy={}
        )
        older, current = current, bundle.with_weights(bundle.weights, lineage=lineage)
        # As an aggregator does: the bundles that no plan needs any more are no longer retained.
        stand_in.link.publish(stand_in.topics.bundle(older.digest), b"", retain=True).wait(5.0)
        stand_in.publish_bundle(current)
        plan = stand_in.publish_plan(kit.train_plan(current, epsilon=7.0, round=number))

    device.start()
    stand_in.wait_state("idle", plan=plan, timeout_s=60.0)
    lineages = {
        (header.round, header.plan_id, header.bundle_digest, header.depth)
        for header, _ in stand_in.batches.values()
    }
    assert lineages == {
        (1, first.id, bundle.digest, 1),
        (11, plan.id, current.digest, 11),
    }
    entries = ledger_of(device).entries()
    assert len({entry.key for entry in entries}) == len(entries) == 5
    assert all(entry.released for entry in entries)


def test_a_state_directory_that_cannot_be_made_is_named(device: Any) -> None:
    device.state_dir.write_text("a file in its place")
    assert device.start().wait(timeout=30) == 2
    log = device.log.read_text()
    assert f"device.state_dir {device.state_dir} cannot be created" in log
    assert "Traceback" not in log
