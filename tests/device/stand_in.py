"""A stand-in for the aggregator: publishes, collects and acknowledges as a test tells it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_runtime.generator import Bundle
from edge_runtime.messages import (
    Ack,
    DeviceState,
    Header,
    Link,
    Plan,
    Topics,
    decode_batch,
    decode_state,
    decode_summary,
    encode_ack,
    encode_plan,
    new_id,
)
from edge_runtime.schema import Schema

FLEET = "tests"


def wait_for(what: str, condition: Callable[[], Any], *, timeout_s: float = 30.0) -> Any:
    """Wait until a condition holds and return its value; fail with its name otherwise."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    pytest.fail(f"not within {timeout_s:g} s: {what}")


class StandIn:
    """A tiny aggregator: publishes, collects, acknowledges as told."""

    def __init__(self, *, port: int, fleet: str = FLEET, bundle: Bundle | None = None) -> None:
        self.topics = Topics(fleet)
        self.fleet = fleet
        self.bundle = bundle
        #: how to answer: "accepted", "refused", ... or "" for silence
        self.answer = "accepted"
        self.states: list[tuple[float, DeviceState]] = []
        #: everything that came up, with its topic
        self.wire: list[tuple[str, bytes]] = []
        self.batches: dict[str, tuple[Header, np.ndarray]] = {}
        self.summaries: dict[str, tuple[Header, dict[str, np.ndarray]]] = {}
        self.arrivals: list[str] = []
        self._lock = threading.Lock()
        topics = self.topics
        self.link = Link(
            host="127.0.0.1",
            port=port,
            client_id=f"stand-in-{new_id()[:8]}",
            topics=(topics.all_states, topics.all_batches, topics.all_summaries),
            on_message=self._on_message,
        ).start()
        self.link.wait_connected(10.0)

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        address = self.topics.parse(topic)
        with self._lock:
            self.wire.append((topic, payload))
            if not payload:
                return
            if address.kind == "state":
                self.states.append((time.monotonic(), decode_state(payload)))
                return
        if address.kind == "batch":
            assert self.bundle is not None
            header, codes = decode_batch(
                payload,
                cardinalities=self.bundle.codec.cardinalities,
                names=self.bundle.schema.names,
            )
            if self.answer in ("accepted", "duplicate"):
                self.batches[header.id] = (header, codes)
        else:
            header, tensors = decode_summary(payload)
            if self.answer in ("accepted", "duplicate"):
                self.summaries[header.id] = (header, tensors)
        self.arrivals.append(header.id)
        if self.answer:
            ack = Ack(
                id=header.id,
                sequence=header.sequence,
                sha256=hashlib.sha256(payload).hexdigest(),
                status=self.answer,  # type: ignore[arg-type]
                reason="" if self.answer == "accepted" else "as the test asks",
            )
            self.link.publish(self.topics.ack(address.device), encode_ack(ack))

    def publish_schema(self, schema: Schema) -> None:
        self.link.publish(self.topics.schema, schema.to_json(), retain=True).wait(5.0)

    def publish_bundle(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.link.publish(self.topics.bundle(bundle.digest), bundle.to_bytes(), retain=True).wait(
            5.0
        )

    def publish_plan(self, plan: Plan) -> Plan:
        self.link.publish(self.topics.plan, encode_plan(plan), retain=True).wait(5.0)
        return plan

    def state(self, device: str = "one") -> DeviceState | None:
        with self._lock:
            mine = [state for _, state in self.states if state.device == device]
        return mine[-1] if mine else None

    def wait_state(
        self, status: str, *, plan: Plan | None = None, timeout_s: float = 30.0
    ) -> DeviceState:
        def there() -> DeviceState | None:
            state = self.state()
            if state is None or state.status != status:
                return None
            return state if plan is None or state.plan_id == plan.id else None

        try:
            return wait_for(f"state {status}", there, timeout_s=timeout_s)
        except BaseException:
            print("last state:", self.state())
            raise

    def close(self) -> None:
        # What is retained at a shared broker must not reach the next test.
        topics = [self.topics.schema, self.topics.plan]
        if self.bundle is not None:
            topics.append(self.topics.bundle(self.bundle.digest))
        topics += [self.topics.state(state.device) for _, state in self.states[-1:]]
        for topic in topics:
            self.link.publish(topic, b"", retain=True).wait(5.0)
        self.link.close()
