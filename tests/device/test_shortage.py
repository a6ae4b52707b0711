"""What others learn of a device whose disk, memory or store run short: nothing, unless allowed.

The store grows with the number of real rows, so a shortage tells on which side of a limit it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from edge_runtime.device.config import DeviceConfig
from edge_runtime.device.diag import write_diag
from edge_runtime.device.governor import STAYS_HERE, Level
from edge_runtime.device.readings import Readings
from edge_runtime.device.report import Reporter
from edge_runtime.device.vitals import Vitals
from edge_runtime.generator import Bundle
from edge_runtime.messages import DeviceState, encode_state
from edge_runtime.schema import Schema
from tests.device.shop import Shop
from tests.device.test_diag import unpack

# The agent of a board whose memory and thermal zones are files of the test.
_ON_A_BOARD = """
import pathlib, sys
from edge_runtime.device.agent import Agent
from edge_runtime.device.config import load_config
from edge_runtime.device.readings import Readings
from edge_runtime.process import log_to_stderr
config = load_config(sys.argv[2])
log_to_stderr("info")
board = config.state_dir.parent
readings = Readings(
    state_dir=config.state_dir, thermal_dir=board / "thermal", proc_dir=board / "proc",
    cgroup_dir=board / "cgroup",
)
Agent(config, readings=readings).run(signals=True)
"""


class Board:
    """The kernel's files; each is replaced as a whole."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.heat(50)
        self.memory(500)

    def heat(self, celsius: float) -> None:
        self._write("thermal/thermal_zone0/temp", f"{celsius * 1000:.0f}\n")

    def memory(self, free_mb: int) -> None:
        self._write("proc/meminfo", f"MemTotal: 948304 kB\nMemAvailable: {free_mb << 10} kB\n")

    def _write(self, path: str, text: str) -> None:
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name("new")
        fresh.write_text(text)
        fresh.replace(file)


class Work:
    """Notes what it is told."""

    silent_s = 0.0

    def __init__(self) -> None:
        self.told: list[tuple[Level, Level]] = []

    def throttle(self, level: Level, *, shown: Level) -> None:
        self.told.append((level, shown))


def states(config: DeviceConfig, board: Board) -> tuple[list[bytes], Work]:
    """Return what is published while the board warms up and cools, and what the work is told."""
    reporter = Reporter(first=DeviceState(device="one", status="online"), interval_s=0.0)
    work = Work()
    readings = Readings(
        state_dir=config.state_dir, thermal_dir=board.directory / "thermal",
        proc_dir=board.directory / "proc", cgroup_dir=board.directory / "cgroup",
    )  # fmt: skip
    vitals = Vitals(config=config, reporter=reporter, work=work, readings=readings)
    published: list[bytes] = []
    for celsius in (50, 72, 85, 72, 72, 72, 50, 50, 50):
        board.heat(celsius)
        vitals.look()
        state = reporter.due(now_s=float(len(published)))
        published.append(b"" if state is None else encode_state(state))
    vitals.close()
    return published, work


def test_the_bytes_on_the_wire_are_the_same_with_and_without_a_full_disk(device: Any) -> None:
    def config(*, disk: int, memory: int, **privacy: Any) -> DeviceConfig:
        plain: DeviceConfig = device.config()
        return msgspec.structs.replace(
            plain,
            privacy=msgspec.structs.replace(plain.privacy, **privacy),
            limits=msgspec.structs.replace(
                plain.limits, free_disk_bytes=disk, free_memory_bytes=memory, look_s=1e-9,
                temperature_slow_c=70.0, temperature_stop_c=80.0,
            ),
        )  # fmt: skip

    board = Board(device.directory)
    well, at_work = states(config(disk=1, memory=1), board)
    assert b'"throttled":"slow: temperature 72 C"' in well[1]
    assert b'"throttled":"paused: temperature 85 C"' in well[2]
    assert at_work.told[0] == (Level.SLOW, Level.SLOW)
    for short in ({"disk": 1 << 60, "memory": 1}, {"disk": 1, "memory": 1 << 60}):
        shown, held = states(config(**short), board)
        assert shown == well
        # It did hold back, the whole time.
        assert {level for level, _ in held.told} == {Level.PAUSED}
        # Whoever wants to see it can, and a device without privacy has nothing to hide.
        for allowed in ({"publish_shortage": True}, {"epsilon": "none"}):
            shown, _ = states(config(**short, **allowed), board)
            assert shown != well
            assert b'"throttled":"paused: less than' in shown[0]


def test_work_that_is_put_aside_for_want_of_memory_looks_like_slow_work(
    device: Any, stand_in: Any, kit: SimpleNamespace, schema: Schema, bundle: Bundle
) -> None:
    board = Board(device.directory)
    device.extra = (
        "[limits]\ntemperature_slow_c = 70.0\ntemperature_stop_c = 80.0\nlook_s = 0.05\n"
        "free_memory_bytes = 33554432\nfree_disk_bytes = 0\n"
    )
    device.start("-c", _ON_A_BOARD)
    stand_in.publish_schema(schema)
    stand_in.wait_state("idle", plan=stand_in.publish_plan(kit.census_plan(schema)))
    stand_in.publish_bundle(bundle)
    plan = stand_in.publish_plan(kit.train_plan(bundle, steps=2500))
    kit.wait_for(
        "training", lambda: (s := stand_in.state()) and s.status == "training" and s.progress > 0.05
    )
    kit.wait_for("acknowledged", lambda: (s := stand_in.state()) and s.outbox == 0)
    board.memory(20)
    kit.wait_for("the log", lambda: "paused: less than 34 MB" in device.log.read_text())
    # Two states later, for which only the temperature is the reason, the work is put aside.
    for celsius, words in ((72, "slow: temperature 72 C"), (50, "")):
        board.heat(celsius)
        kit.wait_for(
            "a state", lambda words=words: (s := stand_in.state()) and s.throttled == words
        )
    still = stand_in.state()
    assert still.status == "training"
    assert still.reason == ""
    assert "resumed" not in device.log.read_text()
    board.memory(500)
    stand_in.wait_state("idle", plan=plan, timeout_s=60.0)
    log = device.log.read_text()
    assert "resumed at step" in log
    assert log.count(STAYS_HERE) >= 2
    mine = [payload for topic, payload in stand_in.wire if topic.endswith("/state")]
    seen = [json.loads(payload) for payload in mine if payload]
    assert {state["throttled"] for state in seen} == {"", "slow: temperature 72 C"}
    assert {state["reason"] for state in seen} <= {"", "for the schema and a plan"} | {
        state["reason"] for state in seen if "bundle" in state["reason"]
    }


@pytest.mark.parametrize("allowed", [False, True])
def test_a_full_store_is_told_in_the_log_alone_unless_allowed(
    open_shop: Callable[..., Shop],
    kit: SimpleNamespace,
    bundle: Bundle,
    caplog: pytest.LogCaptureFixture,
    allowed: bool,
) -> None:
    caplog.set_level("DEBUG")
    shop = open_shop(
        extra=("publish_shortage = true\n" if allowed else "") + "[limits]\nstore_bytes = 65536\n"
    )
    kit.write_csv(shop.config.source.path, kit.make_rows(40_000))
    plan = shop.give(kit.train_plan(bundle))
    line = kit.wait_for(
        "the log",
        lambda: [r.getMessage() for r in caplog.records if "store_bytes" in r.getMessage()],
    )[0]
    assert (STAYS_HERE in line) is not allowed
    if allowed:
        shop.waiting("store_bytes")
    else:
        # A second attempt changes nothing either.
        kit.wait_for(
            "again", lambda: len([r for r in caplog.records if "store_bytes" in r.getMessage()]) > 1
        )
        assert "store" not in shop.reporter.state.reason
    assert shop.plans.latest().plan == plan


def test_an_archive_for_others_does_not_tell_either(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = device.directory / "bin"
    programs.mkdir()
    for name, words in {
        "journalctl": f"one: plan of round 1: train\\ntwo: paused: less than 67 MB {STAYS_HERE}",
        "systemctl": "$*",
    }.items():
        (programs / name).write_text(f'#!/bin/sh\nprintf "{words}\\n"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    out = device.directory / "diag.tar.gz"

    def packed(extra: str) -> dict[str, str]:
        device.extra = extra
        write_diag(device.config(), out)
        found = unpack(out)
        checks = {row["check"]: row for row in json.loads(found["doctor.json"])}
        machine = json.loads(found["machine.json"])
        return {
            "journal": found["journal.txt"],
            "unit": found["unit.txt"],
            "of rows": json.dumps(
                [
                    checks["disk"],
                    checks["memory"],
                    machine["free_disk_mb"],
                    machine["free_memory_mb"],
                ]
            ),
        }

    full = f"[limits]\nfree_disk_bytes = {1 << 60}\n"
    hidden = packed(full)
    assert hidden["journal"] == "one: plan of round 1: train\n"
    assert "StatusText" not in hidden["unit"]
    assert hidden == packed("[limits]\nfree_disk_bytes = 1\n")
    told = packed("publish_shortage = true\n" + full)
    assert "two: paused" in told["journal"]
    assert "StatusText" in told["unit"]
    assert "the agent pauses" in told["of rows"]
