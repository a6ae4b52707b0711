"""The real process on a real broker: rounds, kill -9 in the middle, exactly-once, clean end."""

from __future__ import annotations

import collections
import contextlib
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.aggregator import Service, load_config, run, status, verify_release
from edge_runtime.aggregator.__main__ import main
from edge_runtime.aggregator.catalogue import Catalogue
from edge_runtime.aggregator.inbox import Inbox
from edge_runtime.aggregator.pool import Pool
from edge_runtime.aggregator.service import _next_group
from edge_runtime.errors import AggregatorError
from edge_runtime.fleet.broker import Broker, free_port, start_broker
from edge_runtime.messages import DeviceState, Link, Topics, encode_state

from .conftest import FLEET, Device, make_kit, make_schema, make_table, write_config
from .live import AggregatorProcess, LiveDevice, wait_for


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with start_broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def live(broker: Broker) -> Iterator[Callable[..., LiveDevice]]:
    """Starts devices; afterwards nothing retained is left for the next test."""
    started: list[LiveDevice] = []

    def start(name: str, origin: int, *, epsilon: float | None = 0.1, **how: Any) -> LiveDevice:
        schema = make_schema()
        device = Device(name, make_table(schema, 1500, seed=origin, origin=origin), schema)
        device.epsilon = epsilon
        started.append(LiveDevice(device, broker.port, **how))
        started[-1].link.wait_connected(20)
        return started[-1]

    yield start
    topics = Topics(FLEET)
    for device in started:
        retained = [topics.schema, topics.plan, topics.status, topics.alarms]
        retained += [topics.bundle(digest) for digest in device.bundles]
        for topic in retained:
            assert device.link.publish(topic, b"", retain=True).wait(10)
        name = device.device.name
        device.close()
        with Link(host="127.0.0.1", port=broker.port, client_id=f"clear-{name}") as link:
            link.wait_connected(20)
            assert link.publish(topics.state(name), b"", retain=True).wait(10)


def _config(tmp_path: Path, broker: Broker, **changes: dict[str, Any]) -> Path:
    merged = {"broker": {"port": broker.port}, **changes}
    return write_config(tmp_path, make_schema(), **merged)


def _last(device: LiveDevice) -> str:
    with device.lock:
        return device.statuses[-1].phase if device.statuses else ""


def test_a_fleet_goes_through_all_rounds_while_the_aggregator_is_killed(
    tmp_path: Path, broker: Broker, live: Callable[..., LiveDevice]
) -> None:
    config_path = _config(tmp_path, broker)
    data = tmp_path / "data"
    process = AggregatorProcess(config_path)
    try:
        a, b = live("a", 0), live("b", 1)
        wait_for(lambda: len(a.plans) >= 2, f"no training plan: {process.text()}")
        # Some batches are acknowledged, others are on their way: kill, twice.
        wait_for(lambda: any(ack.status == "accepted" for ack in a.acks), "no batch accepted")
        b.hold.set()
        process.kill()
        acknowledged = {ack.sha256 for d in (a, b) for ack in d.acks}
        process.restart()
        b.hold.clear()
        wait_for(lambda: len(a.plans) >= 3, f"round 2 never came: {process.text()}")
        process.kill()
        process.restart()
        wait_for(lambda: _last(a) == "done", f"never done: {process.text()}", 60)
        wait_for(lambda: not a.outbox and not b.outbox, "something was never acknowledged")

        # Every acknowledged message is there once, and nothing else is.
        catalogue = Catalogue(f"sqlite:///{data / 'catalogue.sqlite'}", create=False)
        records = [r for k in ("batch", "anchor", "census") for r in catalogue.messages(kind=k)]
        digests = collections.Counter(record.sha256 for record in records)
        assert acknowledged <= digests.keys()
        assert {ack.sha256 for d in (a, b) for ack in d.acks} == digests.keys()
        assert set(digests.values()) == {1}
        batches = catalogue.messages(kind="batch")
        rows = Pool(data).read(batches, names=make_schema().names)
        assert len(rows.codes) == a.sent_rows + b.sent_rows == 2400
        files = {p.relative_to(data).as_posix() for p in (data / "pool").rglob("*.parquet")}
        assert files == {record.path for record in batches}
        # Rounds went on: one plan each, the bundles follow each other.
        assert [r.status for r in catalogue.rounds()] == ["closed"] * 3
        assert {r.plan_id for r in catalogue.rounds()} == a.plans.keys() == b.plans.keys()
        bundles = catalogue.bundles(status=None)
        assert [bundle.round for bundle in bundles] == [0, 1, 2]
        catalogue.close()

        assert verify_release(data / "release") == 9
        shown = status(data)
        assert shown["phase"] == "done"
        assert shown["totals"]["rows"] == 2400
        assert shown["devices"]["a"]["status"] == "idle"
        with a.lock:
            told = a.statuses[-1]
        assert (told.rows, told.batches, told.private) == (2400, 12, True)
        assert told.devices["b"].rows == 1200
        assert told.metrics["validation_nll"] is not None
        wait_for(lambda: a.alarms and a.alarms[-1].round == 2, "no alarms were published")
        assert a.alarms[-1].bundle_digest == told.bundle_digest
        assert shown["alarms"] == [msgspec.to_builtins(x) for x in a.alarms[-1].alarms]
        assert told.bundle_digest == shown["bundle"]["digest"]
        assert "release" in told.reason

        # A batch that comes late is accepted into the pool, and again into no second place.
        plan = max(a.plans.values(), key=lambda p: p.round)
        bundle = a.bundles[plan.bundle_digest or ""]
        late = a.device.batches(plan, bundle, 40, parts=1, seed=77)[0]
        a.put("batch", late)
        wait_for(lambda: not a.outbox, "the late batch was not acknowledged")
        a.link.publish(a.topics.batch("a"), late)
        wait_for(lambda: a.acks[-1].status == "duplicate", "no second acknowledgement")
        assert status(data)["totals"]["rows"] == 2440
        assert process.stop() == 0
        wait_for(lambda: _last(b) == "offline", "the aggregator left without a word")
    finally:
        process.kill()


def test_devices_are_answered_while_fusion_trains(
    tmp_path: Path, broker: Broker, live: Callable[..., LiveDevice]
) -> None:
    config = load_config(
        _config(
            tmp_path,
            broker,
            rounds={"count": 1, "quorum": 1},
            fleet={"devices": 1},
            # Training that lasts until the test has seen enough.
            fusion={
                "hidden": 256,
                "epochs": 100_000,
                "patience": 100_000,
                "max_seconds": 600.0,
            },
            privacy={"epsilon": "none"},
        )
    )
    service = Service(config)
    with pytest.raises(AggregatorError, match="in use"):
        Service(config)
    runner = threading.Thread(target=service.run)
    runner.start()
    try:
        device = live("a", 0, epsilon=None)
        wait_for(lambda: _last(device) == "fusing" and device.statuses[-1].round == 1, "no fusion")
        wait_for(lambda: 0 < device.statuses[-1].progress < 1, "no progress is shown")
        assert "WITHOUT PRIVACY" in device.statuses[-1].reason
        assert device.statuses[-1].private is False
        plan = max(device.plans.values(), key=lambda p: p.round)
        bundle = device.bundles[plan.bundle_digest or ""]
        delays = []
        for number in range(5):
            data = device.device.batches(plan, bundle, 50, parts=1, seed=100 + number)[0]
            count, began = len(device.acks), time.monotonic()
            device.put("batch", data)
            wait_for(lambda count=count: len(device.acks) > count, "not acknowledged", 10)
            delays.append(time.monotonic() - began)
        assert _last(device) == "fusing"
        assert min(delays) < 1.0
        # Unreadable bytes are answered as well.
        device.put("batch", b"noise")
        wait_for(lambda: device.acks[-1].status == "refused", "not refused")
        # Nonsense on other topics changes nothing.
        device.link.publish(f"er/v1/{FLEET}/up/a/state", b"{}")
        device.link.publish(f"er/v1/{FLEET}/up/a/batch", b"kept", retain=True)
    finally:
        service.stop()
        runner.join(30)
    assert not runner.is_alive()
    device.link.publish(f"er/v1/{FLEET}/up/a/batch", b"", retain=True).wait(5)
    # Stopped in the middle: the round is fused again by the next start.
    assert status(config.data_dir)["phase"] == "fusing"
    assert status(config.data_dir)["bundle"]["round"] == 0


def test_a_round_without_enough_rows_keeps_the_generator_and_goes_on(
    tmp_path: Path, broker: Broker, live: Callable[..., LiveDevice]
) -> None:
    config_path = _config(
        tmp_path,
        broker,
        rounds={"count": 1, "quorum": 1, "anchor_share": 0.0},
        fleet={"devices": 1},
    )
    process = AggregatorProcess(config_path)
    try:
        device = live("a", 0, rows=1, parts=1)
        wait_for(lambda: _last(device) == "done", f"never done: {process.text()}")
        shown = status(tmp_path / "data")
        assert "no new generator" in shown["rounds"][1]["reason"]
        assert shown["bundle"]["round"] == 0
    finally:
        process.stop()


def test_a_census_that_nobody_really_answers_fails_visibly(
    tmp_path: Path, broker: Broker, live: Callable[..., LiveDevice]
) -> None:
    config_path = _config(tmp_path, broker, rounds={"quorum": 1}, fleet={"devices": 1})
    process = AggregatorProcess(config_path)
    try:
        # Its census states more epsilon than the plan allows: quarantined, then it says idle.
        device = live("a", 0, epsilon=100.0)
        assert process.process.wait(40) == AggregatorError.exit_code
        assert "no device has answered the census" in process.text()
        wait_for(lambda: _last(device) == "failed", "no visible failure")
        assert device.acks[0].status == "quarantined"
    finally:
        process.kill()


def test_a_full_queue_loses_nothing(
    tmp_path: Path, broker: Broker, live: Callable[..., LiveDevice]
) -> None:
    config_path = _config(
        tmp_path,
        broker,
        rounds={"count": 1, "quorum": 1},
        fleet={"devices": 1},
        limits={"queue_messages": 1},
        release={"on_finish": False},
    )
    process = AggregatorProcess(config_path)
    try:
        device = live("a", 0, rows=400, parts=12)
        wait_for(lambda: _last(device) == "done", f"never done: {process.text()}")
        assert status(tmp_path / "data")["totals"]["batches"] == 12
        assert not (tmp_path / "data" / "release").exists()
    finally:
        process.stop()


def test_the_broker_may_come_later(tmp_path: Path) -> None:
    port = free_port()
    process = AggregatorProcess(write_config(tmp_path, make_schema(), broker={"port": port}))
    try:
        wait_for(lambda: f"127.0.0.1:{port}" in process.text(), "it does not say what is missing")
        with start_broker(tmp_path / "broker", port=port):
            seen = []
            with Link(
                host="127.0.0.1",
                port=port,
                client_id="watch",
                topics=[Topics(FLEET).schema],
                on_message=lambda *message: seen.append(message),
            ):
                wait_for(lambda: seen, "the schema was never published")
            assert seen[0][1] == make_schema().to_json()
    finally:
        assert process.stop() == 0


def test_systemd_hears_that_it_is_ready_alive_and_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30.0)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        # No broker answers there: ready all the same.
        process = AggregatorProcess(
            write_config(tmp_path, make_schema(), broker={"port": free_port()})
        )
        try:
            heard = [systemd.recv(4096)]
            while heard.count(b"WATCHDOG=1") < 2:
                heard.append(systemd.recv(4096))
            assert heard[0] == b"READY=1"
            assert any(message.startswith(b"STATUS=waiting, round 0") for message in heard)
        finally:
            assert process.stop() == 0
        while heard[-1] != b"STOPPING=1":
            heard.append(systemd.recv(4096))


def test_a_catalogue_that_refuses_is_tried_again_until_it_does_not(tmp_path: Path) -> None:
    process = AggregatorProcess(write_config(tmp_path, make_schema(), broker={"port": free_port()}))
    try:
        path = tmp_path / "data" / "catalogue.sqlite"
        wait_for(lambda: path.exists() and "link" in process.text(), "it does not start")
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("ALTER TABLE rounds RENAME TO away")
            wait_for(lambda: "tried again until it can" in process.text(), "nothing is said")
            database.execute("ALTER TABLE away RENAME TO rounds")
        wait_for(lambda: "going on" in process.text(), f"it never went on: {process.text()}")
        assert process.text().count("tried again until it can") == 1
    finally:
        assert process.stop() == 0


def test_a_wrong_configuration_ends_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(tmp_path / "none.toml")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_signals_end_the_service_in_this_process(tmp_path: Path, broker: Broker) -> None:
    config = load_config(_config(tmp_path, broker))
    before = signal.getsignal(signal.SIGTERM)

    def end_it() -> None:
        # Only once it would be caught: else it is the end of this very process.
        wait_for(lambda: signal.getsignal(signal.SIGTERM) is not before, "no handler")
        signal.raise_signal(signal.SIGTERM)

    sender = threading.Thread(target=end_it)
    sender.start()
    run(config)
    sender.join()
    assert signal.getsignal(signal.SIGTERM) is before
    assert status(config.data_dir)["phase"] == "waiting"


def test_a_state_on_the_wrong_topic_is_not_believed_to_be_another_device(
    tmp_path: Path, broker: Broker
) -> None:
    config = load_config(_config(tmp_path, broker))
    service = Service(config)
    runner = threading.Thread(target=service.run)
    runner.start()
    try:
        with Link(host="127.0.0.1", port=broker.port, client_id="liar") as link:
            link.wait_connected(20)
            state = encode_state(DeviceState(device="b", status="online"))

            def seen() -> bool:
                # Again each time: the service may not have subscribed yet.
                link.publish(Topics(FLEET).state("a"), state).wait(10)
                return "a" in status(config.data_dir)["devices"]

            wait_for(seen, "not seen")
        assert "b" not in status(config.data_dir)["devices"]
    finally:
        service.stop()
        runner.join(30)


def test_a_database_that_was_slow_once_does_not_slow_the_next_look(
    tmp_path: Path, broker: Broker
) -> None:
    config = load_config(_config(tmp_path, broker))
    service = Service(config)
    runner = threading.Thread(target=service.run)
    runner.start()
    try:
        with Link(host="127.0.0.1", port=broker.port, client_id="other") as link:
            link.wait_connected(20)

            def seen(device: str) -> bool:
                state = encode_state(DeviceState(device=device, status="online"))
                link.publish(Topics(FLEET).state(device), state).wait(10)
                return device in status(config.data_dir)["devices"]

            wait_for(lambda: seen("a"), "not seen")
            with contextlib.closing(
                sqlite3.connect(config.data_dir / "catalogue.sqlite", isolation_level=None)
            ) as other:
                other.execute("BEGIN IMMEDIATE")
                ends_s = time.monotonic() + 3
                wait_for(lambda: seen("b") or time.monotonic() > ends_s, "no end")
                other.execute("ROLLBACK")
            wait_for(lambda: seen("b"), "not seen")
            # The look that has waited for 2 s or so is over; the next ones come as before.
            wait_for(lambda: seen("c"), "not seen soon", 15)
    finally:
        service.stop()
        runner.join(30)


def test_a_group_that_took_long_is_followed_by_a_smaller_one() -> None:
    sizes = [16]
    for took_s in (0.1, 0.1, 0.1, 0.1, 0.1, 20.0, 20.0, 0.1):
        sizes.append(_next_group(sizes[-1], took_s=took_s))
    assert sizes == [16, 32, 64, 128, 256, 256, 128, 64, 128]
    assert _next_group(1, took_s=20.0) == 1


def test_a_crash_between_bundle_and_round_makes_no_second_bundle(
    tmp_path: Path, broker: Broker
) -> None:
    kit = make_kit(tmp_path, broker={"port": broker.port}, rounds={"count": 1}, release={"rows": 7})
    _, bundle = kit.filled(rows=200)
    stray = kit.config.data_dir / "pool" / "round=1" / "stray.parquet"
    stray.write_bytes(b"never committed")
    made = bundle.with_weights(
        bundle.weights, lineage=msgspec.structs.replace(bundle.lineage, round=1, depth=1)
    )
    kit.workspace.add_bundle(made, status="published", reason="")
    kit.workspace.catalogue.mark_round(1, "fusing", reason="answered")
    kit.workspace.close()
    service = Service(kit.config)
    assert not stray.exists()
    runner = threading.Thread(target=service.run)
    runner.start()
    try:
        release = kit.config.data_dir / "release"
        wait_for(release.exists, "no release")
    finally:
        service.stop()
        runner.join(30)
    shown = status(kit.config.data_dir)
    assert shown["phase"] == "done"
    assert shown["bundle"]["digest"] == made.digest
    catalogue = Catalogue(kit.config.catalogue_url, create=False)
    assert [b.round for b in catalogue.bundles(status=None)] == [0, 1]
    catalogue.close()


def test_a_full_disk_delays_and_loses_nothing(
    tmp_path: Path, broker: Broker, live: Callable[..., LiveDevice]
) -> None:
    config = load_config(
        _config(tmp_path, broker, rounds={"count": 1, "quorum": 1}, fleet={"devices": 1})
    )
    config.data_dir.mkdir()
    pool = config.data_dir / "pool"
    pool.write_text("a file where a directory must be")
    service = Service(config)
    runner = threading.Thread(target=service.run)
    runner.start()
    try:
        device = live("a", 0, rows=300)
        wait_for(
            # On a busy machine the census alone may have been sent so often.
            lambda: len(device.outbox) >= 3 and device.sent_payloads >= 6,
            "nothing was sent again",
        )
        assert status(config.data_dir)["totals"]["rows"] == 0
        pool.unlink()
        wait_for(lambda: _last(device) == "done", "never done")
        assert status(config.data_dir)["totals"]["rows"] == 300
    finally:
        service.stop()
        runner.join(30)


def test_a_fault_in_the_inbox_ends_the_service_visibly(
    tmp_path: Path,
    broker: Broker,
    live: Callable[..., LiveDevice],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = load_config(_config(tmp_path, broker, rounds={"quorum": 1}, fleet={"devices": 1}))
    service = Service(config)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault nobody thought of")

    monkeypatch.setattr(Inbox, "accept_unpacked", broken)
    device = live("a", 0)
    with pytest.raises(ZeroDivisionError):
        service.run()
    wait_for(lambda: _last(device) == "failed", "no visible failure")
    assert "nobody thought of" in device.statuses[-1].reason
    assert not device.acks
