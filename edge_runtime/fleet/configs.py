"""The configuration files that a demo fleet runs from; a person can start it again with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.fleet.flights import DeviceFile, FlightsData

__all__ = ["FLEET", "FleetSettings", "write_aggregator_config", "write_device_config"]

FLEET = "flights"


@dataclass(frozen=True, kw_only=True)
class FleetSettings:
    """What a run is asked for.

    Parameters
    ----------
    epsilon : float or None
        Budget of a row over the whole run; None is WITHOUT PRIVACY.
    delta : float
    rounds : int
        Training rounds after the census.
    seed : int
        Decides the held-out rows and all public sampling, never privacy noise.
    """

    epsilon: float | None = 8.0
    delta: float = 1e-5
    rounds: int = 2
    seed: int = 0

    @property
    def epsilon_text(self) -> str:
        """The budget as the configuration files write it."""
        return '"none"' if self.epsilon is None else repr(float(self.epsilon))


def write_aggregator_config(
    path: Path, *, data: FlightsData, port: int, settings: FleetSettings
) -> None:
    """Write aggregator.toml; its data directory is ``data`` beside it."""
    devices = len(data.devices)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""\
seed = {settings.seed}

[fleet]
name = "{FLEET}"
devices = {devices}             # a round ends as soon as all of them have answered

[broker]
host = "127.0.0.1"
port = {port}

[data]
dir = "data"

[schema]
path = {_quoted(data.schema_path.absolute())}

[privacy]
epsilon = {settings.epsilon_text}
delta = {settings.delta!r}

[rounds]
count = {settings.rounds}
quorum = {max(1, devices * 3 // 4)}
deadline_s = 60.0
""",
        encoding="utf-8",
    )


def write_device_config(
    path: Path, *, device: DeviceFile, port: int, settings: FleetSettings
) -> None:
    """Write device.toml; its state directory is ``state`` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""\
[device]
id = "{device.device}"
fleet = "{FLEET}"
state_dir = "state"

[broker]
host = "127.0.0.1"
port = {port}

[source]
kind = "csv"
path = {_quoted(device.path.absolute())}
follow = false

[privacy]
epsilon = {settings.epsilon_text}         # this device's own limit, whatever a plan asks
delta = {settings.delta!r}
""",
        encoding="utf-8",
    )


def _quoted(path: Path) -> str:
    """Write a path as a TOML basic string."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
