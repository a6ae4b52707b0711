"""The real process as a service: what systemd hears, how it ends, how it holds itself back."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_runtime.device.clock import MINIMUM_TIME_FILE, read_minimum, synchronised
from edge_runtime.generator import Bundle
from edge_runtime.schema import Schema

# The agent of a board whose thermal zones are files of the test.
_ON_A_BOARD = """
import pathlib, sys
from edge_runtime.device.agent import Agent
from edge_runtime.device.config import load_config
from edge_runtime.device.readings import Readings
from edge_runtime.process import log_to_stderr
config = load_config(sys.argv[2])
log_to_stderr("info")
thermal = config.state_dir.parent / "thermal"
Agent(config, readings=Readings(state_dir=config.state_dir, thermal_dir=thermal)).run(signals=True)
"""


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def next(self, *, timeout_s: float = 30.0) -> str:
        self._socket.settimeout(timeout_s)
        return self._socket.recv(4096).decode()

    def until(self, wanted: str, *, timeout_s: float = 30.0) -> list[str]:
        """Everything up to the first message that starts so."""
        heard = []
        ends = time.monotonic() + timeout_s
        while not heard or not heard[-1].startswith(wanted):
            heard.append(self.next(timeout_s=max(0.01, ends - time.monotonic())))
        return heard

    def silent_for(self, wanted: str, seconds: float) -> bool:
        """Whether no such message comes for that long."""
        try:
            self.until(wanted, timeout_s=seconds)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "notify")
    yield made
    made.close()


@pytest.fixture
def told(stand_in: Any, systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    """What the agent tells systemd, and not what the broker would: that one has started before."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(systemd.path))
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    return systemd


def entries(device: Any) -> list[tuple[Any, ...]]:
    path = device.state_dir / "device.sqlite"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute("SELECT key, rdp, hash FROM ledger_entries").fetchall()


def test_ready_without_a_broker_then_alive_then_stopping(
    device: Any, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(systemd.path))
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    process = device.start()  # port 1: no broker answers there
    heard = systemd.until("READY=1")
    assert not any(message.startswith("STOPPING") for message in heard)
    with closing(sqlite3.connect(device.state_dir / "device.sqlite")) as store:
        assert store.execute("SELECT COUNT(*) FROM plans").fetchone() == (0,)
    assert systemd.until(
        "STATUS=waiting: for the schema and a plan - no broker answers at 127.0.0.1"
    )
    began = time.monotonic()
    for _ in range(3):
        systemd.until("WATCHDOG=1")
    assert time.monotonic() - began < 5.0
    process.send_signal(signal.SIGTERM)
    systemd.until("STOPPING=1")
    assert process.wait(10) == 0


def test_a_hung_worker_is_no_longer_vouched_for_and_does_not_hold_up_the_end(
    device: Any, stand_in: Any, schema: Schema, kit: SimpleNamespace, told: Systemd
) -> None:
    # Opening it waits for a writer that never comes, as a dead network disk would.
    device.source.unlink()
    os.mkfifo(device.source)
    device.extra = "[limits]\nstall_s = 1.5\nlook_s = 0.1\n"
    process = device.start()
    stand_in.wait_state("waiting")
    assert not told.silent_for("WATCHDOG=1", 5.0)
    stand_in.publish_schema(schema)
    stand_in.publish_plan(kit.census_plan(schema))
    kit.wait_for("the log says so", lambda: "no sign of life" in device.log.read_text())
    while not told.silent_for("WATCHDOG=1", 1.0):
        pass  # those that were on their way
    assert device.log.read_text().count("no sign of life") == 1
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert time.monotonic() - began < 10.0
    assert stand_in.wait_state("stopped")
    assert entries(device) == []


def test_sigterm_during_training_is_answered_at_once_and_costs_nothing(
    device: Any, stand_in: Any, kit: SimpleNamespace, bundle: Bundle, told: Systemd
) -> None:
    process = device.start()
    stand_in.publish_schema(bundle.schema)
    stand_in.wait_state("idle", plan=stand_in.publish_plan(kit.census_plan(bundle.schema)))
    stand_in.publish_bundle(bundle)
    plan = stand_in.publish_plan(kit.train_plan(bundle, steps=2500))
    kit.wait_for(
        "training", lambda: (s := stand_in.state()) and s.status == "training" and s.progress > 0.1
    )
    paid = entries(device)
    assert len(paid) == 3
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    told.until("STOPPING=1")
    assert process.wait(10) == 0
    assert time.monotonic() - began < 10.0
    assert entries(device) == paid
    stopped = stand_in.wait_state("stopped")

    device.start()
    done = stand_in.wait_state("idle", plan=plan, timeout_s=60.0)
    assert "resumed at step" in device.log.read_text()
    assert entries(device) == paid
    assert done.epsilon_spent == stopped.epsilon_spent
    assert {header.part for header, _ in stand_in.batches.values()} == {1, 2}


def test_an_attempt_to_connect_that_hangs_does_not_hold_up_the_end(
    device: Any, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(systemd.path))
    with socket.socket() as server, contextlib.ExitStack() as held:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        device.port = server.getsockname()[1]
        # A full queue: whoever else connects gets no answer, as from a host behind a firewall.
        for _ in range(4):
            client = held.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", device.port))
        process = device.start()
        systemd.until("READY=1")
        systemd.until("STATUS=waiting")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - began < 5.0


def test_a_hot_board_puts_training_aside_and_goes_on_when_it_has_cooled(
    device: Any, stand_in: Any, kit: SimpleNamespace, schema: Schema, bundle: Bundle
) -> None:
    zone = device.directory / "thermal" / "thermal_zone0"
    zone.mkdir(parents=True)

    def heat(celsius: float) -> None:
        fresh = zone / "new"
        fresh.write_text(f"{celsius * 1000:.0f}\n")
        fresh.replace(zone / "temp")  # never half written

    def throttled(words: str) -> Any:
        return kit.wait_for(
            words or "full speed",
            lambda: (
                (s := stand_in.state())
                and (s.throttled.startswith(words) if words else not s.throttled)
                and s
            ),
            timeout_s=30.0,
        )

    heat(50)
    device.extra = (
        "[limits]\ntemperature_slow_c = 70.0\ntemperature_stop_c = 80.0\nlook_s = 0.05\n"
        "free_memory_bytes = 0\nfree_disk_bytes = 0\n"
    )
    device.start("-c", _ON_A_BOARD)
    stand_in.publish_schema(schema)
    stand_in.wait_state("idle", plan=stand_in.publish_plan(kit.census_plan(schema)))
    stand_in.publish_bundle(bundle)
    stand_in.answer = ""  # the anchor stays in the outbox for now
    plan = stand_in.publish_plan(kit.train_plan(bundle, steps=2500))
    kit.wait_for(
        "training", lambda: (s := stand_in.state()) and s.status == "training" and s.progress > 0.05
    )
    heat(85)
    hot = throttled("paused: temperature 85 C")
    kit.wait_for("put aside", lambda: (s := stand_in.state()) and s.status == "waiting")
    assert hot.outbox == 1
    # Outbox and acknowledgements go on.
    stand_in.answer = "accepted"
    kit.wait_for("acknowledged", lambda: (s := stand_in.state()) and s.outbox == 0 and s)
    assert stand_in.state().throttled
    paid = entries(device)
    heat(72)
    throttled("slow: temperature 72 C")
    kit.wait_for("training", lambda: (s := stand_in.state()) and s.status == "training")
    heat(50)
    throttled("")
    stand_in.wait_state("idle", plan=plan, timeout_s=60.0)
    log = device.log.read_text()
    assert log.count("paused: temperature 85 C") == 1
    assert log.count("slow: temperature 72 C") == 1
    assert log.count("full speed") == 1
    assert "resumed at step" in log
    assert entries(device) == paid
    assert len(paid) == 3


def test_a_full_disk_is_visible_and_takes_no_plan_up(
    device: Any, stand_in: Any, kit: SimpleNamespace, schema: Schema
) -> None:
    device.extra = f"publish_shortage = true\n[limits]\nfree_disk_bytes = {1 << 60}\n"
    device.start()
    stand_in.publish_schema(schema)
    plan = stand_in.publish_plan(kit.census_plan(schema))
    state = kit.wait_for(
        "paused", lambda: (s := stand_in.state()) and s.throttled.startswith("paused") and s
    )
    assert state.throttled == f"paused: less than {(1 << 60) / 1e6:.0f} MB free on the disk"
    path = device.state_dir / "device.sqlite"

    def plans() -> list[tuple[str, str]]:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return database.execute("SELECT id, status FROM plans").fetchall()

    assert kit.wait_for("the plan is kept", plans) == [(plan.id, "new")]
    assert entries(device) == []


def test_the_state_says_whether_the_clock_is_held_and_the_end_keeps_the_time(
    device: Any, stand_in: Any
) -> None:
    began = int(time.time())
    process = device.start()
    state = stand_in.wait_state("waiting")
    words = {True: "synchronised", False: "unsynchronised", None: ""}
    assert state.clock == words[synchronised()]
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    kept = read_minimum(device.state_dir / MINIMUM_TIME_FILE)
    # A clock that nothing holds may say anything, and teaches nothing.
    assert (kept >= began) == (state.clock == "synchronised")


def test_a_worker_that_dies_ends_the_agent(
    device: Any, stand_in: Any, kit: SimpleNamespace
) -> None:
    process = device.start()
    stand_in.wait_state("waiting")
    with closing(sqlite3.connect(device.state_dir / "device.sqlite")) as store:
        store.execute("ALTER TABLE plans RENAME TO gone")
    # The next look at the plans fails in a way that no part expects.
    stand_in.publish_schema(kit.make_schema())
    assert process.wait(20) == 1
    log = device.log.read_text()
    assert "internal error: OperationalError at " in log
    assert "Traceback" not in log
