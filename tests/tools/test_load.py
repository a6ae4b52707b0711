"""The load generator in small: a fleet over real processes, the aggregator killed half way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.fleet.broker import find_broker
from tools.load import mqtt
from tools.load.__main__ import main
from tools.load.generator import Settings


def _settings(**changes: Any) -> Settings:
    given: dict[str, Any] = {
        "host": "127.0.0.1", "port": 1883, "fleet": "load", "bundle": Path("b"), "out": Path(),
        "devices": 10, "rate": 10.0, "size_bytes": 1000, "seconds": 1.0, "resend_s": 1.0,
    }  # fmt: skip
    return Settings(**(given | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "192.0.2.1"}, {"host": "0.0.0.0"}, {"host": "broker.example"},
        {"devices": 20_001}, {"rate": 5_001.0}, {"seconds": 3_601.0},
    ],
)  # fmt: skip
def test_it_stays_on_this_machine_and_within_bounds(changes: dict[str, Any]) -> None:
    assert _settings(host="::1").checked()
    with pytest.raises(ConfigError, match=r"loopback|at most"):
        _settings(**changes).checked()


def test_packets_are_whole_whatever_the_pieces() -> None:
    sent = [mqtt.publish(7, "a/b", b"x" * size) for size in (0, 1, 200, 20_000)]
    stream = b"".join(sent) + mqtt.puback(9)
    for step in (1, 3, 1000, len(stream)):
        packets = mqtt.Packets()
        found = [
            packet
            for at in range(0, len(stream), step)
            for packet in packets.feed(stream[at : at + step])
        ]
        assert [kind for kind, _, _ in found] == [mqtt.PUBLISH] * 4 + [4]
        bodies = [mqtt.split_publish(flags, body) for _, flags, body in found[:4]]
        assert [(number, len(payload)) for number, payload in bodies] == [
            (7, 0), (7, 1), (7, 200), (7, 20_000),
        ]  # fmt: skip


@pytest.mark.skipif(find_broker("mosquitto") is None, reason="Mosquitto is not installed")
def test_a_killed_aggregator_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    arguments = [
        "--devices",
        "200",
        "--rate",
        "40",
        "--bytes",
        "3000",
        "--minutes",
        "0.08",
        "--resend",
        "2",
    ]
    assert main([*arguments, "--dir", str(tmp_path / "run"), "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    found, counts = figures["found"], figures["counts"]
    assert figures["connections"] == 200
    assert figures["killed_s"] is not None
    assert counts["offered"] == counts["acknowledged"] == found["committed"] > 50
    assert (found["lost"], found["duplicated"], counts["disconnected"]) == (0, 0, 0)
    assert figures["statuses"].keys() <= {"accepted", "duplicate"}
    printed = capsys.readouterr().out
    assert "lost" in printed
    assert "aggregator, MB over time" in printed
