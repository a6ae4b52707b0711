"""Tokens, and the provisioning files that carry them to boards."""

from __future__ import annotations

import base64
import math
import time
from pathlib import Path

from edge_runtime.device.provisioning import SETTINGS, parse_provision
from edge_runtime.device.toml import toml_value
from edge_runtime.errors import ConfigError, EnrolmentError
from edge_runtime.fleet.fleet_dir import SERVICES, FleetDir
from edge_runtime.fleet.register import Register
from edge_runtime.messages import check_id, new_id

__all__ = ["make_provision"]

_FILE = """\
# For one board: put this on its boot partition as edge-runtime.toml, or have cloud-init write it
# to /etc/edge-runtime/provision.toml. Whoever has it before the board may enrol in its place.
{device}
[fleet]
name = {name}
host = {host}
port = {port}
enrol_port = {enrol_port}
issued_unix_s = {issued}
ca = '''
{ca}'''{root}

# Good for one certificate until {until}; the secret is overwritten once it was used.
[token]
id = {token}
secret = {secret}

{settings}"""


def make_provision(
    fleet: FleetDir,
    register: Register,
    *,
    device: str = "",
    settings: Path | None = None,
    days: float = 14.0,
    host: str | None = None,
) -> str:
    """Make a token and return the text of a provisioning file with it.

    Parameters
    ----------
    fleet : FleetDir
        The fleet.
    register : Register
        Its register.
    device : str
        The device that may use the token; empty: any that is not enrolled yet, under the id
        that it derives from its serial number.
    settings : Path, optional
        Sections of device.toml to put in, ``device-settings.toml`` of the fleet by default.
    days : float
        How long the token is good.
    host : str, optional
        Where this device reaches the broker, when not under the fleet's own name for it.

    Raises
    ------
    ConfigError
        The settings have a mistake; no token was made.
    EnrolmentError, RangeError
        The name is none for a device.
    """
    if device:
        check_id(device, what="device")
    if not math.isfinite(days):
        raise ConfigError(f"a token cannot be good for {days} days")
    if device in SERVICES:
        raise EnrolmentError(f"{device!r} is a service of the fleet; choose another device id")
    source = fleet.path / "device-settings.toml" if settings is None else settings
    try:
        sections = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: cannot be read ({error})") from error
    now = time.time()
    token, expires_s = new_id(), int(now + days * 86_400)
    text = _FILE.format(
        device=f"\n[device]\nid = {toml_value(device)}\n" if device else "",
        name=toml_value(fleet.name),
        host=toml_value(host or fleet.host),
        port=fleet.port,
        enrol_port=fleet.enrol_port,
        issued=int(now),
        ca=fleet.ca,
        root=f"\nroot = '''\n{root}'''" if (root := fleet.newest_root()) else "",
        until=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(expires_s)),
        token=toml_value(token),
        secret=toml_value(_text(fleet.token_secret(token, device))),
        settings=sections,
    )
    # As the device will read it: a mistake in the settings is the operator's to see, now.
    try:
        parse_provision(text, source)
    except ConfigError as error:
        raise ConfigError(f"{error} (sections allowed here: {', '.join(SETTINGS)})") from error
    register.add_token(token=token, device=device, expires_s=expires_s)
    return text


def _text(secret: bytes) -> str:
    return base64.urlsafe_b64encode(secret).decode().rstrip("=")
