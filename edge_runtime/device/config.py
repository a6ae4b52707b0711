"""The device's configuration file: `device.toml` to checked values.

A complete file, with the defaults of everything that may be left out::

    [device]
    id = "board-17"                 # [a-z0-9][a-z0-9_-]{0,62}
    fleet = "demo"
    state_dir = "state"             # the store and cached bundles; one agent at a time
    log_level = "info"              # debug, info, warning, error

    [broker]
    host = "127.0.0.1"
    port = 1883
    username = ""                   # empty: no user
    password_file = ""              # one line; a password never stands in this file
    keepalive_s = 30
    ack_timeout_s = 30.0            # unacknowledged messages are sent again after this time

    # [broker.tls]                  # without this section the connection is not encrypted
    # ca = "ca.pem"                 # the broker's certificate must be signed by it
    # certificate = "device.pem"    # the device's own; certificate and key, or neither
    # key = "device.key"            # mode 0600

    # [updates]                     # without this section anything the broker hands out is taken
    # root = "root.json"            # the fleet's update keys: only what they have signed is taken

    [source]
    kind = "csv"
    path = "rows.csv"
    follow = true                   # the file may grow; an unfinished last line is left for later
    poll_s = 5.0                    # a source that could not be read is tried again after this time

    [privacy]
    epsilon = 8.0                   # the most a row may ever cost, or "none": WITHOUT PRIVACY
    delta = 1e-5
    accept_new_schema = false       # true: a changed schema replaces one that was paid for
    publish_shortage = false        # true: the state tells when disk, memory or store run short

    [engine]
    name = "auto"                   # or kernel, tflite, onnx, numpy; auto: the smallest there is
    threads = 1

    [training]
    checkpoint_s = 10.0             # at most about this much work is repeated after a crash
    checkpoint_steps = 50           # how often to look whether a checkpoint is due
    minimum_rows = 50               # below this (noisy) count nothing is trained

    [limits]
    store_bytes = 1073741824        # local codes; intake stops there, nothing accepted is dropped
    outbox_bytes = 67108864         # unsent and refused messages
    free_disk_bytes = 67108864      # below this: paused; below twice this: slow; 0: do not look
    free_memory_bytes = 33554432    # the same, of memory
    #temperature_slow_c = 75.0      # the default on ARM and RISC-V boards; elsewhere, and with 0,
    #temperature_stop_c = 85.0      # temperatures are not looked at
    look_s = 5.0                    # how often these are looked at
    stall_s = 300.0                 # work without a sign of life for this long is taken as hung
    memory_bytes = 0                # systemd's limit (docs/service.md); 0: as the unit says
    cpu_percent = 0                 # the same, of one core
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edge_runtime.errors import ConfigError
from edge_runtime.process.tls import TlsFiles
from edge_runtime.process.toml_file import below, read_toml

__all__ = [
    "ENGINE_NAMES",
    "BrokerConfig",
    "DeviceConfig",
    "EngineConfig",
    "LimitsConfig",
    "PrivacyConfig",
    "SourceConfig",
    "TrainingConfig",
    "UpdatesConfig",
    "load_config",
]

_IDENTIFIER = re.compile(r"(?!all\Z)[a-z0-9][a-z0-9_-]{0,62}")

#: "auto" and the names of `edge_runtime.generator.ENGINES`, whose import takes half a second and
#: brings numpy: the threads of that are set by what this file reads
ENGINE_NAMES = ("auto", "kernel", "tflite", "onnx", "numpy")

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_Celsius = Annotated[float, msgspec.Meta(ge=0)]

#: Boards without a fan throttle or switch off from about 85 C on. x86 processors are built to run
#: near 100 C and hold themselves back: a hot laptop is in no need of help.
_BOARD = os.uname().machine.startswith(("aarch64", "arm", "riscv"))
#: a limit below this kills the agent while it starts (bytes)
_LEAST_MEMORY = 48 << 20
#: what counts towards a limit of an agent that waits: the rest are file pages (bytes; measured)
_OWN_MEMORY = 32 << 20


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; an unknown key is an error, as it is most likely a typing mistake."""


class BrokerConfig(_Section, frozen=True, kw_only=True):
    """Where the broker is and how patient the device is with it."""

    host: str = "127.0.0.1"
    port: _Port = 1883
    username: str = ""
    password_file: Path | None = None
    keepalive_s: _Positive = 30
    ack_timeout_s: _Seconds = 30.0
    tls: TlsFiles | None = None

    def password(self) -> str | None:
        """Read the password from its file.

        Raises
        ------
        ConfigError
            When the file is named and cannot be read.
        """
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"broker.password_file {self.password_file} cannot be read ({error.strerror}); "
                "create it, readable by the device's user alone, or remove the key"
            ) from error


class UpdatesConfig(_Section, frozen=True, kw_only=True):
    """Whose signatures schemas, plans and bundles must have (docs/updates.md)."""

    root: Path


class SourceConfig(_Section, frozen=True, kw_only=True):
    """Where the real rows come from."""

    path: Path
    kind: Literal["csv"] = "csv"
    follow: bool = True
    poll_s: _Seconds = 5.0


class PrivacyConfig(_Section, frozen=True, kw_only=True):
    """What a row may cost; the device's own limit, whatever a plan asks."""

    epsilon: Annotated[float, msgspec.Meta(gt=0)] | Literal["none"]
    delta: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 1e-5
    accept_new_schema: bool = False
    publish_shortage: bool = False

    def __post_init__(self) -> None:
        if self.epsilon == math.inf:
            raise ValueError('infinity is written epsilon = "none": releases WITHOUT PRIVACY')

    @property
    def epsilon_limit(self) -> float | None:
        """The limit, or None for a device that allows releases without privacy."""
        return None if self.epsilon == "none" else self.epsilon

    @property
    def shows_shortage(self) -> bool:
        """Whether others may learn that disk, memory or the store run short.

        The store grows with the number of real rows, so this tells on which side of a limit that
        number is, and no ledger counts it.
        """
        return self.publish_shortage or self.epsilon == "none"


class EngineConfig(_Section, frozen=True, kw_only=True):
    """Which engine runs the generator, on how many threads."""

    name: str = "auto"
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1

    def __post_init__(self) -> None:
        if self.name not in ENGINE_NAMES:
            raise ValueError(f"unknown engine {self.name!r}; known: {', '.join(ENGINE_NAMES)}")


class TrainingConfig(_Section, frozen=True, kw_only=True):
    """How local training is kept safe and sensible."""

    checkpoint_s: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    checkpoint_steps: _Positive = 50
    minimum_rows: _Positive = 50


class LimitsConfig(_Section, frozen=True, kw_only=True):
    """Bounds of what the device keeps and uses, and of what it leaves to others."""

    store_bytes: Annotated[int, msgspec.Meta(ge=65536)] = 1 << 30
    outbox_bytes: Annotated[int, msgspec.Meta(ge=65536)] = 64 << 20
    free_disk_bytes: Annotated[int, msgspec.Meta(ge=0)] = 64 << 20
    free_memory_bytes: Annotated[int, msgspec.Meta(ge=0)] = 32 << 20
    temperature_slow_c: _Celsius = 75.0 if _BOARD else 0.0
    temperature_stop_c: _Celsius = 85.0 if _BOARD else 0.0
    look_s: _Seconds = 5.0
    stall_s: _Seconds = 300.0
    memory_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    cpu_percent: Annotated[int, msgspec.Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if 0.0 < self.temperature_stop_c <= self.temperature_slow_c:
            raise ValueError(
                f"temperature_stop_c = {self.temperature_stop_c:g} must lie above "
                f"temperature_slow_c = {self.temperature_slow_c:g}"
            )
        if 0 < self.memory_bytes < _LEAST_MEMORY:
            raise ValueError(
                f"memory_bytes = {self.memory_bytes}: the agent alone takes {_LEAST_MEMORY} or more"
            )
        least = _OWN_MEMORY + 2 * self.free_memory_bytes
        if 0 < self.memory_bytes < least:
            raise ValueError(
                f"memory_bytes = {self.memory_bytes} leaves less than twice free_memory_bytes "
                "beside the agent itself, which would be slow or paused for ever; set "
                f"{least} or more, or lower free_memory_bytes"
            )


class _DeviceSection(_Section, frozen=True, kw_only=True):
    id: str
    fleet: str
    state_dir: Path
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class _File(_Section, frozen=True, kw_only=True):
    device: _DeviceSection
    source: SourceConfig
    privacy: PrivacyConfig
    broker: BrokerConfig = BrokerConfig()
    engine: EngineConfig = EngineConfig()
    training: TrainingConfig = TrainingConfig()
    limits: LimitsConfig = LimitsConfig()
    updates: UpdatesConfig | None = None


class DeviceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a device agent needs to know before it starts.

    Parameters
    ----------
    id, fleet : str
        Name of the device and of its fleet: ``[a-z0-9][a-z0-9_-]{0,62}``.
    state_dir : Path
        Directory of the store and of cached bundles; created when missing.
    """

    id: str
    fleet: str
    state_dir: Path
    source: SourceConfig
    privacy: PrivacyConfig
    broker: BrokerConfig = BrokerConfig()
    engine: EngineConfig = EngineConfig()
    training: TrainingConfig = TrainingConfig()
    limits: LimitsConfig = LimitsConfig()
    updates: UpdatesConfig | None = None
    log_level: str = "info"

    def __post_init__(self) -> None:
        for name, value in (("id", self.id), ("fleet", self.fleet)):
            if not _IDENTIFIER.fullmatch(value):
                raise ConfigError(
                    f"device.{name} is {value!r}; use 1 to 63 of a-z, 0-9, '_' and '-', "
                    "starting with a letter or digit, and not 'all'"
                )


def load_config(path: str | Path) -> DeviceConfig:
    """Read and check a configuration file.

    Parameters
    ----------
    path : str or Path
        The TOML file; relative paths inside it start at its directory.

    Raises
    ------
    ConfigError
        When the file is missing, is not TOML, or has a missing, unknown or impossible value;
        the message names file, key and value.
    """
    path = Path(path)
    try:
        raw = read_toml(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    base = path.resolve().parent

    def resolve(kind: type, value: object) -> Path:
        if kind is not Path:
            raise ValueError(f"expected a path, got {value!r}")
        return below(base, value)

    broker = raw.get("broker")
    if isinstance(broker, dict) and broker.get("password_file") == "":
        del broker["password_file"]
    try:
        file = msgspec.convert(raw, _File, dec_hook=resolve)
    except msgspec.ValidationError as error:
        raise ConfigError.invalid(path, error, hint="docs/device.md") from error
    return DeviceConfig(
        id=file.device.id,
        fleet=file.device.fleet,
        state_dir=file.device.state_dir,
        source=file.source,
        privacy=file.privacy,
        broker=file.broker,
        engine=file.engine,
        training=file.training,
        limits=file.limits,
        updates=file.updates,
        log_level=file.device.log_level,
    )
