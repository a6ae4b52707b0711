"""The doctor's checks of a device, each with something that is really wrong."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_runtime.device import load_config
from edge_runtime.device.clock import MINIMUM_TIME_FILE
from edge_runtime.device.doctor import Finding, examine
from edge_runtime.fleet.broker import Broker, find_broker, free_port

OF_A_DEVICE = {
    "state directory",
    "disk",
    "memory",
    "temperature",
    "minimum time",
    "source",
    "certificates",
    "broker reached",
    "broker login",
}


def found(device: Any) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(device.config())}


def doctor(device: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = "import sys; from edge_runtime.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, "doctor", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_sound_device_is_found_sound_and_left_alone(device: Any, shared_broker: Broker) -> None:
    device.port = shared_broker.port
    done = doctor(device, "--config", str(device.write_config()), "--json")
    assert done.returncode == 0, done.stdout
    rows = {row["check"]: row for row in json.loads(done.stdout)}
    assert set(rows) >= OF_A_DEVICE | {"kernel", "clock"}
    assert not any(row["problem"] or row["fix"] for row in rows.values())
    assert "not made yet" in rows["state directory"]["found"]
    assert not device.state_dir.exists()


def test_exit_codes_are_those_documented(device: Any) -> None:
    device.port = free_port()
    done = doctor(device, "--config", str(device.write_config()))
    assert done.returncode == 1
    assert "PROBLEM broker reached" in done.stdout
    assert "fix: start the broker, or correct broker.port" in done.stdout
    device.extra = "[limits]\nnothing = 1\n"
    assert doctor(device, "--config", str(device.write_config())).returncode == 2
    assert doctor(device, "--config", str(device.directory / "none.toml")).returncode == 2
    assert doctor(device, "--unheard-of").returncode == 2


def test_a_running_agent_is_not_disturbed(device: Any, stand_in: Any, kit: SimpleNamespace) -> None:
    device.start()
    stand_in.wait_state("waiting")
    assert not any(finding.problem for finding in examine(device.config()))
    # It still answers on the connection it had: nobody was told that it is gone.
    plan = stand_in.publish_plan(kit.census_plan(kit.make_schema()))
    stand_in.wait_state("waiting", plan=plan)
    assert "offline" not in {state.status for _, state in stand_in.states}
    assert "was lost" not in device.log.read_text()


def test_what_is_wrong_with_the_board_is_named(device: Any) -> None:
    device.source.unlink()
    device.state_dir.write_text("a file in its place")
    device.extra = f"[limits]\nfree_disk_bytes = {1 << 60}\nfree_memory_bytes = {1 << 60}\n"
    rows = found(device)
    assert "is a file" in rows["state directory"].problem
    assert "cannot be read" in rows["source"].problem
    assert "No such file" in rows["source"].problem
    for check in ("disk", "memory"):
        assert "the agent pauses" in rows[check].problem
        assert re.fullmatch(r"\d*0 MB free", rows[check].found)
    assert all(finding.fix for finding in rows.values() if finding.problem)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_of_somebody_else_is_named(device: Any) -> None:
    device.state_dir.mkdir(mode=0o500)
    assert "cannot be written to" in found(device)["state directory"].problem


def test_a_clock_behind_what_was_known_is_named(device: Any) -> None:
    device.state_dir.mkdir()
    (device.state_dir / MINIMUM_TIME_FILE).write_text("2500000000\n")
    rows = found(device)
    assert "the clock is behind it" in rows["minimum time"].problem
    assert "2049-03-22" in rows["minimum time"].found


@contextlib.contextmanager
def listener(answer: bytes | None) -> Iterator[int]:
    """A port where something else than a broker listens: silent, or quick to hang up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    held.append(connection)
                    if answer is not None:
                        connection.recv(100)
                        connection.sendall(answer)
                        connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


def with_host(device: Any, host: str) -> dict[str, Finding]:
    path = device.write_config()
    path.write_text(path.read_text().replace("[broker]", f'[broker]\nhost = "{host}"'))
    return {finding.check: finding for finding in examine(load_config(path))}


def test_each_step_to_the_broker_is_told_apart(device: Any) -> None:
    rows = with_host(device, "no-such-host.invalid")
    assert "the name no-such-host.invalid is not known" in rows["broker reached"].problem
    assert "broker login" not in rows
    device.port = free_port()
    assert "refused" in found(device)["broker reached"].problem
    with listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as device.port:
        rows = found(device)
        assert not rows["broker reached"].problem
        assert "ends the connection" in rows["broker login"].problem
    with listener(None) as device.port:
        assert "no MQTT broker answers" in found(device)["broker login"].problem


@pytest.fixture
def strict_broker(tmp_path: Path) -> Iterator[int]:
    """A Mosquitto that knows one user."""
    program = find_broker("mosquitto")
    passwords = tmp_path / "passwords"
    if program is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)("mosquitto is not installed")
    subprocess.run(
        ["mosquitto_passwd", "-c", "-b", str(passwords), "board", "right"], check=True, timeout=30
    )
    port = free_port()
    settings = tmp_path / "strict.conf"
    # As root it would drop its rights before it reads the passwords.
    settings.write_text(
        f"user {getpass.getuser()}\nlistener {port} 127.0.0.1\nallow_anonymous false\n"
        f"password_file {passwords}\n"
    )
    with subprocess.Popen(
        [str(program), "-c", str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        yield port
        process.terminate()


def test_wrong_credentials_are_told_from_right_ones(
    device: Any, strict_broker: int, kit: SimpleNamespace
) -> None:
    device.port = strict_broker

    def listening() -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", strict_broker), timeout=1).close()
            return True
        return False

    kit.wait_for("the broker", listening)
    secret = device.directory / "secret"

    def login(password: str) -> Finding:
        secret.write_text(f"{password}\n")
        path = device.write_config()
        text = path.read_text().replace(
            "[broker]", f'[broker]\nusername = "board"\npassword_file = "{secret}"'
        )
        path.write_text(text)
        (row,) = [f for f in examine(load_config(path)) if f.check == "broker login"]
        return row

    refused = login("wrong")
    assert "this device is refused: Not authorized" in refused.problem
    assert "wrong" not in str(refused)
    assert not login("right").problem
    secret.unlink()
    device.extra = ""
    path = device.directory / "device.toml"
    (row,) = [f for f in examine(load_config(path)) if f.check == "broker login"]
    assert "password_file" in row.problem
