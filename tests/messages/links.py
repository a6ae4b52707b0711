"""Links to a broker that reconnect quickly, and a broker that stands still."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from edge_runtime.fleet.broker import Broker
from edge_runtime.messages import Link

Until = Callable[[Callable[[], bool]], None]


class Inbox:
    """Everything a link delivered, by topic."""

    def __init__(self) -> None:
        self.all: list[tuple[str, bytes, bool]] = []

    def __call__(self, topic: str, payload: bytes, retained: bool) -> None:
        self.all.append((topic, payload, retained))

    def payloads(self, topic: str) -> list[bytes]:
        return [p for t, p, _ in self.all if t == topic]


def make_link(broker: Broker, client_id: str, **options: object) -> Link:
    options = {"retry_min_s": 0.05, "retry_max_s": 0.2, "keepalive_s": 5} | options
    return Link(host=broker.host, port=broker.port, client_id=client_id, **options)  # type: ignore[arg-type]


def stop(broker: Broker, until: Until) -> None:
    """Stop a broker and wait until every thread of it stands still: the signal only asks."""
    broker.process.send_signal(signal.SIGSTOP)
    tasks = Path("/proc", str(broker.process.pid), "task")
    until(
        lambda: all(
            # the state follows the name, which stands in brackets
            task.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "T"
            for task in tasks.iterdir()
        )
    )
