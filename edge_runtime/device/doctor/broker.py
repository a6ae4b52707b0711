"""Whether the broker can be reached and lets this device in, and which step fails."""

from __future__ import annotations

import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_runtime.device.doctor.finding import Finding
from edge_runtime.errors import ConfigError
from edge_runtime.process.tls import TlsFiles, refusal_reason

if TYPE_CHECKING:
    # At run time it would bring the kernel, and one that fails is a finding.
    from edge_runtime.device.config import DeviceConfig

__all__ = ["CHECKS", "reach"]

#: for the connection, and again for the broker's answer
_TIMEOUT_S = 5.0
_POLL_S = 0.1
#: a refusal arrives one round trip after the handshake
_REFUSAL_S = 2.0
_REFUSED = "the broker ends the connection; most likely it refuses this device's certificate"
_ENROL = "look whether it was revoked or is of another fleet; then enrol the device again"


def _broker(config: DeviceConfig) -> Iterator[Finding]:
    host, port = config.broker.host, config.broker.port
    place = f"{host}:{port}"
    problem, fix = reach(host, port)
    yield Finding(check="broker reached", found=place, problem=problem, fix=fix)
    tls = config.broker.tls
    if not problem and tls is not None and tls.certificate is not None:
        # A broker that takes client ids from certificates would end the running agent's connection
        # for a login, and the agent would come back and end this one.
        problem, fix = _shake_hands(config, tls)
        yield Finding(
            check="broker certificate",
            found=f"TLS at {place}, with this device's certificate; not logged in",
            problem=problem,
            fix=fix,
        )
    elif not problem:
        problem, fix = _log_in(config)
        user = config.broker.username or "no user name"
        yield Finding(
            check="broker login", found=f"MQTT at {place}, {user}", problem=problem, fix=fix
        )


def reach(host: str, port: int) -> tuple[str, str]:
    """Open a TCP connection; return problem and fix, empty when it can be done."""
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return (
            f"the name {host} is not known ({error.strerror})",
            "correct broker.host, or the name server",
        )
    try:
        socket.create_connection((host, port), timeout=_TIMEOUT_S).close()
    except TimeoutError:
        return (
            f"no answer within {_TIMEOUT_S:g} s",
            "a firewall or a network that is down: look between here and the broker",
        )
    except ConnectionRefusedError:
        return ("connections are refused", "start the broker, or correct broker.port")
    except OSError as error:
        return (f"cannot be reached ({error.strerror})", "look at the network and its routes")
    return "", ""


def _shake_hands(config: DeviceConfig, tls: TlsFiles) -> tuple[str, str]:
    """Show each other the certificates and leave; return problem and fix."""
    broker = config.broker
    try:
        context = tls.context()
        with (
            socket.create_connection((broker.host, broker.port), timeout=_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=broker.host) as secured,
        ):
            # Under TLS 1.3 a refused certificate shows only after the handshake. A broker that has
            # accepted it says nothing: it waits for a login.
            secured.settimeout(_REFUSAL_S)
            if secured.recv(1):
                return "what listens there is no MQTT broker", "correct broker.port"
    except TimeoutError:
        return "", ""
    except ssl.SSLCertVerificationError as error:
        return _explain(error)
    except ssl.SSLError as error:
        reason = refusal_reason(str(error))
        return (reason, _ENROL) if reason else _explain(error)
    except (ConfigError, OSError, ValueError) as error:
        return _explain(error)
    return _REFUSED, _ENROL


def _log_in(config: DeviceConfig) -> tuple[str, str]:
    """Log in to MQTT and leave at once; return problem and fix."""
    broker = config.broker
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        # Its own: a broker ends the older of two connections with one client id.
        client_id=f"doctor-{secrets.token_hex(8)}",
        protocol=mqtt.MQTTv311,
        reconnect_on_failure=False,
    )
    client.connect_timeout = _TIMEOUT_S
    answers: list[ReasonCode] = []

    def on_connect(
        _client: mqtt.Client,
        _userdata: object,
        _flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        answers.append(reason)

    client.on_connect = on_connect
    tls = broker.tls
    try:
        if broker.username:
            client.username_pw_set(broker.username, broker.password())
        if tls is not None:
            client.tls_set_context(tls.context())
        client.connect(broker.host, broker.port)
    except (ConfigError, OSError, ValueError) as error:
        return _explain(error)
    ends_s = time.monotonic() + _TIMEOUT_S
    ended = False
    while not answers and not ended and time.monotonic() < ends_s:
        ended = client.loop(_POLL_S) != mqtt.MQTT_ERR_SUCCESS
    client.disconnect()
    if answers:
        return _judge(answers[0])
    if ended and tls is not None:
        # Under TLS 1.3 a refused certificate shows only after the handshake.
        return _REFUSED, _ENROL
    if ended:
        return (
            "the broker ends the connection without a word",
            "look at broker.port: one for TLS needs [broker.tls]",
        )
    return "no MQTT broker answers there", "correct broker.host and broker.port"


def _explain(error: Exception) -> tuple[str, str]:
    if isinstance(error, ConfigError):
        return str(error), "mend the file that is named"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the broker's certificate is not trusted: {error.verify_message}",
            "broker.host must be a name in it, broker.tls.ca its authority, and the clock right",
        )
    words = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return f"the connection ended ({words})", "look whether broker.port is one for TLS"


def _judge(answer: ReasonCode) -> tuple[str, str]:
    if not answer.is_failure:
        return "", ""
    return (
        f"this device is refused: {answer}",
        "correct broker.username and the file's password, or the broker's access rules",
    )


CHECKS: tuple[Callable[[DeviceConfig], Iterator[Finding]], ...] = (_broker,)
