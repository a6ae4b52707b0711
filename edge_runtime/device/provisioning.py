"""The provisioning file: all that a new board is given, on its boot partition or by cloud-init.

`edge-runtime fleet token` writes it. A complete file::

    [device]
    id = "board-17"                 # left out: one is derived from the board's serial number

    [fleet]
    name = "clinics"
    host = "broker.example"         # of the broker, as its certificate names it
    port = 8883                     # for enrolled devices
    enrol_port = 8884               # for those with a token
    issued_unix_s = 1780000000      # when this was written: the clock is not earlier
    ca = '''
    -----BEGIN CERTIFICATE-----
    ...
    -----END CERTIFICATE-----
    '''

    root = '''...'''                # root.json of the fleet's update keys; left out: unsigned

    [token]                         # good for one certificate
    id = "32 hexadecimal digits"
    secret = "43 letters, digits, - and _"

    [source]                        # this and the sections of device.toml below are optional;
    path = "/data/rows.csv"         # each replaces that of an existing device.toml

    [privacy]
    epsilon = 8.0

    # [engine], [training], [limits]
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edge_runtime.device.config import (
    EngineConfig,
    LimitsConfig,
    PrivacyConfig,
    SourceConfig,
    TrainingConfig,
)
from edge_runtime.errors import ConfigError
from edge_runtime.messages import check_id
from edge_runtime.messages.fields import Count, Id, MessageId
from edge_runtime.process.toml_file import parse_toml, read_toml

__all__ = [
    "SETTINGS",
    "Provision",
    "Token",
    "derived_id",
    "load_provision",
    "parse_provision",
    "wipe_token",
]

#: sections that are handed on to device.toml as they are
SETTINGS = ("source", "privacy", "engine", "training", "limits")

# 32 bytes as base64url; a wiped secret is as long, so that wiping changes no other byte.
_SECRET_LENGTH = 43
_WIPED = "-" * _SECRET_LENGTH
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_SERIALS = (
    Path("/proc/device-tree/serial-number"),
    Path("/sys/class/dmi/id/product_uuid"),
    Path("/etc/machine-id"),
)


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; an unknown key is an error, as it is most likely a typing mistake."""


class Fleet(_Section, frozen=True, kw_only=True):
    """[fleet]: where the fleet is and how to recognise it."""

    name: Id
    host: Annotated[str, msgspec.Meta(min_length=1)]
    port: _Port = 8883
    enrol_port: _Port = 8884
    issued_unix_s: Count = 0
    ca: Annotated[str, msgspec.Meta(pattern=r"-----BEGIN CERTIFICATE-----")]
    root: Annotated[str, msgspec.Meta(max_length=65_536)] = ""


class Token(_Section, frozen=True, kw_only=True):
    """[token]: the right to one certificate."""

    id: MessageId
    secret: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{43}\Z")]

    @property
    def wiped(self) -> bool:
        """Whether the secret was used and removed."""
        return self.secret == _WIPED

    @property
    def key(self) -> bytes:
        """The secret, 32 bytes."""
        return base64.urlsafe_b64decode(self.secret + "=")


class _Device(_Section, frozen=True, kw_only=True):
    id: Id | None = None


class _File(_Section, frozen=True, kw_only=True):
    fleet: Fleet
    token: Token
    device: _Device = _Device()
    source: SourceConfig | None = None
    privacy: PrivacyConfig | None = None
    engine: EngineConfig | None = None
    training: TrainingConfig | None = None
    limits: LimitsConfig | None = None


class Provision(msgspec.Struct, frozen=True, kw_only=True):
    """A checked provisioning file.

    Parameters
    ----------
    path : Path
        The file.
    device : str
        Id of the device, given or derived.
    fleet : Fleet
        Where the fleet is.
    token : Token
        The right to one certificate.
    settings : dict
        Sections for device.toml, as TOML values.
    """

    path: Path
    device: str
    fleet: Fleet
    token: Token
    settings: dict[str, dict[str, Any]]


def load_provision(path: Path) -> Provision:
    """Read and check a provisioning file.

    Raises
    ------
    ConfigError
        It is missing, not TOML, or has a missing, unknown or impossible value.
    """
    try:
        # With a byte order mark where it was edited under Windows, as boot partitions are.
        return _checked(read_toml(path, encoding="utf-8-sig"), path)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); a provisioning file is written by "
            "edge-runtime fleet token"
        ) from error


def parse_provision(text: str, path: Path) -> Provision:
    """Check the text of a provisioning file; see `load_provision`."""
    return _checked(parse_toml(text, path), path)


def _checked(raw: dict[str, Any], path: Path) -> Provision:
    try:
        file = msgspec.convert(raw, _File, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise ConfigError.invalid(path, error, hint="docs/fleet.md") from error
    return Provision(
        path=path,
        device=file.device.id or derived_id(),
        fleet=file.fleet,
        token=file.token,
        settings={name: raw[name] for name in SETTINGS if name in raw},
    )


def wipe_token(provision: Provision) -> None:
    """Overwrite the token's secret in its file, in place, and sync it.

    In place, because a boot partition is FAT: a file that is written anew and renamed would
    leave the old sectors, secret and all, where they were. The file keeps its length and stays
    valid, so that a power cut at any moment leaves a file that can be read.

    Raises
    ------
    ConfigError
        The file cannot be written to.
    """
    secret = provision.token.secret.encode()
    try:
        with provision.path.open("r+b") as file:
            for found in re.finditer(re.escape(secret), file.read()):
                file.seek(found.start())
                file.write(_WIPED.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(
            f"the used token in {provision.path} cannot be wiped ({error.strerror}); the device "
            "is enrolled and the token worthless by now: mount the partition writable and run "
            "this again"
        ) from error


def derived_id(sources: tuple[Path, ...] = _SERIALS) -> str:
    """Return a device id from what this board has and no other: its serial number or machine id.

    Parameters
    ----------
    sources : tuple of Path
        Files to look into; the first with content decides.

    Raises
    ------
    ConfigError
        None has any.

    Notes
    -----
    A serial number stays recognisable, ``board-10000000a1b2c3d4``. Anything else is hashed: a
    machine id is meant to stay on its machine.
    """
    for source in sources:
        try:
            text = source.read_text(encoding="ascii", errors="ignore").strip("\0 \n").lower()
        except OSError:
            continue
        if re.fullmatch(r"[0-9a-f]{8,32}", text) and source.name == "serial-number":
            return check_id(f"board-{text}", what="device")
        if text:
            digest = hashlib.sha256(b"edge-runtime device id\0" + text.encode()).hexdigest()
            return check_id(f"board-{digest[:16]}", what="device")
    raise ConfigError(
        "this board has neither a serial number nor a machine id; set id under [device] in the "
        "provisioning file"
    )


def _path(kind: type, value: object) -> Path:
    if kind is not Path or not isinstance(value, str) or not value:
        raise ValueError(f"expected a path, got {value!r}")
    return Path(value)
