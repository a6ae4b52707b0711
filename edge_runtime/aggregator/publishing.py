"""What devices read: schema, plan and bundles, retained, and signed where the fleet has keys."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path

from edge_runtime.aggregator.config import AggregatorConfig
from edge_runtime.aggregator.files import write_durably
from edge_runtime.aggregator.rounds import Rounds
from edge_runtime.errors import ConfigError
from edge_runtime.messages import Topics, encode_plan
from edge_runtime.reception import Reception
from edge_runtime.updates import Target

__all__ = ["Publisher"]

_LOG = logging.getLogger(__name__)

#: How often it is looked whether the timestamp is due or keys were rotated.
_LOOK_S = 5.0
_FILE = "updates.json"


class Publisher:
    """Publishes what is in force.

    Parameters
    ----------
    config : AggregatorConfig
        `updates` names the keys; without them nothing is signed.
    rounds : Rounds
        What is in force.
    reception, topics : Reception, Topics
        Where it goes.

    Raises
    ------
    ConfigError
        A key is missing.
    """

    def __init__(
        self, *, config: AggregatorConfig, rounds: Rounds, reception: Reception, topics: Topics
    ) -> None:
        self._rounds, self._reception, self._topics = rounds, reception, topics
        self._file = config.data_dir / _FILE
        self._repository = None
        self._looked_s = 0.0
        self._problem = ""
        if config.updates is not None:
            # Here, as most of what imports this package signs nothing.
            from edge_runtime.updates.repository import Repository  # noqa: PLC0415

            last = self._file.read_bytes() if self._file.exists() else None
            self._repository = Repository(online=Path(config.updates.keys), last=last)

    def begin(self) -> None:
        """Publish everything, as after a start."""
        self._sign(again=True)
        self._reception.publish(self._topics.schema, self._schema())
        self.publish()

    def publish(self) -> None:
        """Publish bundles and plan: those in force and the one the plan names; clear older ones."""
        self._sign()
        keep = self._kept()
        for record in self._rounds.catalogue.bundles(status=None):
            if record.status == "rejected" or not keep:
                continue
            topic = self._topics.bundle(record.digest)
            data = self._path(record.path).read_bytes() if record.digest in keep else b""
            self._reception.publish(topic, data)
        plan = self._rounds.planner.current_plan
        if plan is not None:
            self._reception.publish(self._topics.plan, encode_plan(plan))

    def look(self) -> None:
        """Sign again what is due; cheap to call often."""
        if self._repository is not None and time.monotonic() - self._looked_s > _LOOK_S:
            self._sign()

    def _sign(self, *, again: bool = False) -> None:
        """Publish new metadata, if there is any, before what it is about."""
        repository = self._repository
        if repository is None:
            return
        self._looked_s = time.monotonic()
        try:
            fresh = repository.sign(self._targets(), now_unix_s=time.time())
            self._problem = ""
        except ConfigError as error:
            # As while a rotation's files are being copied; what was signed before stands.
            if str(error) != self._problem:
                _LOG.error("nothing is signed: %s", error)
            self._problem = str(error)
            fresh = False
        if repository.message is None or not (fresh or again):
            return
        # Before anybody has seen its version: the next one must be higher, whatever happens.
        write_durably(self._file, repository.message)
        self._reception.publish(self._topics.update, repository.message)

    def _targets(self) -> dict[str, Target]:
        schema = self._schema()
        targets = {"schema": _target("schema", schema)}
        plan = self._rounds.planner.current_plan
        if plan is not None:
            targets["plan"] = _target("plan", encode_plan(plan))
        keep = self._kept()
        for record in self._rounds.catalogue.bundles(status=None):
            if record.status != "rejected" and record.digest in keep:
                targets[f"bundle/{record.digest}"] = Target(
                    role="bundle", bytes=self._path(record.path).stat().st_size,
                    sha256=record.digest,
                )  # fmt: skip
        return targets

    def _schema(self) -> bytes:
        return self._rounds.workspace.declared.to_json()

    def _kept(self) -> set[str]:
        """Digests of the bundle in force and of the one the plan names."""
        plan = self._rounds.planner.current_plan
        return {self._rounds.digest, (plan and plan.bundle_digest) or ""} - {""}

    def _path(self, path: str) -> Path:
        return self._rounds.workspace.data_dir / path


def _target(role: str, data: bytes) -> Target:
    return Target(role=role, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())  # type: ignore[arg-type]
