"""A board becomes a device of a fleet: from a provisioning file to key, certificate, device.toml.

Every step is durable before the next begins and does nothing when it is done already, so that
after a power cut at any moment the next boot carries on. The token is wiped last. The same key
asks again after a lost answer, and the authority answers the same token and key the same way.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import queue
import time
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from edge_runtime.device.config import load_config
from edge_runtime.device.files import as_owner_of, write_durably
from edge_runtime.device.identity import IdentityDir
from edge_runtime.device.keys import certificate_request, check_certificate, load_or_make_key
from edge_runtime.device.provisioning import Provision, load_provision, wipe_token
from edge_runtime.device.toml import toml_text
from edge_runtime.errors import ConfigError, EnrolmentError, LinkError, MessageError
from edge_runtime.messages import Link, TlsFiles, new_id
from edge_runtime.messages.enrolment import (
    EnrolmentReply,
    EnrolmentRequest,
    broker_password,
    decode_reply,
    encode_sealed,
    is_sealed,
    reply_topic,
    request_topic,
)
from edge_runtime.process.directories import make_directory
from edge_runtime.process.toml_file import read_toml

__all__ = ["Enrolled", "enrol"]

_LOG = logging.getLogger(__name__)
# The authority answers within milliseconds; what is not answered by then was lost.
_ASK_AGAIN_S = 5.0
_KEPT_OF_BROKER = ("keepalive_s", "ack_timeout_s")
# Certificates are valid from a day before they were made.
_CLOCK_SLACK_S = 86_400


class Enrolled(NamedTuple):
    """What `enrol` has come to.

    Attributes
    ----------
    device, fleet : str
        Who the device is now.
    fresh : bool
        False: it was enrolled already, and nothing was done.
    """

    device: str
    fleet: str
    fresh: bool


def enrol(*, source: Path, state_dir: Path, config: Path, timeout_s: float = 300.0) -> Enrolled:
    """Enrol this board, or carry on where an earlier attempt was cut off.

    Parameters
    ----------
    source : Path
        The provisioning file; its token is wiped at the end.
    state_dir : Path
        The device's state directory, made when missing; the identity goes into ``identity``.
        Run by root, everything in it is done with the rights of its owner.
    config : Path
        device.toml, written from the provisioning file and, for sections that it lacks, from
        the device.toml that is there; that one is kept as ``device.toml.before-enrolment``.
    timeout_s : float
        How long to wait for the network, the broker and the authority.

    Raises
    ------
    ConfigError
        The provisioning file, or the device.toml that would come of it, has a mistake. Nothing
        was asked of the fleet then, and the token is still good.
    LinkError
        The broker cannot be reached or refuses the token; the reason names a clock that is wrong.
    EnrolmentError
        The authority refuses, does not answer, or answers with a wrong certificate.
    """
    provision = load_provision(source)
    state_dir = state_dir.absolute()
    try:
        make_directory(state_dir, mode=0o700)
        make_directory(config.absolute().parent)
        # Root wipes boot partitions; the agent, which may have been taken over, has a user of its
        # own and can make anything in its directory a link to what only root may touch.
        with as_owner_of(state_dir):
            lock = (state_dir / "enrolment.lock").open("wb")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _enrol(provision, IdentityDir(state_dir), state_dir, config, timeout_s)
    except OSError as error:
        way_out = (
            f"enrol as the user who may, usually root, and let the owner of {state_dir} get there"
            if isinstance(error, PermissionError)
            else "look for a full or read-only file system; after that the same call carries on"
        )
        raise EnrolmentError(
            f"{error.filename or state_dir} cannot be written ({error.strerror}); {way_out}"
        ) from error


def _enrol(
    provision: Provision, identity: IdentityDir, state_dir: Path, config: Path, timeout_s: float
) -> Enrolled:
    token = provision.token
    with as_owner_of(state_dir):
        enrolled = identity.belongs_to(token.id)
    done = Enrolled(provision.device, provision.fleet.name, True)
    if token.wiped:
        if enrolled:
            return done._replace(fresh=False)
        raise EnrolmentError(
            f"the token in {provision.path} was used, and not for the identity in "
            f"{identity.path}; make a new file with edge-runtime fleet token"
        )
    # Before anything is asked for: a mistake in it must not cost the token.
    settings = _settings(provision, identity, state_dir, config)
    if not enrolled:
        with as_owner_of(state_dir):
            identity.prepare(
                token=token.id,
                ca=provision.fleet.ca.strip() + "\n",
                root=provision.fleet.root.strip(),
            )
            key = load_or_make_key(identity.new_key)
            obtained = identity.has_new_certificate
        if not obtained:
            reply = _obtain(provision, key, identity.new_ca, timeout_s)
            with as_owner_of(state_dir):
                identity.complete(
                    certificate=reply.certificate, minimum_time_unix_s=reply.time_unix_s
                )
        with as_owner_of(state_dir):
            identity.put_in_force()
    _install(settings, config)
    wipe_token(provision)
    return done


def _obtain(
    provision: Provision, key: EllipticCurvePrivateKey, ca: Path, timeout_s: float
) -> EnrolmentReply:
    request = EnrolmentRequest(
        token=provision.token.id,
        fleet=provision.fleet.name,
        device=provision.device,
        request=certificate_request(key, provision.device),
        nonce=new_id(),
    )
    reply = _ask(provision, request, ca, timeout_s)
    if reply.status == "refused":
        raise EnrolmentError(
            f"the fleet's authority refuses device {request.device!r}: {reply.reason}"
        )
    check_certificate(reply.certificate, ca=provision.fleet.ca, key=key, device=provision.device)
    behind_s = reply.time_unix_s - time.time()
    if abs(behind_s) > _CLOCK_SLACK_S:
        _LOG.warning(
            "this machine's clock is %.1f days %s the fleet's; set it, or have it set by the "
            "network",
            abs(behind_s) / 86_400,
            "behind" if behind_s > 0 else "ahead of",
        )
    return reply


def _ask(
    provision: Provision, request: EnrolmentRequest, ca: Path, timeout_s: float
) -> EnrolmentReply:
    """Ask until there is an answer that knows the token's secret."""
    fleet, token = provision.fleet, provision.token
    # None: connected, so ask now.
    events: queue.Queue[bytes | None] = queue.Queue(16)

    def note(event: bytes | None) -> None:
        with contextlib.suppress(queue.Full):
            events.put_nowait(event)

    link = Link(
        host=fleet.host, port=fleet.enrol_port, client_id=token.id, username=token.id,
        password=broker_password(token.key), tls=TlsFiles(ca=ca),
        topics=[reply_topic(fleet.name, token.id)], retry_max_s=10.0,
        on_message=lambda _topic, payload, _retained: note(payload),
        on_connect=lambda: note(None),
    )  # fmt: skip
    payload = encode_sealed(request, token.key)
    deadline = time.monotonic() + timeout_s
    heard_broker = False
    with link:
        while (left_s := deadline - time.monotonic()) > 0:
            if link.connected.is_set():
                heard_broker = True
                link.publish(request_topic(fleet.name, token.id), payload)
            try:
                event = events.get(timeout=min(_ASK_AGAIN_S, left_s))
            except queue.Empty:
                continue
            if event is None:
                continue
            try:
                reply = decode_reply(event)
            except MessageError as error:
                _LOG.warning("an answer cannot be read: %s", error.public)
                continue
            if reply.nonce == request.nonce and is_sealed(reply, token.key):
                return reply
            _LOG.warning("an answer was ignored: not made with this token, or for this request")
        problem = link.problem
    if heard_broker:
        raise EnrolmentError(
            f"nobody answers at {fleet.host}:{fleet.enrol_port} within {timeout_s:g} s; the "
            "fleet's operator must run: edge-runtime fleet serve"
        )
    raise LinkError(problem + _hint(provision, problem))


def _hint(provision: Provision, problem: str) -> str:
    if "refuses client" in problem:
        return "; the token has expired or is unknown there: make one with edge-runtime fleet token"
    if time.time() < provision.fleet.issued_unix_s - _CLOCK_SLACK_S:
        return (
            "; this machine's clock is wrong: it says "
            f"{time.strftime('%Y-%m-%d', time.gmtime())}, before the provisioning file was made"
        )
    return ""


def _settings(provision: Provision, identity: IdentityDir, state_dir: Path, config: Path) -> str:
    """Return the text of the new device.toml, checked."""
    try:
        old = read_toml(config)
    except FileNotFoundError:
        old = {}
    except ConfigError as error:
        raise ConfigError(f"{error}; remove or correct it") from error
    tls = identity.tls
    fleet = provision.fleet
    own = {
        "device": {
            **old.get("device", {}),
            "id": provision.device, "fleet": fleet.name, "state_dir": str(state_dir),
        },
        "broker": {
            # A certificate takes the place of a user name and its password.
            **{k: v for k, v in old.get("broker", {}).items() if k in _KEPT_OF_BROKER},
            "host": fleet.host, "port": fleet.port,
            "tls": {"ca": str(tls.ca), "certificate": str(tls.certificate), "key": str(tls.key)},
        },
    }  # fmt: skip
    if fleet.root:
        own["updates"] = {"root": str(identity.root)}
    # Of another fleet, perhaps: what it trusted is not to be trusted by this one.
    kept = {name: values for name, values in old.items() if name not in (*own, "updates")}
    text = "# written at enrolment; change what you like\n\n" + toml_text(
        {**own, **kept, **provision.settings}
    )
    trial = config.with_name(f".{config.name}.trial")
    write_durably(trial, text, like=config)
    try:
        load_config(trial)
    except ConfigError as error:
        raise ConfigError(
            f"{config} cannot be made from {provision.path}: "
            f"{str(error).removeprefix(f'{trial}: ')}"
        ) from error
    finally:
        trial.unlink()
    return text


def _install(text: str, config: Path) -> None:
    if config.exists():
        old = config.read_text(encoding="utf-8")
        if old == text:
            return
        write_durably(config.with_name(f"{config.name}.before-enrolment"), old, like=config)
    write_durably(config, text, like=config)
