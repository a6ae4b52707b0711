"""A whole fleet in one process and one thread: everything real but the broker and the processes.

Devices and aggregator run the code that they run in the field (store, ledger, outbox, source,
training, sampling; planner, inbox, pool, fusion, guard), each in files of its own. The bytes that
a device has put into its outbox are handed to the aggregator's inbox, the acknowledgements are
handed back. What is missing is MQTT, threads and the clock, so that a bench can run many fleets in
the time that one takes otherwise.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

from edge_runtime.aggregator.config import (
    AggregatorConfig,
    DataSettings,
    FleetSettings,
    PrivacySettings,
    RoundSettings,
    SchemaSettings,
)
from edge_runtime.aggregator.files import hold_directory
from edge_runtime.aggregator.planner import Step
from edge_runtime.aggregator.release import Release, write_release
from edge_runtime.aggregator.rounds import Rounds
from edge_runtime.aggregator.workspace import Workspace
from edge_runtime.device.config import (
    DeviceConfig,
    EngineConfig,
    LimitsConfig,
    PrivacyConfig,
    SourceConfig,
    TrainingConfig,
)
from edge_runtime.errors import AggregatorError, ConfigError, EdgeRuntimeError
from edge_runtime.fleet.simulated_device import Rows, SharedBundles, SimulatedDevice
from edge_runtime.generator import Bundle
from edge_runtime.messages import Ack, Plan
from edge_runtime.reception import Incoming
from edge_runtime.schema import Schema

__all__ = ["Round", "Simulation"]

FLEET = "simulation"

#: a directory in memory, where syncing a file costs nothing
_MEMORY = Path("/dev/shm")  # noqa: S108 - a fresh directory is made inside it


class Round(NamedTuple):
    """What became of a round: `number` 0 is the census.

    `reason` is what the aggregator notes about its end, `answers` the inbox's acknowledgements by
    device, in the order of arrival; `bundle` the generator in force afterwards.
    """

    number: int
    reason: str
    answers: dict[str, list[Ack]]
    bundle: Bundle


class Simulation:
    """A fleet and its aggregator; a context manager.

    Parameters
    ----------
    schema : Schema
        The fleet's table.
    devices : mapping of str to path, frame, mapping of columns or Table
        Real rows by device id (``[a-z0-9][a-z0-9_-]{0,62}``): anything `read_table` takes.
    epsilon : float or None
        Of the whole run, for aggregator and devices alike; None: WITHOUT PRIVACY.
    delta : float
        Of (epsilon, delta).
    rounds : RoundSettings, optional
        [rounds]; the deadline passes at once when nobody else is to come.
    directory : Path, optional
        Where all files are; one with an earlier run of the same fleet is taken up where it was.
        By default a directory in memory (``/dev/shm``) that `close` removes.
    seed : int
        Of the aggregator: public sampling and fusion, never privacy noise.
    engine, training, limits : optional
        Sections of every device's configuration.
    sections
        Further sections of `AggregatorConfig` by their names: ``train=TrainPlanSettings(...)``,
        ``rows=...``, ``fusion=...``, ``guard=...``, ``release=...``.

    Attributes
    ----------
    devices : dict of str to SimulatedDevice
    config : AggregatorConfig
    now_unix_s : float
        The simulation's clock: begins at 0, moves on by a second at every look and to the deadline
        where a round has to wait for it.

    Notes
    -----
    `fusion.max_seconds` is wall-clock time; set it high where results must not depend on how busy
    the machine is. `SimulatedDevice.cpu_seconds` is exact with one BLAS thread.

    Examples
    --------
    ::

        with Simulation(schema=schema, devices=frames, epsilon=8.0) as fleet:
            fleet.run()
            rows = fleet.workspace.pool_rows().codes
    """

    def __init__(
        self,
        *,
        schema: Schema,
        devices: Mapping[str, Rows],
        epsilon: float | None,
        delta: float = 1e-5,
        rounds: RoundSettings | None = None,
        directory: Path | None = None,
        seed: int = 0,
        engine: EngineConfig | None = None,
        training: TrainingConfig | None = None,
        limits: LimitsConfig | None = None,
        **sections: Any,
    ) -> None:
        if not devices:
            raise ConfigError("a simulation needs at least one device")
        self._temporary = directory is None
        self.directory = _fresh_directory() if directory is None else directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self._schema = schema
        schema_path = self.directory / "schema.json"
        schema.save(schema_path)
        limit: float | Literal["none"] = "none" if epsilon is None else epsilon
        self.config = AggregatorConfig(
            fleet=FleetSettings(name=FLEET, devices=len(devices)),
            data=DataSettings(dir=str(self.directory / "aggregator")),
            schema=SchemaSettings(path=str(schema_path)),
            privacy=PrivacySettings(epsilon=limit, delta=delta),
            rounds=rounds or RoundSettings(),
            seed=seed,
            **sections,
        )
        self._lock_file = hold_directory(self.config.data_dir)
        self._rounds = Rounds(self.config)
        self._rounds.restore()
        self.now_unix_s = 0.0
        bundles = SharedBundles(directory=self.directory / "bundles")
        self.devices = {
            name: SimulatedDevice(
                config=DeviceConfig(
                    id=name,
                    fleet=FLEET,
                    state_dir=self.directory / "devices" / name,
                    source=SourceConfig(
                        path=self.directory / "devices" / name / "rows.csv", follow=False
                    ),
                    privacy=PrivacyConfig(epsilon=limit, delta=delta),
                    engine=engine or EngineConfig(),
                    training=training or TrainingConfig(),
                    limits=limits or LimitsConfig(),
                ),
                schema=schema,
                rows=rows,
                bundles=bundles,
                fetch=self._bundle_bytes,
            )
            for name, rows in devices.items()
        }

    def __enter__(self) -> Simulation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files, and remove a temporary directory."""
        for device in self.devices.values():
            device.close()
        self._rounds.close()
        self._lock_file.close()
        if self._temporary:
            shutil.rmtree(self.directory)

    # what is there ----------------------------------------------------------------------------

    @property
    def workspace(self) -> Workspace:
        """The aggregator's pool, anchor and catalogue."""
        return self._rounds.workspace

    @property
    def bundle(self) -> Bundle:
        """The generator in force.

        Raises
        ------
        AggregatorError
            Before the census.
        """
        if self._rounds.bundle is None:
            raise AggregatorError("there is no generator yet: run census() first")
        return self._rounds.bundle

    # what happens -----------------------------------------------------------------------------

    def census(self, *, absent: Collection[str] = (), late: Collection[str] = ()) -> Round:
        """Run the census; see `round`."""
        return self.round(0, absent=absent, late=late)

    def round(
        self,
        number: int | None = None,
        *,
        absent: Collection[str] = (),
        late: Collection[str] = (),
    ) -> Round:
        """Run the next round: plan, work, delivery, fusion.

        Parameters
        ----------
        number : int, optional
            The number that the caller expects it to have.
        absent : collection of str
            Devices that see nothing of this round; they come back with the next one.
        late : collection of str
            Devices whose messages arrive after this round's fusion.

        Raises
        ------
        AggregatorError
            If all rounds are done, the number is another one, or the quorum was not reached.
        """
        for name in (*absent, *late):
            if name not in self.devices:
                raise ConfigError(f"there is no device {name!r} in this simulation")
        plan = self._open(number)
        present = {name: d for name, d in self.devices.items() if name not in absent}
        answers: dict[str, list[Ack]] = {name: [] for name in present}
        for name, device in present.items():
            device.work(plan)
            if name not in late:
                answers[name] += self._deliver(device)
        reason = self._finish(plan)
        for name in late:
            if name in present:
                answers[name] += self._deliver(present[name])
        return Round(plan.round, reason, answers, self.bundle)

    def run(self) -> Bundle:
        """Run the census and all configured rounds, from wherever they are."""
        while not self._done():
            self.round()
        return self.bundle

    def release(self, out: Path, **arguments: Any) -> Release:
        """Write a release; `arguments` as of `aggregator.release.write_release`."""
        return write_release(self.workspace, out, **arguments)

    # one round --------------------------------------------------------------------------------

    def _done(self) -> bool:
        records = self.workspace.catalogue.rounds()
        return (
            bool(records)
            and records[-1].status == "closed"
            and records[-1].round >= self.config.rounds.count
        )

    def _open(self, number: int | None) -> Plan:
        """Return the plan in force: of an unfinished round, or of a new one."""
        plan = self._rounds.planner.current_plan
        records = self.workspace.catalogue.rounds()
        if plan is None or records[-1].status == "closed":
            step = self._step()
            if step.action != "open" or step.plan is None:
                raise AggregatorError(f"no further round: {step.reason}")
            plan = step.plan
        if number is not None and number != plan.round:
            raise AggregatorError(f"the next round is {plan.round}, not {number}")
        return plan

    def _step(self) -> Step:
        self.now_unix_s += 1.0
        states = {name: device.state for name, device in self.devices.items()}
        return self._rounds.step(now_unix_s=self.now_unix_s, states=states)

    def _deliver(self, device: SimulatedDevice) -> list[Ack]:
        """Hand a device's messages to the inbox and the acknowledgements back."""
        acks = []
        for message in device.outgoing():
            (ack,) = self._rounds.inbox.accept([Incoming(device.id, message.kind, message.payload)])
            device.acknowledge(message, ack)
            acks.append(ack)
        return acks

    def _finish(self, plan: Plan) -> str:
        step = self._step()
        if step.action == "wait":
            self.now_unix_s += plan.deadline_s
            step = self._step()
        if step.action != "fuse":
            raise AggregatorError(f"round {plan.round} cannot end: {step.reason}")
        rounds = self._rounds
        reason = rounds.already_made(plan.round)
        if reason is None:
            try:
                result = rounds.fuse(
                    plan.round, should_stop=lambda: False, on_progress=lambda _: None
                )
            except EdgeRuntimeError as error:
                return rounds.without(plan.round, error, now_unix_s=self.now_unix_s)
            reason = rounds.settle(plan.round, result)
        rounds.adopt(plan.round)
        rounds.planner.close(plan.round, now_unix_s=self.now_unix_s, reason=reason)
        return reason

    def _bundle_bytes(self, digest: str) -> bytes:
        """Return what the broker would have retained under a bundle's topic."""
        for record in self.workspace.catalogue.bundles(status=None):
            if record.digest == digest:
                return (self.workspace.data_dir / record.path).read_bytes()
        raise AggregatorError(f"no bundle {digest[:12]} was ever published")


def _fresh_directory() -> Path:
    base = _MEMORY if _MEMORY.is_dir() else None
    return Path(tempfile.mkdtemp(prefix="edge-runtime-", dir=base))
