"""`edge-runtime fleet`: who belongs to a fleet, and what its broker lets them do."""

# ruff: noqa: PLC0415 - a verb imports what it needs only, so that --help stays fast

from __future__ import annotations

import logging
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_runtime.cli.console import facts, notes, print_json, say, table
from edge_runtime.cli.options import FILE, existing, json_option

if TYPE_CHECKING:
    from edge_runtime.fleet.fleet_dir import FleetDir
    from edge_runtime.fleet.register import CertificateEntry, TokenEntry

__all__ = ["fleet"]

_DIRECTORY = existing(directory=True)
_PORT = click.IntRange(1, 65535)
_ROTATED = ["broker", "aggregator", "enrolment", "updates", "root"]


@click.group(
    epilog="\b\nExample:\n  edge-runtime fleet init clinics --fleet clinics --broker mq.example"
)
def fleet() -> None:
    """Make a fleet, let devices into it, and shut them out.

    A fleet is a directory: certificate authority, register, and the files of broker and
    aggregator. docs/fleet.md goes through it step by step.
    """


@fleet.command(
    short_help="Make a fleet: authority, certificates, broker configuration.",
    epilog="\b\nExample:\n  edge-runtime fleet init clinics --fleet clinics --broker mq.example",
)
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--fleet", "name", required=True, help="Name of the fleet, a level of its topics.")
@click.option("--broker", "host", required=True, help="The broker's host name or address.")
@click.option("--port", type=_PORT, default=8883, show_default=True, help="For certificates.")
@click.option("--enrol-port", type=_PORT, default=8884, show_default=True, help="For tokens.")
@click.option("--also", multiple=True, metavar="HOST", help="The broker's other names.")
@click.option("--ca-key", type=FILE, help="Where the authority's key goes, if not into DIRECTORY.")
@click.option("--broker-user", help="Whom Mosquitto runs as when root starts it; you by default.")
def init(
    *,
    directory: Path,
    name: str,
    host: str,
    port: int,
    enrol_port: int,
    also: tuple[str, ...],
    ca_key: Path | None,
    broker_user: str | None,
) -> None:
    """Make a fleet in DIRECTORY: authority, certificates, broker configuration."""
    from edge_runtime.fleet.fleet_dir import init_fleet
    from edge_runtime.messages import check_id

    check_id(name, what="fleet")
    made = init_fleet(
        directory, name=name, host=host, port=port, enrol_port=enrol_port, also=also,
        authority_key=ca_key, broker_user=broker_user,
    )  # fmt: skip
    facts(
        {
            "authority": str(made.path / "ca.pem"),
            "its key": f"{made.authority_key}  (can make any device: keep it safe)",
            "update keys": f"{made.root_key}  (names the others: keep it safe)",
            "broker": f"mosquitto -c {made.access.configuration}",
            "aggregator": f"edge-runtime aggregator run --config {made.path / 'aggregator.toml'}",
            "enrolment": f"edge-runtime fleet serve {directory}",
            "devices get": str(made.path / "device-settings.toml"),
            "then": f"edge-runtime fleet token {directory} --device ID > edge-runtime.toml",
        }
    )


@fleet.command(
    short_help="Make a token: a provisioning file for one board.",
    epilog="\b\nExample:\n  edge-runtime fleet token clinics --device ward-7 > edge-runtime.toml",
)
@click.argument("directory", type=_DIRECTORY)
@click.option("--device", default="", help="Its id; without it, any board that is not enrolled.")
@click.option(
    "--settings", type=existing(),
    help="Sections of device.toml to put in; device-settings.toml of the fleet by default.",
)  # fmt: skip
@click.option(
    "--days", type=click.FloatRange(min=0, max=3650, min_open=True), default=14.0,
    show_default=True, help="How long it is good.",
)  # fmt: skip
@click.option("--host", help="Where this board reaches the broker, if not under its usual name.")
def token(
    *, directory: Path, device: str, settings: Path | None, days: float, host: str | None
) -> None:
    """Write a provisioning file with a one-time token to standard output."""
    from edge_runtime.fleet.fleet_dir import FleetDir
    from edge_runtime.fleet.tokens import make_provision

    opened = FleetDir(directory)
    with opened.register() as register:
        text = make_provision(
            opened, register, device=device, settings=settings, days=days, host=host
        )
        opened.write_access(register)
    click.echo(text, nl=False)
    _reload(opened)


@fleet.command(
    short_help="Sign a certificate by hand, for a request in a file.",
    epilog="\b\nExample:\n  edge-runtime fleet enrol clinics ward-7 --request 7.csr --out 7.pem",
)
@click.argument("directory", type=_DIRECTORY)
@click.argument("device")
@click.option("--request", type=existing(), required=True, help="PKCS #10, PEM, an EC P-256 key.")
@click.option("--out", type=FILE, required=True, help="Where the certificate goes.")
def enrol(*, directory: Path, device: str, request: Path, out: Path) -> None:
    """Sign a certificate for DEVICE without a token, for boards that enrolment cannot reach."""
    from edge_runtime.fleet.fleet_dir import FleetDir
    from edge_runtime.fleet.issuing import Issuer

    opened = FleetDir(directory)
    with opened.register() as register:
        issuer = Issuer(fleet=opened, authority=opened.authority(), register=register)
        out.write_text(issuer.issue(device, request.read_text(encoding="ascii", errors="replace")))
    _reload(opened)


@fleet.command(name="list", epilog="\b\nExample:\n  edge-runtime fleet list clinics")
@click.argument("directory", type=_DIRECTORY)
@json_option
def list_members(*, directory: Path, as_json: bool) -> None:
    """Show all certificates, and tokens that were not used."""
    from edge_runtime.fleet.fleet_dir import FleetDir

    with FleetDir(directory).register() as register:
        certificates = register.certificates()
        tokens = [entry for entry in register.tokens() if not entry.certificate]
    if as_json:
        print_json(
            {
                "certificates": [
                    {**entry._asdict(), "state": entry.state} for entry in certificates
                ],
                "tokens": [
                    {"id": entry.id, "device": entry.device, "created_s": entry.created_s,
                     "expires_s": entry.expires_s, "state": entry.state}
                    for entry in tokens
                ],
            }
        )  # fmt: skip
        return
    table(
        ("name", "state", "issued", "expires", "serial"),
        [_certificate_row(entry) for entry in certificates],
    )
    if tokens:
        say("")
        table(("token for", "state", "made", "expires", "id"), [_token_row(t) for t in tokens])


@fleet.command(epilog="\b\nExample:\n  edge-runtime fleet revoke clinics ward-7")
@click.argument("directory", type=_DIRECTORY)
@click.argument("name")
def revoke(*, directory: Path, name: str) -> None:
    """Revoke all certificates and tokens of the device NAME.

    The broker refuses them from its next reload on, and delivers nothing to or from a connection
    that is open. The aggregator drops what is sealed with them, whatever the broker delivers, from
    when it has the new aggregator/crl.pem. A new token for the same name lets it in again.
    """
    from edge_runtime.errors import FleetError
    from edge_runtime.fleet.fleet_dir import SERVICES, FleetDir

    if name in SERVICES:
        raise FleetError(f"{name} is a service: edge-runtime fleet rotate {directory} {name}")
    opened = FleetDir(directory)
    # Without the key no list can be signed: say so before anything is changed.
    authority = opened.authority()
    with opened.register() as register:
        changed = register.revoke(name)
        if not changed and not register.certificates(name):
            raise FleetError(f"nobody is called {name!r}; see: edge-runtime fleet list {directory}")
        opened.write_revocations(register, authority)
        opened.write_access(register)
    say(f"revoked: {name}, {changed} certificates and tokens")
    say(_list_to_copy(opened))
    _reload(opened)


@fleet.command(
    short_help="Give broker, aggregator, enrolment service or updates new keys.",
    epilog="\b\nExample:\n  edge-runtime fleet rotate clinics aggregator",
)
@click.argument("directory", type=_DIRECTORY)
@click.argument("service", type=click.Choice(_ROTATED))
def rotate(*, directory: Path, service: str) -> None:
    """Give SERVICE a new key and certificate, and revoke its old ones.

    Copy them to where the service runs; it takes them up by itself. A device gets a new key by
    enrolling again with a new token.

    `updates` are the keys that schema, plans and bundles are signed with: the root's key, which
    may live offline, names new ones. `root` replaces that key as well. Copy aggregator/updates to
    the aggregator, which takes them up within seconds; devices follow by themselves.
    """
    from edge_runtime.fleet.fleet_dir import FleetDir

    opened = FleetDir(directory)
    if service in ("updates", "root"):
        opened.rotate_updates(root_too=service == "root")
        say(f"new keys in {opened.online}; the aggregator's machine needs them")
        return
    opened.rotate(service)
    if service == "aggregator":
        say(
            f"new key and certificate in {opened.path / service}; if it runs elsewhere, "
            "copy all of it there: devices send nothing to the old one once they hear of this"
        )
    elif service == "enrolment":
        say(_list_to_copy(opened))
    _reload(opened)


@fleet.command(
    short_help="Answer boards that have a token.",
    epilog="\b\nExample:\n  edge-runtime fleet serve clinics",
)
@click.argument("directory", type=_DIRECTORY)
@click.option("--host", help="Where this machine reaches the broker, if not under its usual name.")
def serve(*, directory: Path, host: str | None) -> None:
    """Answer boards that have a token with certificates, until stopped (Ctrl-C, SIGTERM).

    Needs the authority's key. Boards ask again and again, so that it may run for as long as new
    boards are being set up and be off otherwise.
    """
    from edge_runtime.fleet.issuing import serve as run

    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run(directory, stop=stop, host=host)


def _list_to_copy(opened: FleetDir) -> str:
    return (
        f"the aggregator reads {opened.revoked} within seconds; if it runs elsewhere, copy it there"
    )


def _reload(opened: FleetDir) -> None:
    if not opened.access.reload():
        notes(
            [
                f"no broker runs from {opened.access.directory} on this machine; where it does, "
                "copy this directory there and reload it (SIGHUP)"
            ]
        )


def _certificate_row(entry: CertificateEntry) -> tuple[str, ...]:
    name = f"({entry.name})" if entry.service else entry.name
    return (name, entry.state, _day(entry.issued_s), _day(entry.expires_s), entry.serial)


def _token_row(entry: TokenEntry) -> tuple[str, ...]:
    dates = (_day(entry.created_s), _day(entry.expires_s))
    return (entry.device or "any board", entry.state, *dates, entry.id)


def _day(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d")
