"""One device of a simulated fleet as a process of its own: the agent, over a real broker.

Everything else of the fleet stays in this process. What the agent does, holds and sends is what it
does on a board.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from edge_runtime.errors import FleetError
from edge_runtime.fleet.broker import start_broker
from edge_runtime.fleet.processes import Processes
from edge_runtime.fleet.simulated_device import Outgoing, SimulatedDevice
from edge_runtime.messages import (
    Ack,
    DeviceState,
    Link,
    Plan,
    Topics,
    decode_state,
    encode_ack,
    encode_plan,
)
from edge_runtime.schema import Schema

__all__ = ["AgentDevice"]

#: of a plan's work and of what follows it; a busy machine takes minutes
_PATIENCE_S = 900.0
#: how often to look whether the process still lives
_LOOK_S = 2.0
#: what an agent shows once its outbox is empty as well
_AT_REST = ("idle", "declined")


class AgentDevice(SimulatedDevice):
    """Takes the place of a simulated device; a context manager, in which the agent runs.

    Parameters
    ----------
    schema : Schema
    directory : Path
        For the broker, the configuration and the log.
    **parts
        As of `SimulatedDevice`; its store is the agent's and not touched here.
    """

    def __init__(self, *, schema: Schema, directory: Path, **parts: Any) -> None:
        super().__init__(schema=schema, **parts)
        self._declared = schema
        self._directory = directory
        self._topics = Topics(self.config.fleet)
        self._news = threading.Condition()
        self._shown: DeviceState | None = None
        #: by digest: what came up, and what of it was answered
        self._arrived: dict[str, Outgoing] = {}
        self._answered: set[str] = set()
        self._running = ExitStack()

    def __enter__(self) -> AgentDevice:
        topics, name = self._topics, self.id
        with ExitStack() as running:
            broker = running.enter_context(start_broker(self._directory / "broker"))
            self._link = running.enter_context(
                Link(
                    host=broker.host,
                    port=broker.port,
                    client_id="bench",
                    topics=(topics.state(name), topics.batch(name), topics.summary(name)),
                    on_message=self._on_message,
                )
            )
            self._link.wait_connected(20.0)
            self._link.publish(topics.schema, self._declared.to_json(), retain=True)
            self._processes = running.enter_context(Processes())
            self._agent = self._processes.start_module(
                "edge_runtime.device",
                ["--config", str(self._write_config(broker.port))],
                name=f"device {name}",
                log=self._directory / "agent.log",
            )
            self._running = running.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running.close()

    @property
    def peak_mb(self) -> float:
        """The agent's largest resident memory since it started (VmHWM), in MB."""
        status = Path(f"/proc/{self._agent.process.pid}/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    @property
    def state(self) -> DeviceState:
        """What the agent showed last."""
        return super().state if self._shown is None else self._shown

    def work(self, plan: Plan) -> None:
        """Publish a plan, after its bundle, and wait until the agent has carried it out.

        Raises
        ------
        FleetError
            The agent ended, or takes too long.
        """
        if plan.bundle_digest is not None:
            payload = self._fetch(plan.bundle_digest)
            self._link.publish(self._topics.bundle(plan.bundle_digest), payload, retain=True)
        self._link.publish(self._topics.plan, encode_plan(plan), retain=True)
        self._wait_for(
            f"the plan of round {plan.round}",
            lambda: self.state.plan_id == plan.id and self.state.status in ("sending", *_AT_REST),
        )

    def outgoing(self) -> Iterator[Outgoing]:
        """Yield what comes up until nothing waits; the agent sends on as it gets answers."""
        while True:
            self._wait_for(
                "its messages", lambda: self._unanswered() or self.state.status in _AT_REST
            )
            message = self._unanswered()
            if message is None:
                return
            self._answered.add(message.sha256)
            yield message

    def acknowledge(self, message: Outgoing, ack: Ack) -> None:  # noqa: ARG002
        """Send the answer, by which the agent takes the message out of its outbox."""
        self._link.publish(self._topics.ack(self.id), encode_ack(ack))

    def _unanswered(self) -> Outgoing | None:
        with self._news:
            found = (m for m in self._arrived.values() if m.sha256 not in self._answered)
            return next(found, None)

    def _on_message(self, topic: str, payload: bytes, _retained: bool) -> None:
        kind = self._topics.parse(topic).kind
        with self._news:
            if kind == "state" and payload:
                self._shown = decode_state(payload)
            elif kind in ("batch", "summary"):
                sha256 = hashlib.sha256(payload).hexdigest()
                self._arrived[sha256] = Outgoing(kind, payload, sha256)
            self._news.notify_all()

    def _wait_for(self, what: str, condition: Callable[[], Any]) -> None:
        with self._news:
            for _ in range(round(_PATIENCE_S / _LOOK_S)):
                if self._news.wait_for(condition, _LOOK_S):
                    return
                self._processes.check()
        raise FleetError(
            f"{self._agent.name} takes longer than {_PATIENCE_S:g} s for {what}; its log is "
            f"{self._agent.log}\n{self._agent.last_words()}"
        )

    def _write_config(self, port: int) -> Path:
        config = self.config
        limit = config.privacy.epsilon_limit
        path = self._directory / "device.toml"
        path.write_text(
            f"""\
[device]
id = "{config.id}"
fleet = "{config.fleet}"
state_dir = "{config.state_dir}"

[broker]
host = "127.0.0.1"
port = {port}

[source]
kind = "csv"
path = "{config.source.path}"
follow = false

[privacy]
epsilon = {'"none"' if limit is None else limit}
delta = {config.privacy.delta!r}

[training]
minimum_rows = {config.training.minimum_rows}
""",
            encoding="utf-8",
        )
        return path
