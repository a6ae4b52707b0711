"""Devices on a real link, as the protocol describes them: they send until acknowledged."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_runtime.generator import Bundle
from edge_runtime.messages import (
    Ack,
    AggregatorStatus,
    Alarms,
    DeviceState,
    Link,
    Plan,
    TlsFiles,
    Topics,
    decode_ack,
    decode_alarms,
    decode_plan,
    decode_status,
    encode_state,
)
from edge_runtime.messages.seal import decode_sealed, seal
from edge_runtime.process.agreement import Agreement

from .conftest import FLEET, Device

RESEND_S = 0.5


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 40.0) -> Any:
    """Wait until a condition holds and give back what it returned."""
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"after {timeout_s} s: {what}")


class LiveDevice:
    """A device that answers every plan with counts and rows made by `Device`."""

    def __init__(
        self, device: Device, port: int, *, rows: int = 600, parts: int = 3,
        host: str = "127.0.0.1", tls: TlsFiles | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self.device, self.rows, self.parts, self.seed = device, rows, parts, seed
        self.topics = Topics(FLEET)
        self.lock = threading.Lock()
        self.outbox: dict[str, tuple[str, bytes, float]] = {}
        self.acks: list[Ack] = []
        self.sent_rows = 0
        self.sent_payloads = 0
        self.hold = threading.Event()  # set: messages are made, not sent
        self.bundles: dict[str, Bundle] = {}
        self.plans: dict[str, Plan] = {}
        self.done: set[str] = set()
        self.schemas: list[bytes] = []
        self.statuses: list[AggregatorStatus] = []
        self.alarms: list[Alarms] = []
        self.current = ""
        self.own = None if tls is None else Agreement(tls=tls, fleet=FLEET)
        self.key = b""
        offline = DeviceState(device=device.name, status="offline")
        self.link = Link(
            host=host,
            port=port,
            tls=tls,
            client_id=f"live-{device.name}",
            topics=[
                self.topics.ack(device.name),
                self.topics.plan,
                self.topics.schema,
                self.topics.status,
                self.topics.alarms,
                self.topics.certificate,
                self.topics.all_bundles,
            ],
            will=(self.topics.state(device.name), encode_state(offline)),
            on_message=self._on_message,
            retry_min_s=0.1,
            retry_max_s=0.5,
        ).start()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def state(self, status: str, plan_id: str = "") -> None:
        with self.lock:
            waiting = len(self.outbox)
        state = DeviceState(device=self.device.name, status=status, plan_id=plan_id, outbox=waiting)
        topic = self.topics.state(self.device.name)
        self.link.publish(topic, self.sealed(topic, encode_state(state)), retain=True)

    def sealed(self, topic: str, body: bytes) -> bytes:
        if self.own is None:
            return body
        return seal(body, topic=topic, key=self.key, certificate=self.own.certificate)

    def put(self, kind: str, payload: bytes) -> None:
        with self.lock:
            self.outbox[hashlib.sha256(payload).hexdigest()] = (kind, payload, 0.0)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.link.close()

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        address = self.topics.parse(topic)
        with self.lock:
            if address.kind == "ack":
                if self.own is not None:
                    payload = decode_sealed(payload).check(topic=topic, key=self.key)
                ack = decode_ack(payload)
                self.acks.append(ack)
                self.outbox.pop(ack.sha256, None)
            elif not payload:
                pass  # a retained message was cleared
            elif address.kind == "certificate" and self.own is not None:
                name = self.device.name
                self.key = self.own.agree(
                    payload, name="aggregator", device=name, now_unix_s=time.time()
                ).key
            elif address.kind == "plan":
                plan = decode_plan(payload)
                self.plans[plan.id] = plan
            elif address.kind == "bundle":
                self.bundles[address.rest] = Bundle.from_bytes(payload)
            elif address.kind == "schema":
                self.schemas.append(payload)
            elif address.kind == "status":
                self.statuses.append(decode_status(payload))
            elif address.kind == "alarms":
                self.alarms.append(decode_alarms(payload))

    def _work(self) -> None:
        while self.own is not None and not self.key:
            if self._stop.wait(0.05):
                return
        self.state("online")
        while not self._stop.wait(0.05):
            with self.lock:
                plans = [p for p in self.plans.values() if p.id not in self.done]
            for plan in plans:
                self._answer(plan)
            now = time.monotonic()
            with self.lock:
                due = [
                    (sha, kind, payload)
                    for sha, (kind, payload, at) in self.outbox.items()
                    if now - at > RESEND_S
                ]
            if self.hold.is_set():
                continue
            for sha, kind, payload in due:
                topic = getattr(self.topics, kind)(self.device.name)
                self.link.publish(topic, self.sealed(topic, payload))
                self.sent_payloads += 1
                with self.lock:
                    if sha in self.outbox:
                        self.outbox[sha] = (kind, payload, now)
            with self.lock:
                empty = not self.outbox and bool(self.done)
                last = max(self.done, key=lambda i: self.plans[i].round) if empty else ""
            if empty and last != self.current:
                self.current = last
                self.state("idle", last)

    def _answer(self, plan: Plan) -> None:
        if plan.kind == "census":
            self.put("summary", self.device.census(plan))
        else:
            with self.lock:
                bundle = self.bundles.get(plan.bundle_digest or "")
            if bundle is None:
                return
            for data in self.device.batches(
                plan, bundle, self.rows, parts=self.parts, seed=self.seed + plan.round
            ):
                self.put("batch", data)
            if plan.anchor is not None:
                self.put("summary", self.device.anchor(plan, bundle))
            self.sent_rows += self.rows
        self.done.add(plan.id)


class AggregatorProcess:
    """The real `python -m edge_runtime.aggregator`."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.log = config.with_suffix(".log")
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "edge_runtime.aggregator", "--config", str(self.config)],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)

    def restart(self) -> None:
        self.process = self._start()

    def stop(self) -> int:
        """End it as an operator would; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(20)

    def text(self) -> str:
        return self.log.read_text()
